// bfloat16: the upper half of a float, 8 bits of exponent and 7 of mantissa. A value that is stored; to compute with it
// is to compute with floats, to which it converts exactly. Conversions to it round once, to nearest even, whatever they
// come from; beyond the largest number lies Inf; a NaN keeps its sign and what fits of its payload, and is quiet. All
// of it is integer arithmetic on bits, so that the floating-point environment (rounding mode, flushing of subnormals)
// and -ffast-math change nothing, and CPU and GPU agree. As a number format to round to it is fp8::bf16, and as a dtype
// DType::bf16.
#pragma once

#include <altgrad/core/export.h>

#include <bit>
#include <concepts>
#include <cstdint>

ALTGRAD_API_BEGIN
namespace altgrad {

namespace detail {
/// The leading zeros of 64 bits. In device code nvcc makes a constant of the function that <bit> has for it.
AG_HD constexpr int leading_zeros(std::uint64_t u) {
  int zeros = u == 0;
  for (int step = 32; step > 0; step /= 2) {
    if (u >> (64 - step) != 0) continue;
    zeros += step;
    u <<= step;
  }
  return zeros;
}
static_assert(leading_zeros(0) == 64 && leading_zeros(1) == 63 && leading_zeros(~std::uint64_t{0}) == 0);
}  // namespace detail

struct bfloat16 {
  std::uint16_t bits;  ///< std::bit_cast<bfloat16>(bits) is the way back

  bfloat16() = default;  ///< uninitialised, as a float is
  AG_HD explicit constexpr bfloat16(float x) : bits(rounded(x)) {}
  AG_HD explicit constexpr bfloat16(double x) : bits(rounded(x)) {}
  template <std::integral T>
  AG_HD explicit constexpr bfloat16(T x) : bits(rounded(x)) {}
  AG_HD constexpr operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }

 private:
  static constexpr std::uint32_t inf = 0x7f80, quiet = 0x40;

  AG_HD static constexpr std::uint16_t rounded(float x) {
    const std::uint32_t all = std::bit_cast<std::uint32_t>(x), u = all & 0x7fffffff,
                        sign = all >> 16 & 0x8000;
    const std::uint32_t odd = u >> 16 & 1;  // half a step less one, and one more if the code below is odd
    const std::uint32_t code = u > inf << 16 ? u >> 16 | quiet : (u + 0x7fff + odd) >> 16;
    return static_cast<std::uint16_t>(code | sign);
  }

  /// By way of float it would be rounded twice: 1 + 2^-8 + 2^-30 is above the middle of two codes, and a float is not.
  AG_HD static constexpr std::uint16_t rounded(double x) {
    constexpr int p = 52, cut = p - 7, rebias = 1023 - 127;
    constexpr std::uint64_t one = std::uint64_t{1} << p, inf64 = 2047 * one;
    const std::uint64_t all = std::bit_cast<std::uint64_t>(x), u = all & ~(std::uint64_t{1} << 63);
    std::uint64_t code = 0;
    if (u > inf64) {
      code = inf | quiet | (u & (one - 1)) >> cut;
    } else if (u >= (rebias + 1) * one) {  // a normal number, or beyond
      const std::uint64_t nearest = nearest_even(u - rebias * one, cut);
      code = nearest < inf ? nearest : inf;
    } else if (const int field = static_cast<int>(u >> p);
               field >= rebias - 7) {  // else below half of the smallest
      code = nearest_even((u & (one - 1)) | one, cut + rebias + 1 - field);
    }
    return static_cast<std::uint16_t>(code | (all >> 48 & 0x8000));
  }

  template <std::integral T>
  AG_HD static constexpr std::uint16_t rounded(T x) {
    bool negative = false;
    if constexpr (std::signed_integral<T>) negative = x < T{};
    std::uint64_t u = static_cast<std::uint64_t>(x);
    if (negative) u = 0 - u;
    if (u == 0) return 0;
    // The leading bit at 62 leaves room to round up; of the bit that falls out, only matters whether it is set.
    const int zeros = detail::leading_zeros(u);
    const std::uint64_t leading = u << zeros, code = nearest_even(leading >> 1 | (leading & 1), 62 - 7);
    // The code's leading bit adds the last one to the exponent.
    const std::uint64_t field = 127 + 63 - 1 - static_cast<std::uint64_t>(zeros);
    return static_cast<std::uint16_t>((code + (field << 7)) | (negative ? 0x8000 : 0));
  }

  AG_HD static constexpr std::uint64_t nearest_even(std::uint64_t u, int cut) {
    const std::uint64_t half = std::uint64_t{1} << (cut - 1), odd = u >> cut & 1;
    return (u + half - 1 + odd) >> cut;
  }
};

}  // namespace altgrad
ALTGRAD_API_END
