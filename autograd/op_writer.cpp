// The checks and the reduction that op_writer.h declares.
#include <altgrad/autograd/op_writer.h>

#include <altgrad/core/internal/kernels/reduce.h>

namespace altgrad {

void check_same_kind(const char* op, const Tensor& a, const Tensor& b) {
  check_defined(op, a);
  check_defined(op, b);
  if (a.dtype() != b.dtype()) {
    fail(op, ": dtypes differ: ", a.dtype(), " ", a.shape(), " and ", b.dtype(), " ", b.shape());
  }
  if (a.device() != b.device()) {
    fail(op, ": devices differ: ", a.shape(), " on ", a.device(), " and ", b.shape(), " on ", b.device());
  }
}

Tensor reduce_to_shape(const Tensor& x, const Shape& shape, double divisor) {
  if (x.shape() == shape) return x;
  // One kernel for each run of neighbouring axes to be summed; axes of size 1 belong to any run.
  const int lead = x.dim() - shape.dim();
  const auto summed = [&](int axis) {
    return x.shape()[axis] != 1 && (axis < lead || shape[axis - lead] == 1);
  };
  Tensor y = x;
  int64_t outer = 1;
  for (int axis = 0; axis < x.dim();) {
    int end = axis;
    int64_t n = 1;
    for (; end < x.dim() && (summed(end) || x.shape()[end] == 1); ++end) n *= x.shape()[end];
    if (end == axis) {
      outer *= x.shape()[axis++];
      continue;
    }
    if (n != 1) {
      const int64_t inner = x.shape().product(end, x.dim());
      Tensor part = Tensor::empty({outer, inner}, x.options());
      launch("sum", AG_KERNEL(kernels::sum), part, y, outer, n, inner, std::exchange(divisor, 1));
      y = part;
    }
    axis = end;
  }
  return y.alias(shape);
}

}  // namespace altgrad
