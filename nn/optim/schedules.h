// Learning rates that warm up, and then fall along half a cosine, along a line, or late. Steps count from 0. Each warms
// up linearly to max_lr over `warmup` steps, the first of which has max_lr / (warmup + 1), and has min_lr from step
// `total` on; min_lr = max_lr is a constant rate. All throw std::invalid_argument where step or warmup is negative, or a
// rate is negative or not finite.
#pragma once

#include <altgrad/core/export.h>

#include <cstdint>

ALTGRAD_API_BEGIN
namespace altgrad::optim {

/// Half a cosine from max_lr down to min_lr (nanoGPT's; Loshchilov & Hutter, "SGDR", 2017, eq. 5).
struct CosineSchedule {
  double max_lr = 1e-3, min_lr = 1e-4;
  int64_t warmup = 100, total = 2000;
  double operator()(int64_t step) const;
};

/// A line from max_lr down to min_lr.
struct LinearSchedule {
  double max_lr = 1e-3, min_lr = 1e-4;
  int64_t warmup = 100, total = 2000;
  double operator()(int64_t step) const;
};

/// Warm-up, stable, decay: max_lr, and over the last `decay` steps before `total` a line down to min_lr (Hu et al.,
/// "MiniCPM", 2024, section 4; the line is Hägele et al.'s, "Scaling laws and compute-optimal training beyond fixed
/// training durations", 2024). Until the decay the rate does not depend on `total`. Throws std::invalid_argument also
/// where decay is not in [0, total - warmup].
struct WSDSchedule {
  double max_lr = 1e-3, min_lr = 1e-4;
  int64_t warmup = 100, total = 2000, decay = 400;
  double operator()(int64_t step) const;
};

}  // namespace altgrad::optim
ALTGRAD_API_END
