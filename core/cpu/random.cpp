// Random kernels: element i is a function of (seed, stream, i) alone. See core/random.h.
#include <altgrad/core/cpu/parallel.h>
#include <altgrad/core/internal/instantiate.h>
#include <altgrad/core/internal/kernels/random.h>

#include <cmath>
#include <numbers>

namespace altgrad::kernels {
namespace {

// f(first element, words) for every group of `per_block` elements, which share one Philox block.
template <class F>
void for_philox_blocks(RandomStream random, int64_t n, int64_t per_block, F&& f) {
  parallel_for(divide_up(n, per_block), 1 << 10, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) f(block * per_block, random.block(uint64_t(block)));
  });
}

// Elements of T to a block: an f32 takes one word, an f64 or an i64 two.
template <class T>
constexpr int64_t per_block = 16 / sizeof(T);

uint64_t wide(const std::array<uint32_t, 4>& words, int i) {
  return uint64_t(words[2 * i]) << 32 | words[2 * i + 1];
}

template <class T>
T uniform_of(const std::array<uint32_t, 4>& words, int i) {
  if constexpr (sizeof(T) == 4)
    return uniform01(words[i]);
  else
    return double(wide(words, i) >> 11) * 0x1p-53;
}

}  // namespace

template <class T>
void uniform(const Cpu&, T* y, RandomStream random, int64_t n) {
  for_philox_blocks(random, n, per_block<T>, [=](int64_t first, const std::array<uint32_t, 4>& words) {
    for (int64_t i = first; i < std::min(n, first + per_block<T>); ++i)
      y[i] = uniform_of<T>(words, int(i - first));
  });
}

// Box-Muller: two uniforms u, v give sqrt(-2 ln(1 - u)) times the cosine and the sine of 2 pi v.
template <class T>
void normal(const Cpu&, T* y, RandomStream random, int64_t n) {
  for_philox_blocks(random, n, per_block<T>, [=](int64_t first, const std::array<uint32_t, 4>& words) {
    for (int pair = 0; pair < int(per_block<T>); pair += 2) {
      const T radius = std::sqrt(T(-2) * std::log(T(1) - uniform_of<T>(words, pair)));
      const T angle = T(2) * std::numbers::pi_v<T> * uniform_of<T>(words, pair + 1);
      if (first + pair < n) y[first + pair] = radius * std::cos(angle);
      if (first + pair + 1 < n) y[first + pair + 1] = radius * std::sin(angle);
    }
  });
}

// The high half of the 128-bit product of 64 random bits and `high` (Lemire, 2019, without the rejection: the
// bias is below high / 2^64).
void randint(const Cpu&, int64_t* y, int64_t high, RandomStream random, int64_t n) {
  __extension__ using uint128 = unsigned __int128;
  for_philox_blocks(random, n, 2, [=](int64_t first, const std::array<uint32_t, 4>& words) {
    for (int64_t i = first; i < std::min(n, first + 2); ++i) {
      y[i] = int64_t(uint128(wide(words, int(i - first))) * uint128(high) >> 64);
    }
  });
}

template <class T>
void dropout(const Cpu&, T* y, const T* x, double p, RandomStream random, int64_t n) {
  const float rate = float(p);
  const T scale = T(1 / (1 - p));
  for_philox_blocks(random, n, 4, [=](int64_t first, const std::array<uint32_t, 4>& words) {
    for (int64_t i = first; i < std::min(n, first + 4); ++i) {
      y[i] = uniform01(words[i - first]) < rate ? T(0) : x[i] * scale;
    }
  });
}

AG_INSTANTIATE_FLOATING(uniform)
AG_INSTANTIATE_FLOATING(normal)
AG_INSTANTIATE_FLOATING(dropout)

}  // namespace altgrad::kernels
