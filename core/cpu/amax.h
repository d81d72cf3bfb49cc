// The largest |x|, for the kernels that look for it.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace altgrad {

// Without its sign, a float's bits order as integers, Inf above every number and NaN above Inf; and an
// integer maximum vectorises where a float one does not.
template <class T>
using MagnitudeBits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
template <class T>
MagnitudeBits<T> magnitude_bits(T x) {
  return std::bit_cast<MagnitudeBits<T>>(x) & std::numeric_limits<MagnitudeBits<T>>::max();
}

template <class T>
T amax_of(const T* __restrict x, int64_t n) {
  MagnitudeBits<T> amax = 0;
  for (int64_t i = 0; i < n; ++i) amax = std::max(amax, magnitude_bits(x[i]));
  return std::bit_cast<T>(amax);
}

// The largest of the amaxes that several threads have seen.
template <class T>
class SharedAmax {
 public:
  void see(T amax) {
    const MagnitudeBits<T> bits = magnitude_bits(amax);
    for (MagnitudeBits<T> seen = amax_; seen < bits && !amax_.compare_exchange_weak(seen, bits);) continue;
  }
  T value() const { return std::bit_cast<T>(amax_.load()); }

 private:
  std::atomic<MagnitudeBits<T>> amax_ = 0;
};

}  // namespace altgrad
