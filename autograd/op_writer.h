// What the writer of an op with kernels of its own needs, beside Op, Grads and apply (autograd/tape.h), the checks and
// launch (core/dispatch.h) and parallel_for (core/parallel.h). Built-in ops use the same: examples/op_with_kernel.cpp.
#pragma once

#include <altgrad/autograd/tape.h>
#include <altgrad/core/dispatch.h>
#include <altgrad/core/parallel.h>

ALTGRAD_API_BEGIN
namespace altgrad {

/// Sums x over the axes along which broadcasting repeats a tensor of this shape to x's, as the gradient of an input
/// that broadcasts needs it. Gives x itself, or an alias, where nothing is repeated. Not differentiable. Throws
/// std::invalid_argument where the shape does not broadcast to x's.
Tensor reduce_to_shape(const Tensor& x, const Shape& shape);

namespace detail {
bool recall(Tensor& value);
void remember(const Tensor& value);
}  // namespace detail

/// Gives f(), or, where checkpoint() runs a function again, what f gave in the first run, without calling it. It is for
/// tensors that an op's forward makes from state that it changes, such as the scale that an amax history gives: both
/// runs must compute the same.
template <class F>
Tensor replayed(F&& f) {
  Tensor value;
  if (!detail::recall(value)) detail::remember(value = f());
  return value;
}

}  // namespace altgrad
ALTGRAD_API_END
