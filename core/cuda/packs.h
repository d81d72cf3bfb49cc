// Elements in packs of up to 16 bytes, each of which one instruction loads or stores.
#pragma once

#include <altgrad/core/cuda/launch.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace altgrad::cuda {

template <class T, int size>
struct alignas(std::min<size_t>(16, sizeof(T) * size)) Pack {
  T at[size];
};

// How many elements of arrays that are walked together: 16 bytes of the largest.
template <class... T>
constexpr int pack_size = int(16 / std::max({sizeof(T)...}));

// May packs of so many begin at all these places?
template <int size, class... T>
AG_HD bool aligned(const T*... p) {
  return ((reinterpret_cast<uintptr_t>(p) % alignof(Pack<T, size>) == 0) && ...);
}

// *to = *from, one of which is at p, aligned. GCC moves an aligned load before the test whether its address is aligned,
// where the other branch reads the same bytes: it is only shown a copy.
template <class Pack>
AG_DEVICE void copy_pack(Pack* to, const Pack* from, [[maybe_unused]] const void* p) {
#if defined(__CUDACC__)
  *to = *from;
#else
  simulator::check_alignment("a pack", p, alignof(Pack), simulator::Location::current());
  std::memcpy(static_cast<void*>(to), static_cast<const void*>(from), sizeof(Pack));
#endif
}

// The elements at p, as one pack where that is aligned and whole, or else the first `count` one by one.
template <int size, class T>
AG_DEVICE Pack<T, size> load(const T* p, bool at_once, int64_t count = size) {
  Pack<T, size> pack;
  if (at_once) {
    copy_pack(&pack, reinterpret_cast<const Pack<T, size>*>(p), p);
    return pack;
  }
  AG_UNROLL for (int k = 0; k < size; ++k) pack.at[k] = k < count ? p[k] : T();
  return pack;
}
template <int size, class T>
AG_DEVICE void store(const Pack<T, size>& pack, T* p, bool at_once, int64_t count = size) {
  if (at_once) {
    copy_pack(reinterpret_cast<Pack<T, size>*>(p), &pack, p);
  } else {
    AG_UNROLL for (int k = 0; k < size; ++k) {
      if (k < count) p[k] = pack.at[k];
    }
  }
}
template <int size, class T>
AG_DEVICE void store(const Pack<T, size>&, const T*, bool, int64_t) {}  // what is const stays

// f(p[k]...) for a pack, or for its first `count` elements. What p points to is written where it is not const.
template <int size, class F, class... T>
AG_DEVICE void for_pack(bool at_once, int64_t count, const F& f, T*... p) {
  const auto run = [&](Pack<std::remove_const_t<T>, size>&&... packs) {
    for (int k = 0; k < size; ++k) f(packs.at[k]...);
    (store(packs, p, at_once, count), ...);
  };
  run(load<size>(p, at_once, count)...);
}

template <int size, class F, class... T>
__global__ void __launch_bounds__(most_threads, 2) map_kernel(F f, int64_t n, bool aligned, T*... p) {
  begin_kernel();
  const int64_t first = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * size;
  if (first < n) for_pack<size>(aligned && first + size <= n, n - first, f, (p + first)...);
}
// f(p[i]...) for i < n; what p points to is written where it is not const. A thread has a pack: as many are on
// their way at once as the GPU holds threads.
template <class F, class... T>
void map(const Cuda& device, const char* name, int64_t n, F f, T*... p) {
  constexpr int size = pack_size<T...>;
  if (n <= 0) return;
  const int64_t packs = (n + size - 1) / size;
  const unsigned threads = threads_for(packs);
  launch(name, map_kernel<size, F, T...>, device.stream, {unsigned((packs + threads - 1) / threads), threads},
         f, n, aligned<size>(p...), p...);
}

}  // namespace altgrad::cuda
