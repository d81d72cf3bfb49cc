// What kernels share with the host, and with each other (core/cuda/runtime.cpp).
#pragma once

#include <altgrad/core/internal/ids.h>

#include <cstdint>

namespace altgrad::cuda {

// The first id out of range since the host has last looked, in memory that both see.
struct WrongId {
  bool found;
  int64_t at, id;
  IdRange range;
};
WrongId* wrong_id(int device);

// What the blocks of one launch find together, in memory of the device: zeros before each launch and after it.
struct Tally {
  unsigned top, arrived;
};
Tally* tally(int device);

int compute_capability(int device);  // 80 for sm_80

}  // namespace altgrad::cuda
