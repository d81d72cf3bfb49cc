// What an op with kernels of its own is written with, beside Op, Grads and apply (autograd/tape.h), launch
// (core/dispatch.h) and parallel_for (core/parallel.h). Built-in ops use the same; examples/op_with_kernel.cpp shows how.
//
//   Tensor bias_silu(const Tensor& x, const Tensor& b) {
//     check_same_kind("bias_silu", x, b);                                      // and shapes: kernels check nothing
//     check_floating("bias_silu", x);
//     return apply<BiasSilu>(x, b);
//   }
//   Tensor BiasSilu::forward(const Tensor& x, const Tensor& b) {
//     Tensor y = Tensor::empty(x.shape(), x.options());
//     launch(name, AG_KERNEL(kernels::bias_silu), y, x, b, rows, n);
//     return y;
//   }
#pragma once

#include <altgrad/autograd/tape.h>
#include <altgrad/core/dispatch.h>
#include <altgrad/core/parallel.h>

ALTGRAD_API_BEGIN
namespace altgrad {

/// Throws std::invalid_argument, naming the op, where dtype or device of two tensors differ.
void check_same_kind(const char* op, const Tensor& a, const Tensor& b);

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
