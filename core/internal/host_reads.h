// How often this thread has asked a tensor for a number, by item(): on a device each time is a wait for all that was
// started there. For the test that a training step has none.
#pragma once

#include <cstdint>

namespace altgrad::detail {

inline thread_local int64_t host_reads = 0;

}  // namespace altgrad::detail
