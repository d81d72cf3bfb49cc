// The largest magnitude of many numbers, by several blocks in any order: integers that order as the magnitudes do
// have one maximum, whoever comes first.
#pragma once

#include <altgrad/core/cuda/launch.h>
#include <altgrad/core/cuda/runtime.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace altgrad::cuda {

// The bits of the smallest float that is not below |x|; those of NaN are larger than all others.
AG_DEVICE unsigned magnitude_bits(float x) { return std::bit_cast<unsigned>(x) & 0x7fffffffu; }
AG_DEVICE unsigned magnitude_bits(double x) {
  const float nearest = float(std::fabs(x));
  const bool below = double(nearest) < std::fabs(x);
  return magnitude_bits(below ? std::nextafter(nearest, std::numeric_limits<float>::infinity()) : nearest);
}

// *top, which begins as 0, takes the block's largest.
AG_DEVICE void take_largest(unsigned* top, unsigned own) {
  own = block_reduce(own, 0u, Larger());
  if (threadIdx.x == 0) atomicMax(top, own);
}
// The same, in a tally of so many blocks: one thread, of the block that comes last, gets true and the largest of all, and
// sees what other blocks have written; the tally is as it was.
AG_DEVICE bool take_largest(Tally& tally, unsigned own, int64_t blocks, unsigned& largest) {
  take_largest(&tally.top, own);
  if (threadIdx.x != 0 || arrive(&tally.arrived) + 1 < blocks) return false;
  largest = atomicExch(&tally.top, 0u);
  tally.arrived = 0;
  return true;
}

}  // namespace altgrad::cuda
