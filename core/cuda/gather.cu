// Gathering rows by index, and adding them back. An id out of range has been seen by check_ids, and its error is on
// its way: here it only must not be followed.
#include <altgrad/core/internal/kernels/gather.h>

#include <altgrad/core/cuda/packs.h>
#include <altgrad/core/cuda/runtime.h>
#include <altgrad/core/internal/instantiate.h>

#include <algorithm>
#include <bit>
#include <type_traits>
#include <utility>

namespace altgrad::kernels {
inline namespace on_cuda {

namespace {

template <int size, class T>
void copy_rows(const Cuda& device, T* y, const T* x, const int64_t* ids, int64_t outer, int64_t n,
               int64_t count, int64_t inner) {
  const bool aligned = cuda::aligned<size>(y, x);
  const int64_t packs = inner / size;
  cuda::each(device, "gather", outer * count * packs, [=] AG_LAMBDA(int64_t i) {
    const int64_t row = i / packs, column = i % packs * size;
    cuda::Pack<T, size> pack{};
    if (n > 0) {
      const int64_t from = row / count * n + nearest_id(ids[row % count], n);
      pack = cuda::load<size>(x + from * inner + column, aligned);
    }
    cuda::store(pack, y + row * inner + column, aligned);
  });
}

constexpr int run_length = cuda::most_threads;  // keys that a block sorts

// The first of n ascending keys that is not below `key`.
AG_DEVICE int64_t lower_bound(const uint64_t* keys, int64_t n, uint64_t key) {
  int64_t first = 0;
  while (n > 0) {
    const int64_t half = n / 2;
    const bool below = keys[first + half] < key;
    first = below ? first + half + 1 : first;
    n = below ? n - half - 1 : half;
  }
  return first;
}

// Where each id occurs among `count`, in ascending order: bits above `shift` of a key are an id, those below its
// position, so that no two keys are equal and any way to sort them gives the same.
struct SortedIds {
  const uint64_t* keys;
  int shift;
  AG_DEVICE int64_t position(int64_t k) const { return int64_t(keys[k] & ((uint64_t(1) << shift) - 1)); }
};

// Sorts runs of keys by counting those below each, then merges two and two: a key's place is that in its own run and
// that which it would have in the other.
SortedIds sort_ids(const Cuda& device, uint64_t* keys, uint64_t* other, const int64_t* ids, int64_t n,
                   int64_t count) {
  const int shift = 64 - detail::leading_zeros(uint64_t(count));
  cuda::rows(device, "sort_ids", (count + run_length - 1) / run_length, run_length, [=] AG_LAMBDA(int64_t r) {
    AG_SHARED(uint64_t, run, run_length);
    const int64_t first = r * run_length, i = first + threadIdx.x;
    const int length = int(count - first < run_length ? count - first : run_length);
    const uint64_t own = i < count ? uint64_t(nearest_id(ids[i], n)) << shift | uint64_t(i) : 0;
    __syncthreads();  // nobody reads the run before
    run[threadIdx.x] = own;
    __syncthreads();
    int below = 0;
    for (int k = 0; k < length; ++k) below += run[k] < own;
    if (i < count) keys[first + below] = own;
  });
  for (int64_t length = run_length; length < count; length *= 2) {
    cuda::each(device, "sort_ids", count, [=] AG_LAMBDA(int64_t i) {
      const int64_t own = i / length * length, left = own / (2 * length) * (2 * length);
      const int64_t sibling = own == left ? own + length : left, rest = count - sibling;
      const int64_t siblings = rest < 0 ? 0 : rest < length ? rest : length;
      other[left + (i - own) + lower_bound(keys + sibling, siblings, keys[i])] = keys[i];
    });
    std::swap(keys, other);
  }
  return {keys, shift};
}

struct Owners {
  int64_t outer, n, count, inner;
  int lanes;  // threads side by side, each with a pack of columns; further ones share the positions
};

// A block has a row of one outer index, or a part of its columns, and adds what came from it, in the order of positions
// but for those that other threads have.
template <int size, class T>
__global__ void __launch_bounds__(1024) gather_grad_kernel(T* dx, bool adds, const T* dy, SortedIds ids,
                                                           const int64_t* first, Owners shape, bool aligned) {
  cuda::begin_kernel();
  using Pack = cuda::Pack<T, size>;
  AG_SHARED(Pack, of_parts, 1024);
  const int lane = int(threadIdx.x) % shape.lanes, part = int(threadIdx.x) / shape.lanes,
            parts = int(blockDim.x) / shape.lanes;
  const int64_t tiles = (shape.inner + shape.lanes * size - 1) / (shape.lanes * size);
  for (int64_t b = blockIdx.x; b < shape.outer * shape.n * tiles; b += gridDim.x) {
    const int64_t row = b / tiles, o = row / shape.n, begin = first[row % shape.n],
                  end = first[row % shape.n + 1], column = (b % tiles * shape.lanes + lane) * size;
    if (begin == end && adds) continue;
    Pack sum{};
    for (int64_t k = begin + part; k < end && column < shape.inner; k += parts) {
      const Pack g =
          cuda::load<size>(dy + (o * shape.count + ids.position(k)) * shape.inner + column, aligned);
      for (int c = 0; c < size; ++c) sum.at[c] += g.at[c];
    }
    if (parts > 1) {
      of_parts[threadIdx.x] = sum;
      __syncthreads();
      for (int other = 1; other < parts && part == 0; ++other) {
        for (int c = 0; c < size; ++c) sum.at[c] += of_parts[other * shape.lanes + lane].at[c];
      }
      __syncthreads();
    }
    if (part > 0 || column >= shape.inner) continue;
    T* const to = dx + row * shape.inner + column;
    if (adds) {
      const Pack old = cuda::load<size>(to, aligned);
      for (int c = 0; c < size; ++c) sum.at[c] += old.at[c];
    }
    cuda::store(sum, to, aligned);
  }
}

template <int size, class T>
void add_rows(const Cuda& device, T* dx, bool adds, const T* dy, const SortedIds& ids, const int64_t* first,
              Owners shape) {
  const bool crowded = shape.count / shape.n >= 16;  // many positions to an id: many threads share them
  shape.lanes = crowded ? 32 : int(cuda::threads_for(shape.inner / size));
  const int parts = crowded ? 32 : 1;
  const int64_t tile = shape.lanes * size, tiles = (shape.inner + tile - 1) / tile;
  cuda::launch("gather_grad", gather_grad_kernel<size, T>, device.stream,
               {cuda::blocks_for(shape.outer * shape.n * tiles), unsigned(shape.lanes * parts)}, dx, adds, dy,
               ids, first, shape, cuda::aligned<size>(dx, dy));
}

}  // namespace

template <std::floating_point T>
void gather(const Cuda& device, T* y, const T* x, const int64_t* ids, int64_t outer, int64_t n, int64_t count,
            int64_t inner) {
  if (inner % cuda::pack_size<T> == 0) {
    copy_rows<cuda::pack_size<T>>(device, y, x, ids, outer, n, count, inner);
  } else {
    copy_rows<1>(device, y, x, ids, outer, n, count, inner);
  }
}

template <std::floating_point T>
void gather_grad(const Cuda& device, T* dx, double beta, const T* dy, const int64_t* ids, int64_t outer,
                 int64_t n, int64_t count, int64_t inner) {
  if (outer * n * inner == 0) return;
  const cuda::Scratch<uint64_t> keys(device, count), others(device, count);
  const cuda::Scratch<int64_t> bounds(device, n + 1);
  const SortedIds sorted = sort_ids(device, keys.data(), others.data(), ids, n, count);
  cuda::each(device, "gather_grad", n + 1, [=, first = bounds.data()] AG_LAMBDA(int64_t r) {
    first[r] = lower_bound(sorted.keys, count, uint64_t(r) << sorted.shift);
  });
  const Owners shape{outer, n, count, inner, 0};
  if (inner % cuda::pack_size<T> == 0) {
    add_rows<cuda::pack_size<T>>(device, dx, beta != 0, dy, sorted, bounds.data(), shape);
  } else {
    add_rows<1>(device, dx, beta != 0, dy, sorted, bounds.data(), shape);
  }
}

void check_ids(const Cuda& device, const IdRange& range, const int64_t* ids) {
  const int64_t count = range.shape.numel();
  if (count == 0) return;
  cuda::WrongId* const wrong = cuda::wrong_id(device.index);
  const int64_t share = std::min(count, cuda::few);
  cuda::rows(device, "check_ids", (count + share - 1) / share, share, [=] AG_LAMBDA(int64_t r) {
    // The first wrong one from `begin` on, or else `count`.
    const auto first_wrong = [&](int64_t begin, int64_t end) {
      int64_t first = count;
      cuda::each_of_row(end - begin, [&](int64_t i) {
        if (!range.holds(ids[begin + i]) && first == count) first = begin + i;
      });
      return cuda::block_reduce(first, count, cuda::Smaller());
    };
    const int64_t begin = r * share, left = count - begin;
    const int64_t first = first_wrong(begin, begin + (left < share ? left : share));
    if (first == count || first_wrong(0, begin) < count) return;  // that one is another block's
    if (threadIdx.x == 0 && !wrong->found) *wrong = {true, first, ids[first], range};
  });
}

AG_INSTANTIATE_FLOATING(gather)
AG_INSTANTIATE_FLOATING(gather_grad)

}  // namespace on_cuda
}  // namespace altgrad::kernels
