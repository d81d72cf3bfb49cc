// An MLP as one op, in which a GPU has less to read and to write than in three.
#include <altgrad/autograd/internal/mlp.h>

#include <altgrad/autograd/internal/common.h>
#include <altgrad/core/internal/functors.h>
#include <altgrad/core/internal/kernels/gemm.h>

namespace altgrad {
namespace {

// h (rows, n) = x w^T + b, a = gelu(h) in the form F, y (rows, m) = a v^T + c. h is kept where nothing is recorded, too:
// another epilogue could have other bits.
template <class F>
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
        kernels::linear_gelu(device, F{}, a.ptr<T>(), h.ptr<T>(), x.ptr<T>(), w.ptr<T>(),
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
    Tensor db;
    if (d.needs(2)) db = Tensor::empty({w.size(0)}, detail::in_compute_dtype(dh));
    dispatch_device(h.device(), [&]<class On>(const On& device) {
      if constexpr (std::is_same_v<On, Cuda>) {
        using T = bfloat16;
        kernels::linear_gelu_grad(device, F{}, dh.ptr<T>(), db.defined() ? db.ptr<float>() : nullptr,
                                  dy.ptr<T>(), v.ptr<T>(), h.ptr<T>(), rows(), v.size(1), v.size(0));
      }
    });
    d.accumulate(0, [&](const Tensor& dx, double beta) {
      launch(name, AG_KERNEL(kernels::gemm), dx, dh, w,
             kernels::Gemm{.m = rows(), .n = w.size(1), .k = w.size(0), .beta = beta});
    });
    d.accumulate(1, [&](const Tensor& dw, double beta) {
      launch(name, AG_KERNEL(kernels::gemm), in_compute(dw), dh, x,
             kernels::Gemm{.m = w.size(0), .n = w.size(1), .k = rows(), .trans_a = true, .beta = beta});
    });
    if (db.defined()) d.add(2, db);
  }

  int64_t rows() const { return x.shape().product(0, x.dim() - 1); }
};

}  // namespace

Tensor detail::mlp(const Tensor& x, const LinearParameters& fc, Gelu form, const LinearParameters& proj) {
  check_linear("linear", x, fc.weight, fc.bias);
  check_linear("linear", x, x.shape().with(-1, fc.weight.size(0)), proj.weight, proj.bias);
  if (x.dtype() == DType::bf16 && x.device().type == DeviceType::cuda) {
    const auto as = [&]<class F>(F) { return apply<Mlp<F>>(x, fc.weight, fc.bias, proj.weight, proj.bias); };
    return form == Gelu::erf ? as(GeluErf{}) : as(GeluTanh{});
  }
  return linear(gelu(linear(x, fc.weight, fc.bias), form), proj.weight, proj.bias);
}

}  // namespace altgrad
