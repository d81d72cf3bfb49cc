// The shapes of kernels: a function of each element, a block for each row, a sum in a fixed order. Grids follow from
// sizes alone, never from the machine, and so do the results.
#pragma once

#include <altgrad/core/cuda/device.h>
#include <altgrad/core/device.h>
#include <altgrad/core/dtype.h>
#include <altgrad/core/memory.h>

#include <algorithm>
#include <cstdint>

namespace altgrad::cuda {

constexpr int most_threads = 256;  // of a block
// Of a grid: what is left takes further turns. So few on a simulated device that in every test blocks take them.
#if defined(__CUDACC__)
constexpr int64_t most_blocks = 1 << 12;
#else
constexpr int64_t most_blocks = 3;
#endif

// Whole warps for n elements.
inline unsigned threads_for(int64_t n, int most = most_threads) {
  return unsigned(std::clamp<int64_t>((n + 31) / 32 * 32, 32, most));
}
inline unsigned blocks_for(int64_t n) { return unsigned(std::min(n, most_blocks)); }

// Kernels may have the registers that two blocks leave each other: without a number, ptxas spills some in f64.
template <class F>
__global__ void __launch_bounds__(most_threads, 2) each_kernel(F f, int64_t n) {
  begin_kernel();
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += int64_t(gridDim.x) * blockDim.x)
    f(i);
}
// f(i) for i < n.
template <class F>
void each(const Cuda& device, const char* name, int64_t n, F f) {
  if (n <= 0) return;
  const unsigned threads = threads_for(n);
  launch(name, each_kernel<F>, device.stream, {blocks_for((n + threads - 1) / threads), threads}, f, n);
}

template <class F>
__global__ void __launch_bounds__(most_threads, 2) rows_kernel(F f, int64_t rows) {
  begin_kernel();
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) f(r);
}
// f(r) by all threads of a block, as many as suit n elements, for r < rows.
template <class F>
void rows(const Cuda& device, const char* name, int64_t rows, int64_t n, F f) {
  if (rows <= 0) return;
  launch(name, rows_kernel<F>, device.stream, {blocks_for(rows), threads_for(n)}, f, rows);
}

// f(i) for those i < n that are the thread's own: in a block of any size each is one thread's.
template <class F>
AG_DEVICE void each_of_row(int64_t n, F f) {
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) f(i);
}
// Every thread gets the sum of f(i) for i < n, or the largest, -infinity for n = 0; NaN does not count in the latter.
template <class T, class F>
AG_DEVICE T row_sum(int64_t n, F f) {
  T sum = 0;
  each_of_row(n, [&](int64_t i) { sum += f(i); });
  return block_sum(sum);
}
template <class T>
AG_DEVICE Compute<T> row_max(const T* x, int64_t n) {
  constexpr Compute<T> none = -std::numeric_limits<Compute<T>>::infinity();
  Compute<T> top = none;
  each_of_row(n, [&](int64_t i) { top = x[i] > top ? Compute<T>(x[i]) : top; });
  return block_reduce(top, none, Larger());
}

struct Smaller {
  AG_DEVICE int64_t operator()(int64_t a, int64_t b) const { return b < a ? b : a; }
};

// Memory for kernels that are started during its life. What takes it next runs after them: there is one stream.
template <class T>
class Scratch {
 public:
  Scratch(const Cuda& device, int64_t n) : memory_(size_t(n) * sizeof(T), Device::cuda(device.index)) {}
  T* data() const { return static_cast<T*>(memory_.data); }

 private:
  detail::Storage memory_;
};

// What a block is given of long rows, so that many work on one; and of what is little, a few for each thread.
constexpr int64_t piece = 1 << 12, few = 4 * most_threads;
inline int64_t pieces_for(int64_t n) { return (n + piece - 1) / piece; }

// *sum = the sum of f(i) for i < n, in f64: of pieces, then of their sums.
template <class F>
void sum_all(const Cuda& device, const char* name, double* sum, int64_t n, F f) {
  const int64_t pieces = pieces_for(n);
  const Scratch<double> sums(device, pieces);
  rows(device, name, pieces, std::min(n, piece), [=, sums = sums.data()] AG_LAMBDA(int64_t r) {
    const int64_t first = r * piece, left = n - first;
    const double own = row_sum<double>(left < piece ? left : piece, [=](int64_t i) { return f(first + i); });
    if (threadIdx.x == 0) sums[r] = own;
  });
  rows(device, name, 1, pieces, [=, sums = sums.data()] AG_LAMBDA(int64_t) {
    const double total = row_sum<double>(pieces, [=](int64_t i) { return sums[i]; });
    if (threadIdx.x == 0) *sum = total;
  });
}

}  // namespace altgrad::cuda
