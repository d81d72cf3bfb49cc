// Kernels on short rows that also sum over all rows, column by column: what both need is read once. A warp adds its few
// rows in the type that they are computed in, in shared memory; all other sums are in f64, as in columns.h.
#pragma once

#include <altgrad/core/cuda/columns.h>
#include <altgrad/core/cuda/row.h>

#include <algorithm>
#include <cstdint>

namespace altgrad::cuda {

constexpr int64_t rows_of_block = 8 * warps;

// The sums of a warp. All that a lane adds to lies in its bank: number k of its pack j at (j * size + k) * 32 + lane.
template <class C, int size>
struct WarpSums {
  C* at;
  int64_t width;  // of a sum: the columns, filled up to packs of 32 lanes

  // Adds f(values...) to the columns of sum s.
  template <class R, class F, class... V>
  AG_DEVICE void add(const R& row, int s, const F& f, const V&... values) const {
    row.each(
        [&](int64_t i, const auto&... packs) {
          const int lane = row.thread();
          C* const own = at + s * width + (i - lane * size) + lane;
          for (int k = 0; k < size; ++k) own[k * 32] += f(packs.at[k]...);
        },
        values...);
  }
};

// finish(matrix, s, column, total) for the number at a place of WarpSums.
template <int size, class Finish>
struct FinishColumn {
  Finish finish;
  int64_t columns;

  AG_DEVICE void operator()(int64_t matrix, int s, int64_t place, double total) const {
    const int64_t j = place / (32 * size), k = place / 32 % size, lane = place % 32;
    const int64_t column = (j * 32 + lane) * size + k;
    if (column < columns) finish(matrix, s, column, total);
  }
};

template <int size, int slots, int sums, class C, class F>
__global__ void __launch_bounds__(32 * warps, 4)
    row_sums_kernel(F f, double* partial, int64_t rows, int64_t n, int64_t width, bool aligned) {
  C* const of_warps = shared_memory<C>();
  const Row<size, slots> row{n, aligned, false};
  const int64_t numbers = sums * width, warp = threadIdx.x / 32;
  C* const own = of_warps + warp * numbers;
  for (int64_t i = row.thread(); i < numbers; i += 32) own[i] = 0;  // in the lane's bank

  const int64_t first = blockIdx.x * rows_of_block;
  const int64_t end = first + rows_of_block < rows ? first + rows_of_block : rows;
  for (int64_t r = first + warp; r < end; r += warps) f(r, row, WarpSums<C, size>{own, width});
  __syncthreads();
  for (int64_t i = threadIdx.x; i < numbers; i += blockDim.x) {
    double total = 0;
    for (int w = 0; w < warps; ++w) total += double(of_warps[w * numbers + i]);
    partial[blockIdx.x * numbers + i] = total;
  }
}

// Rows that each_row_with_sums takes: short ones, cut into whole packs.
template <class T>
bool sums_beside(int64_t n) {
  return n > 0 && n <= longest_short_row<T> && n % pack_size<T> == 0;
}

// f(r, row, sums) for r < rows, as in each_row; then finish(0, s, column, total) for each of `sums` sums that f has added
// to by sums.add(row, s, ...).
template <class T, int sums, class F, class Finish, class... P>
void each_row_with_sums(const Cuda& device, const char* name, int64_t rows, int64_t n, F f, Finish finish,
                        const P*... p) {
  using C = Compute<T>;
  constexpr int size = pack_size<T>;
  const int64_t blocks = std::max<int64_t>(1, (rows + rows_of_block - 1) / rows_of_block);
  const int64_t width = (n + 32 * size - 1) / (32 * size) * (32 * size);
  const Scratch<double> partial(device, blocks * sums * width);
  launch(name, row_sums_kernel<size, slots_of<T, size>, sums, C, F>, device.stream,
         {unsigned(blocks), 32 * warps, size_t(warps * sums * width) * sizeof(C)}, f, partial.data(), rows, n,
         width, aligned<size>(p...));
  sum_chunks<sums>(device, name, 1, blocks, width, FinishColumn<size, Finish>{finish, n}, partial.data());
}

// The same f for each_row, which has no sums to add to.
struct NoSums {
  template <class... A>
  AG_DEVICE void add(const A&...) const {}
};
template <class F>
struct WithoutSums {
  F f;

  template <class R>
  AG_DEVICE void operator()(int64_t r, const R& row) const {
    f(r, row, NoSums());
  }
};
template <class F>
WithoutSums<F> without_sums(F f) {
  return {f};
}

}  // namespace altgrad::cuda
