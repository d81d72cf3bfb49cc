// What tests ask of the simulated device beyond CUDA's own functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace altgrad::simulator {

// A mistake in a kernel or in how it is launched: says what, in which kernel, block and thread, and where in the
// source. Thrown by launch(), or by the call that waits for the work. All that was queued is dropped.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

constexpr uint64_t ascending = 0, descending = 1;

struct Settings {
  // In what order threads and blocks get their turns; any number but the two above is the seed of a random one. A
  // correct kernel's results are the same for all. Begins as the environment's ALTGRAD_SIMULATOR_ORDER, where there
  // is one.
  uint64_t order;
  int devices = 1;
  int capability = 90;              // 80 for sm_80; begins as ALTGRAD_SIMULATOR_SM, where there is one
  size_t memory = size_t(8) << 30;  // bytes of a device; cudaMalloc gives out no more
  bool has_gelu = true;  // cuBLASLt has algorithms with gelu, or its derivative, behind the product
  bool is_lost = false;  // a kernel went wrong: no device can be made the current one any more
};
Settings& settings();

// What has happened since the program began.
struct Counts {
  int64_t launches = 0;  // of kernels and products that have run
  int64_t threads = 0, barriers = 0, collectives = 0;
  int64_t waits = 0;  // of the host for the device
};
const Counts& counts();

// Why cuBLASLt refused a product last.
const char* refusal();

}  // namespace altgrad::simulator
