// The norm of gradients, for what clips them.
#pragma once

#include <altgrad/core/internal/kernels/optim.h>
#include <altgrad/core/tensor.h>

#include <span>

namespace altgrad::nn::detail {

struct GradNorm {
  std::span<const kernels::Gradient>
      grads;    // of the parameters that have one; valid until the thread's next grad_norm
  Tensor norm;  // f64 (), on their device
};

// Throws std::invalid_argument where max_norm is negative or NaN, or gradients are on different devices or not f32 or f64.
GradNorm grad_norm(const char* op, std::span<const Tensor> parameters, double max_norm);

}  // namespace altgrad::nn::detail
