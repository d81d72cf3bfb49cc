// Two linear layers with gelu between them, as transformers have them.
#pragma once

#include <altgrad/autograd/ops.h>

#include <optional>

namespace altgrad::detail {

struct LinearParameters {
  const Tensor& weight;
  const std::optional<Tensor>& bias;
};

// linear(gelu(linear(x, fc), form), proj). In bf16 and the tanh form it is one op on a GPU: where its library has epilogues for
// them, gelu and its derivative are parts of the products, and what flows between is not read by kernels of their own. Throws
// as the three do.
Tensor mlp(const Tensor& x, const LinearParameters& fc, Gelu form, const LinearParameters& proj);

}  // namespace altgrad::detail
