// Random kernels: element i is a function of (seed, stream, i) alone. See core/random.h.
#include <altgrad/core/cpu/parallel.h>
#include <altgrad/core/internal/draw.h>
#include <altgrad/core/internal/instantiate.h>
#include <altgrad/core/internal/kernels/random.h>

namespace altgrad::kernels {
inline namespace on_cpu {
namespace {

// f(first element, words) for every group of `per_block` elements, which share one Philox block.
template <class F>
void for_philox_blocks(RandomStream random, int64_t n, int64_t per_block, F&& f) {
  parallel_for(divide_up(n, per_block), 1 << 10, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) f(block * per_block, random.block(uint64_t(block)));
  });
}

}  // namespace

template <class T>
void uniform(const Cpu&, T* y, RandomStream random, int64_t n) {
  for_philox_blocks(random, n, per_block<T>, [=](int64_t first, const RandomWords& words) {
    for (int64_t i = first; i < std::min(n, first + per_block<T>); ++i)
      y[i] = uniform_of<T>(words, int(i - first));
  });
}

template <class T>
void normal(const Cpu&, T* y, RandomStream random, int64_t n) {
  for_philox_blocks(random, n, per_block<T>, [=](int64_t first, const RandomWords& words) {
    for (int pair = 0; pair < int(per_block<T>); pair += 2) {
      const NormalPair<T> both = normals_of<T>(words, pair);
      if (first + pair < n) y[first + pair] = both.first;
      if (first + pair + 1 < n) y[first + pair + 1] = both.second;
    }
  });
}

void randint(const Cpu&, int64_t* y, int64_t high, RandomStream random, int64_t n) {
  for_philox_blocks(random, n, 2, [=](int64_t first, const RandomWords& words) {
    for (int64_t i = first; i < std::min(n, first + 2); ++i) y[i] = integer_of(words, int(i - first), high);
  });
}

template <class T>
void dropout(const Cpu&, T* y, const T* x, double p, RandomStream random, int64_t n) {
  const float rate = float(p);
  const T scale = T(1 / (1 - p));
  for_philox_blocks(random, n, 4, [=](int64_t first, const RandomWords& words) {
    for (int64_t i = first; i < std::min(n, first + 4); ++i) {
      y[i] = uniform01(words[i - first]) < rate ? T(0) : x[i] * scale;
    }
  });
}

AG_INSTANTIATE_FLOATING(uniform)
AG_INSTANTIATE_FLOATING(normal)
AG_INSTANTIATE_FLOATING(dropout)

}  // namespace on_cpu
}  // namespace altgrad::kernels
