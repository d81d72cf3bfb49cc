// What the writer of an op with kernels of its own needs, beside Op, Grads and apply (autograd/tape.h), checks and launch
// (core/dispatch.h) and parallel_for (core/parallel.h). examples/op_with_kernel.cpp shows it; built-in ops use the same.
#pragma once

#include <altgrad/autograd/tape.h>
#include <altgrad/core/dispatch.h>
#include <altgrad/core/parallel.h>

ALTGRAD_API_BEGIN
namespace altgrad {

/// x summed over the axes along which a tensor of this shape is repeated to x's: what the gradient of a broadcast input
/// is. It is x itself, or an alias, where nothing is repeated; the sums are divided by `divisor`. Not recorded.
Tensor reduce_to_shape(const Tensor& x, const Shape& shape, double divisor = 1);

namespace detail {
bool recall(Tensor& value);
void remember(const Tensor& value);
}  // namespace detail

/// f(), or, where checkpoint() runs a function again, what f gave in the first run, without a call. For tensors that an
/// op's forward makes from state that it changes, such as the scale that an amax history gives: both runs must compute
/// the same.
template <class F>
Tensor replayed(F&& f) {
  Tensor value;
  if (!detail::recall(value)) detail::remember(value = f());
  return value;
}

}  // namespace altgrad
ALTGRAD_API_END
