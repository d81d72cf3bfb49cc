// AdamW (Loshchilov & Hutter, "Decoupled weight decay regularization", 2019, algorithm 2).
#pragma once

#include <altgrad/nn/optim/optimizer.h>

#include <array>

ALTGRAD_API_BEGIN
namespace altgrad::optim {

struct AdamWOptions {
  double lr = 1e-3;
  std::array<double, 2> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 0.01;  ///< decoupled: w *= 1 - lr * weight_decay
};

/// State "exp_avg.0", "exp_avg_sq.0", ... Throws std::invalid_argument on negative or non-finite settings, and
/// on betas outside [0, 1).
class AdamW final : public Optimizer {
 public:
  AdamW(std::vector<Tensor> params, AdamWOptions options) : AdamW(one_group(std::move(params)), options) {}
  AdamW(std::vector<ParamGroup> groups, AdamWOptions options);
  void step() override;
  /// As nn::clip_grad_norm_ of its parameters, then step(), to the same bits, but for the gradients, which stay as they
  /// were: they are scaled as the update reads them, so memory is read and written once less. Gives the norm, f64 (), on
  /// their device. Throws as both do, before anything changes.
  Tensor clipped_step(double max_norm);

 private:
  AdamWOptions options_;
};

}  // namespace altgrad::optim
ALTGRAD_API_END
