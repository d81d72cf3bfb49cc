// Random kernels: element i is the function of (seed, stream, i) that it is on the CPU.
#include <altgrad/core/internal/kernels/random.h>

#include <altgrad/core/cuda/launch.h>
#include <altgrad/core/internal/draw.h>
#include <altgrad/core/internal/instantiate.h>

namespace altgrad::kernels {
inline namespace on_cuda {
namespace {

// f(first element, words) for every group of `per_block` elements, which share one Philox block.
template <class F>
void for_blocks(const Cuda& device, const char* name, RandomStream random, int64_t n, int64_t per_block,
                F f) {
  cuda::each(device, name, (n + per_block - 1) / per_block,
             [=] AG_LAMBDA(int64_t block) { f(block * per_block, random.block(uint64_t(block))); });
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
  const float rate = float(p);
  const auto scale = Compute<T>(1 / (1 - p));
  for_blocks(device, "dropout", random, n, 4, [=] AG_LAMBDA(int64_t first, const RandomWords& words) {
    for (int i = 0; i < 4; ++i) {
      if (first + i < n) y[first + i] = uniform01(words[size_t(i)]) < rate ? T(0) : T(x[first + i] * scale);
    }
  });
}

AG_INSTANTIATE_FLOATING(uniform)
AG_INSTANTIATE_FLOATING(normal)
AG_INSTANTIATE_STORED(dropout)

}  // namespace on_cuda
}  // namespace altgrad::kernels
