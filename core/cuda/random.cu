// Random kernels: element i is the function of (seed, stream, i) that it is on the CPU.
#include <altgrad/core/internal/kernels/random.h>

#include <altgrad/core/cuda/packs.h>
#include <altgrad/core/internal/draw.h>
#include <altgrad/core/internal/instantiate.h>

#include <algorithm>

namespace altgrad::kernels {
inline namespace on_cuda {
namespace {

// f(first element, words) for every group of `per_block` elements, which share one Philox block.
template <class F>
void for_blocks(const Cuda& device, const char* name, RandomStream random, int64_t n, int64_t per_block,
                F f) {
  cuda::each(device, name, (n + per_block - 1) / per_block, [=] AG_LAMBDA(int64_t block) {
    f(block * per_block, random.on_device().block(uint64_t(block)));
  });
}

}  // namespace

template <std::floating_point T>
void uniform(const Cuda& device, T* y, RandomStream random, int64_t n) {
  for_blocks(device, "uniform", random, n, per_block<T>,
             [=] AG_LAMBDA(int64_t first, const RandomWords& words) {
               for (int i = 0; i < int(per_block<T>); ++i) {
                 if (first + i < n) y[first + i] = uniform_of<T>(words, i);
               }
             });
}

template <std::floating_point T>
void normal(const Cuda& device, T* y, RandomStream random, int64_t n) {
  for_blocks(device, "normal", random, n, per_block<T>,
             [=] AG_LAMBDA(int64_t first, const RandomWords& words) {
               for (int pair = 0; pair < int(per_block<T>); pair += 2) {
                 const NormalPair<T> both = normals_of<T>(words, pair);
                 if (first + pair < n) y[first + pair] = both.first;
                 if (first + pair + 1 < n) y[first + pair + 1] = both.second;
               }
             });
}

void randint(const Cuda& device, int64_t* y, int64_t high, RandomStream random, int64_t n) {
  for_blocks(device, "randint", random, n, 2, [=] AG_LAMBDA(int64_t first, const RandomWords& words) {
    for (int i = 0; i < 2; ++i) {
      if (first + i < n) y[first + i] = integer_of(words, i, high);
    }
  });
}

template <class T>
void dropout(const Cuda& device, T* y, const T* x, double p, RandomStream random, int64_t n) {
  constexpr int size = std::max(4, cuda::pack_size<T>);
  const float rate = float(p);
  const auto scale = Compute<T>(1 / (1 - p));
  const bool aligned = cuda::aligned<size>(y, x);
  cuda::each(device, "dropout", (n + size - 1) / size, [=] AG_LAMBDA(int64_t pack) {
    const int64_t first = pack * size;
    RandomWords words[size / 4];
    for (int b = 0; b < size / 4; ++b) words[b] = random.on_device().block(uint64_t(first / 4 + b));
    int k = 0;
    const auto one = [&](T& to, T u) {
      to = uniform01(words[k / 4][size_t(k % 4)]) < rate ? T(0) : T(u * scale);
      ++k;
    };
    cuda::for_pack<size>(aligned && first + size <= n, n - first, one, y + first, x + first);
  });
}

AG_INSTANTIATE_FLOATING(uniform)
AG_INSTANTIATE_FLOATING(normal)
AG_INSTANTIATE_STORED(dropout)

}  // namespace on_cuda
}  // namespace altgrad::kernels
