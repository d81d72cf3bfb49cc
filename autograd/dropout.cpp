// Dropout, which stores no mask: both passes draw the same one.
#include <altgrad/autograd/op_writer.h>
#include <altgrad/autograd/ops.h>
#include <altgrad/core/internal/kernels/random.h>

namespace altgrad {
namespace {

struct DropoutOp final : Op {
  static constexpr const char* name = "dropout";
  double p;
  RandomStream random;  // draws the same mask again: none is stored

  Tensor forward(const Tensor& x, double p_in, RandomStream random_in) {
    p = p_in, random = random_in;
    return masked(x);
  }
  // dx = dy * mask / (1 - p)
  void backward(const Tensor& dy, Grads& d) override { d.add(0, masked(dy)); }

  Tensor masked(const Tensor& x) const {
    Tensor y = Tensor::empty(x.shape(), x.options());
    launch(name, AG_KERNEL(kernels::dropout), y, x, p, random, x.numel());
    return y;
  }
};

}  // namespace

Tensor dropout(const Tensor& x, double p, Generator& generator) {
  check_activation("dropout", x);
  if (!(p >= 0 && p < 1)) fail("dropout: p must be in [0, 1), got ", p, " for x ", x.shape());
  return apply<DropoutOp>(x, p, generator.next());
}

}  // namespace altgrad
