// An MLP as one op, where products have epilogues that do gelu's work.
#include <altgrad/autograd/internal/mlp.h>

#include <altgrad/autograd/internal/common.h>
#include <altgrad/core/internal/kernels/gemm.h>

namespace altgrad {
namespace {

// h (rows, n) = x w^T + b, a = gelu(h), y (rows, m) = a v^T + c. h is kept where nothing is recorded, too: another epilogue
// could have other bits.
struct Mlp final : Op {
  static constexpr const char* name = "mlp";
  Tensor x, w, h, a, v;

  Tensor forward(const Tensor& x_in, const Tensor& w_in, const std::optional<Tensor>& b, const Tensor& v_in,
                 const std::optional<Tensor>& c) {
    x = x_in, w = detail::as_dtype(w_in, x.dtype()), v = detail::as_dtype(v_in, x.dtype());
    const Tensor y = Tensor::empty(x.shape().with(-1, v.size(0)), x.options());
    h = Tensor::empty(x.shape().with(-1, w.size(0)), x.options());
    a = Tensor::empty(h.shape(), h.options());
    dispatch_device(x.device(), [&]<class On>(const On& device) {
      if constexpr (std::is_same_v<On, Cuda>) {
        using T = bfloat16;
        kernels::linear_gelu(device, a.ptr<T>(), h.ptr<T>(), x.ptr<T>(), w.ptr<T>(),
                             b ? b->ptr<float>() : nullptr, rows(), w.size(0), w.size(1));
      }
    });
    launch(name, AG_KERNEL(kernels::linear), y, a, v, in_compute(c), rows(), v.size(0), v.size(1));
    return y;
  }

  // dv = dy^T a, dc = the column sums of dy, dh = (dy v) * gelu'(h), dw = dh^T x, db = the column sums of dh, dx = dh w
  void backward(const Tensor& dy, Grads& d) override {
    detail::add_linear_grads(name, d, 3, dy, a, v.size(0), v.size(1));
    if (!d.needs(0) && !d.needs(1) && !d.needs(2)) return;
    const Tensor dh = Tensor::empty(h.shape(), h.options());
    dispatch_device(h.device(), [&]<class On>(const On& device) {
      if constexpr (std::is_same_v<On, Cuda>) {
        using T = bfloat16;
        kernels::linear_gelu_grad(device, dh.ptr<T>(), dy.ptr<T>(), v.ptr<T>(), h.ptr<T>(), rows(), v.size(1),
                                  v.size(0));
      }
    });
    d.accumulate(0, [&](const Tensor& dx, double beta) {
      launch(name, AG_KERNEL(kernels::gemm), dx, dh, w,
             kernels::Gemm{.m = rows(), .n = w.size(1), .k = w.size(0), .beta = beta});
    });
    detail::add_linear_grads(name, d, 1, dh, x, w.size(0), w.size(1));
  }

  int64_t rows() const { return x.shape().product(0, x.dim() - 1); }
};

// Do both layers fit x and each other, and is there an epilogue for it? What does not fit is for others to refuse.
bool is_one_op(const Tensor& x, const detail::LinearParameters& fc, Gelu form,
               const detail::LinearParameters& proj) {
  const auto has_axes = [&](const Tensor& t, int64_t dim) {
    return t.defined() && t.dim() == dim && t.dtype() == DType::f32 && t.device() == x.device();
  };
  const auto fits = [&](const detail::LinearParameters& p, int64_t in) {
    return has_axes(p.weight, 2) && p.weight.size(1) == in &&
           (!p.bias || (has_axes(*p.bias, 1) && p.bias->size(0) == p.weight.size(0)));
  };
  if (form != Gelu::tanh || !x.defined() || x.dtype() != DType::bf16 || x.dim() == 0) return false;
  if (!fits(fc, x.size(-1)) || !fits(proj, fc.weight.size(0))) return false;
  return dispatch_device(x.device(), [&](const auto& device) {
    return kernels::has_linear_gelu(device, x.ptr<bfloat16>(), detail::rows_of(x), fc.weight.size(0),
                                    x.size(-1), proj.weight.size(0));
  });
}

}  // namespace

Tensor detail::mlp(const Tensor& x, const LinearParameters& fc, Gelu form, const LinearParameters& proj) {
  if (is_one_op(x, fc, form, proj)) return apply<Mlp>(x, fc.weight, fc.bias, proj.weight, proj.bias);
  return linear(gelu(linear(x, fc.weight, fc.bias), form), proj.weight, proj.bias);
}

}  // namespace altgrad
