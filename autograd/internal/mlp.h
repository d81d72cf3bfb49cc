// Two linear layers with gelu between them, as transformers have them.
#pragma once

#include <altgrad/autograd/ops.h>

#include <optional>

namespace altgrad::detail {

struct LinearParameters {
  const Tensor& weight;
  const std::optional<Tensor>& bias;
};

// linear(gelu(linear(x, fc), form), proj). On a GPU, in bf16 and the tanh form, gelu and its derivative are epilogues of the
// products, so that neither its input nor its gradient is read by a kernel of their own. Throws as those do.
Tensor mlp(const Tensor& x, const LinearParameters& fc, Gelu form, const LinearParameters& proj);

}  // namespace altgrad::detail
