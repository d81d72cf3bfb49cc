// Softmax and its logarithm along an axis. Backward needs the result alone.
#include <altgrad/autograd/internal/common.h>
#include <altgrad/autograd/ops.h>
#include <altgrad/core/internal/kernels/rows.h>

namespace altgrad {
namespace {

struct Softmax final : Op {
  static constexpr const char* name = "softmax";
  Tensor y;

  Tensor forward(const Tensor& x) {
    y = Tensor::empty(x.shape(), x.options());
    launch(name, AG_KERNEL(kernels::softmax), y, x, detail::rows_of(x), x.size(-1));
    return y;
  }
  // dx = y * (dy - sum(dy * y))
  void backward(const Tensor& dy, Grads& d) override {
    Tensor dx = Tensor::empty(y.shape(), y.options());
    launch(name, AG_KERNEL(kernels::softmax_grad), dx, dy, y, detail::rows_of(y), y.size(-1));
    d.add(0, dx);
  }
};

struct LogSoftmax final : Op {
  static constexpr const char* name = "log_softmax";
  Tensor y;

  Tensor forward(const Tensor& x) {
    y = Tensor::empty(x.shape(), x.options());
    launch(name, AG_KERNEL(kernels::log_softmax), y, x, detail::rows_of(x), x.size(-1));
    return y;
  }
  // dx = dy - exp(y) * sum(dy)
  void backward(const Tensor& dy, Grads& d) override {
    Tensor dx = Tensor::empty(y.shape(), y.options());
    launch(name, AG_KERNEL(kernels::log_softmax_grad), dx, dy, y, detail::rows_of(y), y.size(-1));
    d.add(0, dx);
  }
};

// The op over any axis: moved to the end and back where it is not the last.
template <class O>
Tensor over_axis(const Tensor& x, int axis) {
  check_floating(O::name, x);
  axis = x.shape().wrap(axis, O::name);
  if (axis == x.dim() - 1) return apply<O>(x);
  return apply<O>(x.transpose(axis, -1)).transpose(axis, -1);
}

}  // namespace

Tensor softmax(const Tensor& x, int axis) { return over_axis<Softmax>(x, axis); }
Tensor log_softmax(const Tensor& x, int axis) { return over_axis<LogSoftmax>(x, axis); }

}  // namespace altgrad
