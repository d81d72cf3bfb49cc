// SGD with momentum, as PyTorch defines it.
#pragma once

#include <altgrad/nn/optim/optimizer.h>

ALTGRAD_API_BEGIN
namespace altgrad::optim {

struct SGDOptions {
  double lr = 1e-2;
  double momentum = 0;
  double weight_decay = 0;  ///< added to the gradient
  bool nesterov = false;
};

/// State "momentum_buffer.0", ... where momentum > 0. Throws std::invalid_argument on negative or non-finite
/// settings, and on nesterov without momentum.
class SGD final : public Optimizer {
 public:
  SGD(std::vector<Tensor> params, SGDOptions options) : SGD(one_group(std::move(params)), options) {}
  SGD(std::vector<ParamGroup> groups, SGDOptions options);
  void step() override;

 private:
  SGDOptions options_;
};

}  // namespace altgrad::optim
ALTGRAD_API_END
