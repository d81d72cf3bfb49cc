// The formula, in the default floating-point environment, so that a learning rate has the same bits everywhere.
#include <altgrad/nn/optim/cosine_schedule.h>

#include <altgrad/core/error.h>
#include <altgrad/core/float_environment.h>

#include <cmath>
#include <numbers>
#include <utility>

namespace altgrad::optim {

double CosineSchedule::operator()(int64_t step) const {
  for (const auto& [name, rate] : {std::pair("max_lr", max_lr), {"min_lr", min_lr}}) {
    if (!(rate >= 0 && std::isfinite(rate)))
      fail("CosineSchedule: ", name, " must be finite and not negative, got ", rate);
  }
  if (step < 0 || warmup < 0) {
    fail("CosineSchedule: step and warmup must not be negative, got step ", step, ", warmup ", warmup);
  }
  const DefaultFloatEnvironment environment;
  if (step < warmup) return max_lr * (double(step) + 1) / (double(warmup) + 1);
  if (step >= total) return min_lr;
  const double progress = double(step - warmup) / double(total - warmup);
  return min_lr + 0.5 * (1 + std::cos(std::numbers::pi * progress)) * (max_lr - min_lr);
}

}  // namespace altgrad::optim
