// Two linear layers with gelu between them, as transformers have them.
#pragma once

#include <altgrad/autograd/ops.h>

#include <optional>

namespace altgrad::detail {

struct LinearParameters {
  const Tensor& weight;
  const std::optional<Tensor>& bias;
};

// linear(gelu(linear(x, fc), form), proj). In bf16 it is one op on a GPU: the gradient of fc's bias is found while that of gelu
// is, and where its library has epilogues for the tanh form, gelu and its derivative are parts of the products. Throws as the
// three do.
Tensor mlp(const Tensor& x, const LinearParameters& fc, Gelu form, const LinearParameters& proj);

}  // namespace altgrad::detail
