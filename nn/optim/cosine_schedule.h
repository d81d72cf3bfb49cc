// A learning rate that warms up and then falls along half a cosine.
#pragma once

#include <altgrad/core/export.h>

#include <cstdint>

ALTGRAD_API_BEGIN
namespace altgrad::optim {

/// Linear warm-up to max_lr over `warmup` steps, then half a cosine down to min_lr at step `total`, min_lr
/// after it (nanoGPT's; Loshchilov & Hutter, "SGDR", 2017, eq. 5). Steps count from 0; the first has max_lr / (warmup +
/// 1). Throws std::invalid_argument where step or warmup is negative, or a rate is negative or not finite.
struct CosineSchedule {
  double max_lr = 1e-3, min_lr = 1e-4;
  int64_t warmup = 100, total = 2000;
  double operator()(int64_t step) const;
};

}  // namespace altgrad::optim
ALTGRAD_API_END
