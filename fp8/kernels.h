// The kernels of fp8/, declared once for all devices as those in core/kernels.h: outputs, inputs, sizes. q(x)
// is x / scale, but for finite x kept within the finite T's, so that rounding saturates it instead of seeing
// Inf.
#pragma once

#include <altgrad/core/kernels.h>
#include <altgrad/core/random.h>
#include <altgrad/core/strict_math.h>
#include <altgrad/fp8/format.h>

#include <bit>
#include <limits>
#include <optional>

namespace altgrad::fp8 {

// What a Rounder that has_nearest() does with finite numbers, in fewer operations: x + c - c, where c = 1.5 * 2^k and 2^k's
// last bit is the grid's step at x. For files of the library, which are compiled without -ffast-math and run in the
// default floating-point environment: elsewhere x + c - c may become x.
template <class T>
struct NearestRounder {
  using Bits = detail::BitsOf<T>;
  AG_HD explicit constexpr NearestRounder(const Rounder<T>& r)
      : floor(r.floor_), shift(r.shift_), zero_sign(r.zero_sign_), max(r.max()) {}

  // Without `clamp`, |x| must not exceed the format's max. A zero gets its sign from `sign`.
  template <bool clamp = true>
  AG_HD constexpr T operator()(T x, T sign) const {
    const T upper = x < max ? x : max, clamped = upper > -max ? upper : -max, kept = clamp ? clamped : x;
    const Bits field = std::bit_cast<Bits>(kept) & Rounder<T>::inf, least = floor;
    const T c = std::bit_cast<T>((field < least ? least : field) + shift);
    const Bits rounded = std::bit_cast<Bits>((kept + c) - c);
    return std::bit_cast<T>(rounded | (std::bit_cast<Bits>(sign) & zero_sign));
  }

  Bits floor, shift, zero_sign;
  T max;
};

}  // namespace altgrad::fp8

namespace altgrad::kernels {

constexpr float unknown_amax = std::numeric_limits<float>::infinity();

// y = rounder(q(x)) * scale; with `random`, element i is rounded by its word i. Takes the largest |x| where it is known,
// as rounding is faster where nothing can saturate, and gives it: NaN where there is one, unknown_amax for f64 where
// it was not known.
template <class D, class T>
float quantize(T* y, const T* x, T scale, const fp8::Rounder<T>& rounder, std::optional<RandomStream> random,
               int64_t n, float largest = unknown_amax);
// rounder(q(x)) in bf16, for formats whose numbers bf16 holds: x (rows, n) -> y as gemm_bf16 reads it; and back,
// y (rows, n) = x * scale. The largest |x| as in quantize.
template <class D>
float quantize_bf16(uint16_t* y, const float* x, float scale, const fp8::Rounder<float>& rounder,
                    std::optional<RandomStream> random, int64_t rows, int64_t n,
                    float largest = unknown_amax);
template <class D>
void dequantize_bf16(float* y, const uint16_t* x, float scale, int64_t rows, int64_t n);
// codes = rounder.code(rounder(q(x)))
template <class D, class T>
void encode(uint8_t* codes, const T* x, T scale, const fp8::Rounder<T>& rounder,
            std::optional<RandomStream> random, int64_t n);
// y = table[code], table (256)
template <class D>
void decode(float* y, const uint8_t* codes, const float* table, int64_t n);
// dx = |q(x)| > max ? 0 : dy
template <class D, class T>
void zero_saturated(T* dx, const T* dy, const T* x, T scale, T max, int64_t n);

}  // namespace altgrad::kernels
