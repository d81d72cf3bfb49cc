// Clipping of gradients by their common norm (Pascanu, Mikolov & Bengio, "On the difficulty of training recurrent
// neural networks", 2013, algorithm 1).
#pragma once

#include <altgrad/core/tensor.h>

#include <span>

ALTGRAD_API_BEGIN
namespace altgrad::nn {

/// Scales all gradients by max_norm / norm where their common 2-norm exceeds max_norm. Gives the norm before.
/// A norm that is not finite leaves the gradients as they are. Squares are summed in f64: gradients in f64 beyond
/// 1e154 overflow to such a norm, and those below 1e-162 have a norm of 0. Throws std::invalid_argument where
/// max_norm is negative or NaN, or gradients are on different devices or not f32 or f64.
double clip_grad_norm(std::span<const Tensor> parameters, double max_norm);
/// The same with the norm as a tensor, f64 (), on the gradients' device: does not wait for it. (The name is PyTorch's;
/// as there, both scale gradients in place.)
Tensor clip_grad_norm_(std::span<const Tensor> parameters, double max_norm);

}  // namespace altgrad::nn
ALTGRAD_API_END
