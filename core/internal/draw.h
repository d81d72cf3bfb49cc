// What a Philox block makes for the elements that share it, for the kernels of all devices.
#pragma once

#include <altgrad/core/random.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace altgrad {

using RandomWords = std::array<uint32_t, 4>;

// Elements of T to a block: an f32 takes one word, an f64 or an i64 two.
template <class T>
constexpr int64_t per_block = 16 / sizeof(T);

AG_HD constexpr uint64_t wide(const RandomWords& words, int i) {
  return uint64_t(words[size_t(2 * i)]) << 32 | words[size_t(2 * i + 1)];
}

// Element i's number in [0, 1).
template <class T>
AG_HD constexpr T uniform_of(const RandomWords& words, int i) {
  if constexpr (sizeof(T) == 4) {
    return uniform01(words[size_t(i)]);
  } else {
    return double(wide(words, i) >> 11) * 0x1p-53;
  }
}

// Box-Muller: two uniforms u, v give sqrt(-2 ln(1 - u)) times the cosine and the sine of 2 pi v.
template <class T>
struct NormalPair {
  T first, second;
};
template <class T>
AG_HD NormalPair<T> normals_of(const RandomWords& words, int i) {
  const T radius = std::sqrt(T(-2) * std::log(T(1) - uniform_of<T>(words, i)));
  const T angle = T(2) * std::numbers::pi_v<T> * uniform_of<T>(words, i + 1);
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

// The high half of the 128-bit product of 64 random bits and `high` (Lemire, 2019, without the rejection: the bias is
// below high / 2^64).
AG_HD constexpr int64_t integer_of(const RandomWords& words, int i, int64_t high) {
  __extension__ using uint128 = unsigned __int128;
  return int64_t(uint128(wide(words, i)) * uint128(high) >> 64);
}

}  // namespace altgrad
