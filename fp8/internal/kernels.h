// The kernels of fp8/, overloaded on the device as those in core/internal/kernels. Scales and amaxes lie in memory of
// the device. q(x) is quotient(x, *scale).
#pragma once

#include <altgrad/core/bfloat16.h>
#include <altgrad/core/device.h>
#include <altgrad/core/dtype.h>
#include <altgrad/core/internal/fp8.h>
#include <altgrad/core/internal/strict_math.h>
#include <altgrad/core/random.h>
#include <altgrad/fp8/format.h>
#include <altgrad/fp8/internal/scale.h>

#include <array>
#include <bit>
#include <cmath>
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
      : floor(r.magic_floor_), shift(r.magic_shift_), zero_sign(r.zero_sign_mask_), max(r.max()) {}

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

// x / scale, but for finite x kept within the finite T's, so that rounding saturates it instead of seeing Inf. Inf's bits
// less one are those of the largest number. In integers: GCC 13 takes the comparisons of floats for known here.
template <class T>
AG_HD T quotient(T x, T scale) {
  using Bits = fp8::detail::BitsOf<T>;
  constexpr Bits inf = std::bit_cast<Bits>(std::numeric_limits<T>::infinity()), magnitude = ~Bits{0} >> 1;
  const Bits q = std::bit_cast<Bits>(x / scale);
  const bool overflows = (q & magnitude) == inf && (std::bit_cast<Bits>(x) & magnitude) < inf;
  return std::bit_cast<T>(q - Bits{overflows});
}

// May a NearestRounder round divided(x, scale, 1 / scale), of core's divide.h, in place of quotient(x, scale), for |x| up
// to nearest_reach?
template <class T>
AG_HD bool has_nearest(const fp8::Rounder<T>& rounder, T scale) {
  return rounder.has_nearest() && scale >= T(0x1p-40) && scale <= T(0x1p60);
}
constexpr float nearest_reach = 0x1p80f;

// How a tensor is rounded: to the rounder's format, element i by word i of `random` where there is one.
template <class T>
struct ElementRounder {
  fp8::Rounder<T> rounder;
  std::optional<RandomStream> random;
};

// Where x (rows, columns) becomes codes of E4M3 or E5M2, for gemm_fp8: y (rows, columns) and, transposed, y_t (columns,
// rows). `sums` (columns), if not null, becomes what the rows of x add up to.
struct Codes {
  uint8_t *y, *y_t;
  Fp8 format;
  int64_t rows, columns;
  float* sums = nullptr;
};

// A weight (n, k) in codes of a byte, in panels (core/internal/coded.h), of a format with a sign and subnormals: the
// numbers are those of `unit`, times *scale.
struct CodedWeight {
  const uint8_t* panels;
  const float* scale;
  int shift;   // 23 - mantissa bits
  float unit;  // 2^(127 - bias)
  int64_t n, k;
};
constexpr int64_t coded_rows = 4;  // at most, of x in coded_linear

inline namespace on_cpu {

// y = rounder(q(x)) * *scale, or, in bf16, rounder(q(x)), for formats whose numbers bf16 holds. *amax, where it is given,
// becomes the largest |x| as a float, NaN where x holds one: in f32 it is found on the way.
template <class Out, class T>
void quantize(const Cpu&, Out* y, const T* x, const float* scale, const ElementRounder<T>& rounding,
              int64_t n, float* amax = nullptr);
// The same with the scale that the rule makes of the history and x's amax: *scale = update_scale (scale.h). x is rounded
// with the predicted scale while its amax is looked for, and again where the scale has become another.
template <class Out, class T>
void quantize(const Cpu&, Out* y, const T* x, float* scale, const fp8::detail::History& history,
              const fp8::detail::ScaleRule& rule, const ElementRounder<T>& rounding, int64_t n);
// y = x * *scale
void dequantize(const Cpu&, float* y, const bfloat16* x, const float* scale, int64_t n);
template <class T>
void encode(const Cpu&, uint8_t* codes, const T* x, const float* scale, const ElementRounder<T>& rounding,
            int64_t n);
// y = table[code], times *scale where there is one
void decode(const Cpu&, float* y, const uint8_t* codes, const std::array<float, 256>& table, int64_t n,
            const float* scale = nullptr);
// dx = |q(x)| > max ? 0 : dy
template <class T>
void clipped_ste_grad(const Cpu&, T* dx, const T* dy, const T* x, const float* scale, T max, int64_t n);
// *amax is recorded.
void record_amax(const Cpu&, const fp8::detail::History& history, const float* amax);
// Panels of the codes (n, k), whose signs become the highest bits, filled up with zeros.
void pack_codes(const Cpu&, uint8_t* panels, const uint8_t* codes, uint32_t sign_code, int64_t n, int64_t k);
// y (n, k) = the weight
void decode(const Cpu&, float* y, const CodedWeight& w);
// y (rows, n) = x (rows, k) w^T + bias (n), which may be null; on the CPU to the bits of linear (core's gemm.h).
void coded_linear(const Cpu&, float* y, const float* x, const CodedWeight& w, const float* bias,
                  int64_t rows);

}  // namespace on_cpu

// The same on a GPU (fp8/kernels_cuda.cu, fp8/coded_linear_cuda.cu), where activations may also be bf16, and are rounded in
// f32, and x may become codes.
inline namespace on_cuda {

template <class Out, class T>
void quantize(const Cuda&, Out* y, const T* x, const float* scale, const ElementRounder<Compute<T>>& rounding,
              int64_t n);
template <class Out, class T>
void quantize(const Cuda&, Out* y, const T* x, float* scale, const fp8::detail::History& history,
              const fp8::detail::ScaleRule& rule, const ElementRounder<Compute<T>>& rounding, int64_t n);
template <class T>
void quantize(const Cuda&, const Codes& y, const T* x, const float* scale,
              const ElementRounder<float>& rounding, int64_t n);
template <class T>
void quantize(const Cuda&, const Codes& y, const T* x, float* scale, const fp8::detail::History& history,
              const fp8::detail::ScaleRule& rule, const ElementRounder<float>& rounding, int64_t n);
void dequantize(const Cuda&, float* y, const bfloat16* x, const float* scale, int64_t n);
template <class T>
void encode(const Cuda&, uint8_t* codes, const T* x, const float* scale, const ElementRounder<T>& rounding,
            int64_t n);
void decode(const Cuda&, float* y, const uint8_t* codes, const std::array<float, 256>& table, int64_t n,
            const float* scale = nullptr);
template <class T>
void clipped_ste_grad(const Cuda&, T* dx, const T* dy, const T* x, const float* scale, Compute<T> max,
                      int64_t n);
void record_amax(const Cuda&, const fp8::detail::History& history, const float* amax);
void pack_codes(const Cuda&, uint8_t* panels, const uint8_t* codes, uint32_t sign_code, int64_t n, int64_t k);
void decode(const Cuda&, float* y, const CodedWeight& w);
void coded_linear(const Cuda&, float* y, const float* x, const CodedWeight& w, const float* bias,
                  int64_t rows);

}  // namespace on_cuda

}  // namespace altgrad::kernels
