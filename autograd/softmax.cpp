// Softmax and its logarithm along an axis. Backward needs the result alone.
#include <altgrad/autograd/internal/common.h>
#include <altgrad/autograd/ops.h>
#include <altgrad/core/internal/kernels/rows.h>

namespace altgrad {
namespace {

template <bool is_log>
struct Softmax final : Op {
  static constexpr const char* name = is_log ? "log_softmax" : "softmax";
  Tensor y;

  Tensor forward(const Tensor& x) {
    y = Tensor::empty(x.shape(), x.options());
    run(AG_KERNEL(kernels::softmax), AG_KERNEL(kernels::log_softmax), y, x);
    return y;
  }
  // dx = y * (dy - sum(dy * y)); of the logarithm, dx = dy - exp(y) * sum(dy)
  void backward(const Tensor& dy, Grads& d) override {
    Tensor dx = Tensor::empty(y.shape(), y.options());
    run(AG_KERNEL(kernels::softmax_grad), AG_KERNEL(kernels::log_softmax_grad), dx, dy, y);
    d.add(0, dx);
  }

  // Calls the kernel of the two that this op needs.
  void run(auto plain, auto log, const auto&... tensors) const {
    const int64_t rows = detail::rows_of(y), n = y.size(-1);
    is_log ? launch(name, log, tensors..., rows, n) : launch(name, plain, tensors..., rows, n);
  }
};

// The op over any axis: moved to the end and back where it is not the last.
template <class O>
Tensor over_axis(const Tensor& x, int axis) {
  check_activation(O::name, x);
  axis = x.shape().wrap(axis, O::name);
  if (axis == x.dim() - 1) return apply<O>(x);
  return apply<O>(x.transpose(axis, -1)).transpose(axis, -1);
}

}  // namespace

Tensor softmax(const Tensor& x, int axis) { return over_axis<Softmax<false>>(x, axis); }
Tensor log_softmax(const Tensor& x, int axis) { return over_axis<Softmax<true>>(x, axis); }

}  // namespace altgrad
