// Kernels on short rows that also sum over all rows, column by column: what both need is read once. A warp adds its few
// rows in the type that they are computed in, in registers; all other sums are in f64, as in columns.h.
#pragma once

#include <altgrad/core/cuda/columns.h>
#include <altgrad/core/cuda/row.h>

#include <algorithm>
#include <cstdint>

namespace altgrad::cuda {

// How many blocks a multiprocessor has at once, where a lane has so many quarters of the slots: what it keeps grows with
// them.
constexpr int blocks_with_sums(int quarters) { return (8 + quarters - 1) / quarters; }
// Of a block: some 128 multiprocessors have all at once, but for many rows, as no warp adds more than 16.
inline int64_t rows_with_sums(int64_t rows, int quarters) {
  constexpr int64_t least = warps, most = 16 * warps;
  const int64_t blocks = 128 * blocks_with_sums(quarters);
  return std::clamp((rows + blocks - 1) / blocks, least, most);
}

// A lane's sums: of its own columns, which are the same of each row.
template <class C, int size, int slots, int sums>
struct LaneSums {
  C at[sums][slots][size];

  // Adds f(values...) to the columns of sum s. Behind the row it adds to what nobody reads.
  template <class R, class F, class... V>
  AG_DEVICE void add(const R& row, int s, const F& f, const V&... values) {
    AG_UNROLL for (int j = 0; j < slots; ++j) {
      for (int k = 0; k < size; ++k) at[s][j][k] += f(values(j, row.begin(j)).at[k]...);
    }
  }
};

template <int size, int slots, bool aligned, int sums, class C, class F>
__global__ void __launch_bounds__(32 * warps, blocks_with_sums(slots* size * sizeof(C) / 32))
    row_sums_kernel(F f, double* partial, int64_t rows, int64_t rows_of_block, int64_t n) {
  begin_kernel();
  constexpr int tile = 32 * size,
                pitch = 32 + 32 / size;  // so that neither lanes nor columns meet a bank twice
  AG_SHARED(C, of_warps, warps * sums * size * pitch);
  const Row<size, slots> row{n, aligned, false};
  const int warp = int(threadIdx.x / 32);
  LaneSums<C, size, slots, sums> own{};
  const int64_t first = blockIdx.x * rows_of_block;
  const int64_t end = first + rows_of_block < rows ? first + rows_of_block : rows;
  for (int64_t r = first + warp; r < end; r += warps) f(r, row, own);

  AG_UNROLL for (int j = 0; j < slots; ++j) {
    AG_UNROLL for (int s = 0; s < sums; ++s) {
      for (int k = 0; k < size; ++k)
        of_warps[((warp * sums + s) * size + k) * pitch + row.thread()] = own.at[s][j][k];
    }
    __syncthreads();
    for (int i = int(threadIdx.x); i < sums * tile; i += int(blockDim.x)) {
      const int s = i / tile, column = i % tile, place = column % size * pitch + column / size;
      double total = 0;
      for (int w = 0; w < warps; ++w) total += double(of_warps[(w * sums + s) * size * pitch + place]);
      if (j * tile + column < n) partial[(blockIdx.x * sums + s) * n + j * tile + column] = total;
    }
    __syncthreads();
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
  constexpr int size = pack_size<T>;
  const int64_t rows_of_block = rows_with_sums(rows, quarters<T>(n));
  const int64_t blocks = std::max<int64_t>(1, (rows + rows_of_block - 1) / rows_of_block);
  const Scratch<double> partial(device, blocks * sums * n);
  with_slots<T, size>(
      n, aligned<size>(p...),
      [&]<int slots, bool aligned>(std::integral_constant<int, slots>, std::bool_constant<aligned>) {
        launch(name, row_sums_kernel<size, slots, aligned, sums, Compute<T>, F>, device.stream,
               {unsigned(blocks), 32 * warps}, f, partial.data(), rows, rows_of_block, n);
      });
  sum_chunks<sums>(device, name, 1, blocks, n, finish, partial.data());
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
