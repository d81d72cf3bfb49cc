// Stores of results that are too many for the caches to keep.
#pragma once

#include <algorithm>
#include <cstdint>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace altgrad {

// Copies, leaving the caches alone and not reading what is overwritten.
inline void store_around_caches(float* to, const float* from, int64_t n) {
  int64_t whole = 0;
#if defined(__SSE2__)
  if (reinterpret_cast<uintptr_t>(to) % 16 == 0) whole = n / 4 * 4;
  for (int64_t i = 0; i < whole; i += 4) _mm_stream_ps(to + i, _mm_load_ps(from + i));
  _mm_sfence();  // such stores are unordered otherwise
#endif
  std::copy(from + whole, from + n, to + whole);
}

}  // namespace altgrad
