// Sums over the rows of matrices, column by column: of chunks of rows, then of the chunks' sums. A thread adds its few
// rows of a chunk in the type that they are computed in, in registers; all other sums are in f64. Which rows a thread
// adds, and in which order, follows from the sizes alone. What is summed may be written as well.
#pragma once

#include <altgrad/core/cuda/packs.h>
#include <altgrad/core/dtype.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace altgrad::cuda {

constexpr int column_threads = 256;  // of a block
constexpr int rows_at_once = 8;      // of a thread, whose loads are on their way together

struct Matrices {
  int64_t count, rows, columns;
  int64_t chunk, chunks;  // rows to a chunk, and how many there are, one of no rows
};

// The packs of some rows that begin in the same column, in which p is of row 0.
template <int size, class T>
struct PacksOfRows {
  Pack<T, size> at[rows_at_once];
};
template <int size, class T, class F>
AG_DEVICE PacksOfRows<size, T> load_rows(const T* p, int64_t columns, const F& row) {
  PacksOfRows<size, T> x;
  AG_UNROLL for (int j = 0; j < rows_at_once; ++j) x.at[j] = load<size>(p + row(j) * columns, true);
  return x;
}
template <int size, class T, class F>
AG_DEVICE void store_rows(const PacksOfRows<size, T>& x, T* p, int64_t columns, const F& row, int left) {
  AG_UNROLL for (int j = 0; j < rows_at_once; ++j) {
    if (j < left) store(x.at[j], p + row(j) * columns, true);
  }
}
template <int size, class T, class F>  // what is const stays
AG_DEVICE void store_rows(const PacksOfRows<size, T>&, const T*, int64_t, const F&, int) {}

// What f is given of an element: the number that it is computed as, or the element itself where it is to be written.
template <class T>
AG_DEVICE decltype(auto) as_given(std::remove_const_t<T>& x) {
  if constexpr (std::is_const_v<T>) {
    return Compute<std::remove_const_t<T>>(x);
  } else {
    return (x);
  }
}
template <class T>
using Given = decltype(as_given<T>(std::declval<std::remove_const_t<T>&>()));

// A block has the lanes * size columns of a tile in one chunk of a matrix: `parts` threads share the rows of a column.
// Two blocks leave each other registers for all loads: without a number, ptxas has some wait for others.
template <int lanes, int size, int sums, class F, class Finish, class... T>
__global__ void __launch_bounds__(column_threads, 2)
    columns_kernel(F f, Finish finish, Matrices shape, T*... p) {
  begin_kernel();
  using C = typename decltype(f(int64_t(), std::declval<Given<T>>()...))::value_type;
  constexpr int parts = column_threads / lanes, tile = lanes * size;
  AG_SHARED(C, of_parts, parts * sums * tile);
  const auto tiles = unsigned((shape.columns + tile - 1) / tile), chunks = unsigned(shape.chunks);
  const int64_t matrix = blockIdx.x / tiles / chunks, chunk = blockIdx.x / tiles % chunks,
                first_column = int64_t(blockIdx.x % tiles) * tile;
  const int lane = int(threadIdx.x % lanes), part = int(threadIdx.x / lanes);

  Pack<C, size> own[sums] = {};
  const int64_t column = first_column + lane * size, begin = chunk * shape.chunk + part,
                end = (chunk + 1) * shape.chunk < shape.rows ? (chunk + 1) * shape.chunk : shape.rows;
  int64_t first = matrix * shape.rows + begin;
  for (int left = column < shape.columns ? int((end - begin + parts - 1) / parts) : 0; left > 0;
       left -= rows_at_once, first += rows_at_once * parts) {
    // Behind the last row it is the first again, whose terms count for nothing then: a branch would have loads wait.
    const auto row = [&](int j) { return first + (j < left ? j : 0) * parts; };
    const auto add = [&](PacksOfRows<size, std::remove_const_t<T>>&&... x) {
      AG_UNROLL for (int j = 0; j < rows_at_once; ++j) {
        for (int k = 0; k < size; ++k) {
          const std::array<C, sums> terms = f(row(j), as_given<T>(x.at[j].at[k])...);
          for (int s = 0; s < sums; ++s) own[s].at[k] += j < left ? terms[size_t(s)] : C(0);
        }
      }
      (store_rows(x, p + column, shape.columns, row, left), ...);
    };
    add(load_rows<size>(p + column, shape.columns, row)...);
  }
  for (int s = 0; s < sums; ++s) store(own[s], of_parts + (part * sums + s) * tile + lane * size, true);
  __syncthreads();
  for (int i = int(threadIdx.x); i < sums * tile; i += column_threads) {
    double total = 0;
    for (int other = 0; other < parts; ++other) total += double(of_parts[other * sums * tile + i]);
    if (first_column + i % tile < shape.columns)
      finish(matrix * chunks + chunk, i / tile, first_column + i % tile, total);
  }
}

// In packs where those are aligned and whole: a column's sum does not depend on it.
template <int lanes, int sums, class F, class Finish, class... T>
void launch_columns(const Cuda& device, const char* name, const Matrices& shape, F f, Finish finish,
                    T*... p) {
  constexpr int pack = pack_size<T...>;
  const auto run = [&]<int size>(std::integral_constant<int, size>) {
    const int64_t tiles = (shape.columns + lanes * size - 1) / (lanes * size);
    launch(name, columns_kernel<lanes, size, sums, F, Finish, T...>, device.stream,
           {unsigned(shape.count * shape.chunks * tiles), column_threads}, f, finish, shape, p...);
  };
  if (shape.columns % pack == 0 && aligned<pack>(p...)) {
    run(std::integral_constant<int, pack>());
  } else {
    run(std::integral_constant<int, 1>());
  }
}

// finish(matrix, s, column, total) for the totals of partial (count, chunks, sums, columns), sums of chunks. Few lanes
// make many blocks of what is little.
template <int sums, class Finish>
void sum_chunks(const Cuda& device, const char* name, int64_t count, int64_t chunks, int64_t columns,
                Finish finish, const double* partial) {
  launch_columns<8, 1>(
      device, name, Matrices{count, chunks, sums * columns, chunks, 1},
      [=] AG_LAMBDA(int64_t, double x) { return std::array<double, 1>{x}; },
      [=] AG_LAMBDA(int64_t matrix, int, int64_t column, double total) {
        finish(matrix, int(column / columns), column % columns, total);
      },
      partial);
}

// Rows to a chunk, each of whose columns `parts` threads share: all, where a thread has no more than 32 of them, or
// else as many as leave some 132 multiprocessors a few blocks each, and a thread at most 16.
inline int64_t rows_of_chunk(int64_t rows, int64_t tiles, int parts) {
  constexpr int64_t blocks = 512, least = 4, most = 16;
  if (rows <= 32 * parts) return rows;
  return parts * std::clamp((rows * tiles + blocks * parts - 1) / (blocks * parts), least, most);
}

// finish(matrix, s, column, total) for each column of `count` matrices of (rows, columns), total being the sum over its
// rows of number s of f(row, p[row * columns + column]...), an array; rows are counted from the first matrix's. f is given
// an element where p is not const, which it may set, and else the number that it is computed as.
template <int sums, class F, class Finish, class... T>
void column_sums(const Cuda& device, const char* name, int64_t count, int64_t rows, int64_t columns, F f,
                 Finish finish, T*... p) {
  if (count * columns <= 0) return;
  constexpr int lanes = 16, tile = lanes * pack_size<T...>;
  const int64_t tiles = count * ((columns + tile - 1) / tile);
  const int64_t chunk = rows_of_chunk(rows, tiles, column_threads / lanes),
                chunks = rows > chunk ? (rows + chunk - 1) / chunk : 1;
  const Matrices shape{count, rows, columns, chunk, chunks};
  if (chunks == 1) return launch_columns<lanes, sums>(device, name, shape, f, finish, p...);
  const Scratch<double> partial(device, count * chunks * sums * columns);
  launch_columns<lanes, sums>(
      device, name, shape, f,
      [=, to = partial.data()] AG_LAMBDA(int64_t chunk, int s, int64_t column, double total) {
        to[(chunk * sums + s) * columns + column] = total;
      },
      p...);
  sum_chunks<sums>(device, name, count, chunks, columns, finish, partial.data());
}

}  // namespace altgrad::cuda
