// An MLP as one op, where its products have epilogues that do gelu's work.
#include <altgrad/autograd/internal/mlp.h>

#include <altgrad/autograd/internal/common.h>
#include <altgrad/core/internal/kernels/gemm.h>

namespace altgrad {
namespace {

template <class F>
void on_cuda(const Tensor& x, F f) {
  dispatch_device(x.device(), [&]<class On>(const On& device) {
    if constexpr (std::is_same_v<On, Cuda>) f(device);
  });
}
bfloat16* ptr(const Tensor& x) { return x.defined() ? x.ptr<bfloat16>() : nullptr; }
const float* ptr(const std::optional<Tensor>& bias) { return bias ? bias->ptr<float>() : nullptr; }

// With h (rows, n) = x w^T + b and a = gelu(h), in bf16: y (rows, m) = a v^T + c
struct Mlp final : Op {
  static constexpr const char* name = "mlp";
  Tensor x, w, h, a, v;

  Tensor forward(const Tensor& x_in, const Tensor& w_in, const std::optional<Tensor>& b, const Tensor& v_in,
                 const std::optional<Tensor>& c) {
    x = x_in, w = detail::as_dtype(w_in, x.dtype()), v = detail::as_dtype(v_in, x.dtype());
    const Tensor y = Tensor::empty(x.shape().with(-1, v.size(0)), x.options());
    a = Tensor::empty(x.shape().with(-1, w.size(0)), x.options());
    if (recorded) h = Tensor::empty(a.shape(), x.options());
    on_cuda(x, [&](const auto& device) {
      kernels::linear_gelu(device, ptr(a), ptr(h), ptr(x), ptr(w), ptr(b), rows(), w.size(0), w.size(1));
      kernels::linear(device, ptr(y), ptr(a), ptr(v), ptr(c), rows(), v.size(0), v.size(1));
    });
    return y;
  }

  // dv = dy^T a, dc = the column sums of dy, dh = (dy v) * gelu'(h), dw = dh^T x, db = the column sums of dh, dx = dh w
  void backward(const Tensor& dy, Grads& d) override {
    detail::add_linear_grads(name, d, 3, dy, a, v.size(0), v.size(1));
    if (!d.needs(0) && !d.needs(1) && !d.needs(2)) return;
    const Tensor dh = Tensor::empty(h.shape(), h.options());
    on_cuda(h, [&](const auto& device) {
      kernels::gelu_grad(device, ptr(dh), ptr(dy), ptr(v), ptr(h), rows(), v.size(1), v.size(0));
    });
    d.accumulate(0, [&](const Tensor& dx, double beta) {
      launch(name, AG_KERNEL(kernels::gemm), dx, dh, w,
             kernels::Gemm{.m = rows(), .n = w.size(1), .k = w.size(0), .beta = beta});
    });
    detail::add_linear_grads(name, d, 1, dh, x, w.size(0), w.size(1));
  }

  int64_t rows() const { return x.shape().product(0, x.dim() - 1); }
};

}  // namespace

Tensor detail::mlp(const Tensor& x, const LinearParameters& fc, Gelu form, const LinearParameters& proj) {
  constexpr int64_t unit = 8;  // of cuBLASLt's auxiliary matrices
  if (form == Gelu::tanh && x.defined() && x.dtype() == DType::bf16 && x.numel() > 0) {
    check_linear("linear", x, fc.weight, fc.bias);
    const int64_t n = fc.weight.size(0);
    if (n > 0 && n % unit == 0 && proj.weight.defined() && proj.weight.numel() > 0) {
      check_linear("linear", Tensor::empty(x.shape().with(-1, n), x.options()), proj.weight, proj.bias);
      return apply<Mlp>(x, fc.weight, fc.bias, proj.weight, proj.bias);
    }
  }
  return linear(gelu(linear(x, fc.weight, fc.bias), form), proj.weight, proj.bias);
}

}  // namespace altgrad
