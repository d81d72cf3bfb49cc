// What a GPU has an instruction for: numbers that are good enough where they are stored as bfloat16, and the rounding to
// it. The simulated device has them from the standard library, a little more exact.
#pragma once

#include <altgrad/core/bfloat16.h>
#include <altgrad/core/cuda/device.h>
#include <altgrad/core/dtype.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

namespace altgrad::cuda {

constexpr float log2_e = 1.44269504088896341f;

// 2^x, of an approximation that is off by 2^-22 at most, and 0 for what is subnormal.
AG_DEVICE float exp2_approx(float x) {
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return std::exp2(x);
#endif
}

// 1 / x, off by 2^-23 at most, and 0 where that is subnormal.
AG_DEVICE float reciprocal_approx(float x) {
#if defined(__CUDACC__)
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1 / x;
#endif
}

// x as a T, rounded once. What is left of a NaN's sign and payload as a bfloat16 is a GPU's affair: it is one number.
template <class T>
AG_DEVICE T rounded(Compute<T> x) {
#if defined(__CUDACC__)
  if constexpr (std::is_same_v<T, bfloat16>) {
    T y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
  }
#else
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (x != x) return std::bit_cast<bfloat16>(uint16_t{0x7fff});
  }
#endif
  return T(x);
}

// Two bfloat16s, of which the first is in the low half.
AG_DEVICE uint32_t pair_of(float first, float second) {
#if defined(__CUDACC__)
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
#else
  return uint32_t(rounded<bfloat16>(first).bits) | uint32_t(rounded<bfloat16>(second).bits) << 16;
#endif
}

}  // namespace altgrad::cuda
