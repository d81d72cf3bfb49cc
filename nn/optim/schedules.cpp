// The formulas, in the default floating-point environment, so that a learning rate has the same bits everywhere.
#include <altgrad/nn/optim/schedules.h>

#include <altgrad/core/error.h>
#include <altgrad/core/float_environment.h>

#include <cmath>
#include <numbers>
#include <utility>

namespace altgrad::optim {
namespace {

// fall(): the share of max_lr - min_lr that is left at a step after the warm-up and before `total`.
template <class Schedule, class F>
double rate(const char* schedule, const Schedule& s, int64_t step, F&& fall) {
  for (const auto& [name, rate] : {std::pair("max_lr", s.max_lr), {"min_lr", s.min_lr}}) {
    if (!(rate >= 0 && std::isfinite(rate)))
      fail(schedule, ": ", name, " must be finite and not negative, got ", rate);
  }
  if (step < 0 || s.warmup < 0) {
    fail(schedule, ": step and warmup must not be negative, got step ", step, ", warmup ", s.warmup);
  }
  const DefaultFloatEnvironment environment;
  if (step < s.warmup) return s.max_lr * (double(step) + 1) / (double(s.warmup) + 1);
  if (step >= s.total) return s.min_lr;
  return s.min_lr + fall() * (s.max_lr - s.min_lr);
}

// How far a step is from the first to `total`.
double progress(int64_t step, int64_t first, int64_t total) {
  return double(step - first) / double(total - first);
}

}  // namespace

double CosineSchedule::operator()(int64_t step) const {
  return rate("CosineSchedule", *this, step,
              [&] { return 0.5 * (1 + std::cos(std::numbers::pi * progress(step, warmup, total))); });
}

double LinearSchedule::operator()(int64_t step) const {
  return rate("LinearSchedule", *this, step, [&] { return 1 - progress(step, warmup, total); });
}

double WSDSchedule::operator()(int64_t step) const {
  if (warmup >= 0 && (decay < 0 || total < warmup || decay > total - warmup)) {
    fail("WSDSchedule: decay must be in [0, total - warmup], got decay ", decay, ", total ", total,
         ", warmup ", warmup);
  }
  return rate("WSDSchedule", *this, step, [&] {
    const int64_t first = total - decay;  // of the decay
    return step < first ? 1 : 1 - progress(step, first, total);
  });
}

}  // namespace altgrad::optim
