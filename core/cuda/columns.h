// Sums over the rows of matrices, column by column, in f64: of chunks of rows, then of the chunks' sums. Which rows a
// thread adds, and in which order, follows from the sizes alone.
#pragma once

#include <altgrad/core/cuda/packs.h>
#include <altgrad/core/dtype.h>

#include <array>
#include <cstdint>

namespace altgrad::cuda {

constexpr int64_t chunk_of_rows = 64, most_chunks = 256;

struct Matrices {
  int64_t count, rows, columns, chunk;  // rows to a chunk
  AG_HD int64_t chunks() const { return rows > chunk ? (rows + chunk - 1) / chunk : 1; }
};

// A block has the 32 * size columns of a tile in one chunk of a matrix: `parts` warps share the rows.
template <int parts, int size, int sums, class F, class Finish, class... T>
__global__ void __launch_bounds__(32 * parts)
    columns_kernel(F f, Finish finish, Matrices shape, bool aligned, const T*... p) {
  constexpr int tile = 32 * size;
  AG_SHARED(double, of_parts, parts* tile* sums);
  const int64_t tiles = (shape.columns + tile - 1) / tile, chunks = shape.chunks();
  const int64_t first_column = blockIdx.x % tiles * tile, chunk = blockIdx.x / tiles % chunks,
                matrix = blockIdx.x / tiles / chunks;
  const int lane = int(threadIdx.x % 32), part = int(threadIdx.x / 32);

  double own[sums][size] = {};
  const int64_t column = first_column + lane * size;
  const int64_t end = (chunk + 1) * shape.chunk < shape.rows ? (chunk + 1) * shape.chunk : shape.rows;
  if (column < shape.columns) {
    for (int64_t r = chunk * shape.chunk + part; r < end; r += parts) {
      const int64_t row = matrix * shape.rows + r;
      const auto add = [&](const Pack<T, size>&... packs) {
        for (int k = 0; k < size; ++k) {
          const std::array<double, sums> terms = f(row, Compute<T>(packs.at[k])...);
          for (int s = 0; s < sums; ++s) own[s][k] += terms[size_t(s)];
        }
      };
      add(load<size>(p + row * shape.columns + column, aligned)...);
    }
  }
  for (int s = 0; s < sums; ++s) {
    for (int k = 0; k < size; ++k) of_parts[((s * size + k) * parts + part) * 32 + lane] = own[s][k];
  }
  __syncthreads();
  for (int i = part; i < sums * size; i += parts) {
    double total = 0;
    for (int other = 0; other < parts; ++other) total += of_parts[(i * parts + other) * 32 + lane];
    if (column < shape.columns) finish(matrix * chunks + chunk, i / size, column + i % size, total);
  }
}

template <int parts, int size, int sums, class F, class Finish, class... T>
void launch_columns(const Cuda& device, const char* name, const Matrices& shape, F f, Finish finish,
                    const T*... p) {
  const int64_t tiles = (shape.columns + 32 * size - 1) / (32 * size);
  launch(name, columns_kernel<parts, size, sums, F, Finish, T...>, device.stream,
         {unsigned(shape.count * shape.chunks() * tiles), 32 * parts}, f, finish, shape, aligned<size>(p...),
         p...);
}

// finish(matrix, s, column, total) for the totals of partial (count, chunks, sums, columns), sums of chunks.
template <int sums, class Finish>
void sum_chunks(const Cuda& device, const char* name, int64_t count, int64_t chunks, int64_t columns,
                Finish finish, const double* partial) {
  launch_columns<32, 1, 1>(
      device, name, Matrices{count, chunks, sums * columns, chunks},
      [=] AG_LAMBDA(int64_t, double x) { return std::array<double, 1>{x}; },
      [=] AG_LAMBDA(int64_t matrix, int, int64_t column, double total) {
        finish(matrix, int(column / columns), column % columns, total);
      },
      partial);
}

// finish(matrix, s, column, total) for each column of `count` matrices of (rows, columns), total being the sum over its
// rows of number s of f(row, p[row * columns + column]...), an array; rows are counted from the first matrix's.
template <int sums, class F, class Finish, class... T>
void column_sums(const Cuda& device, const char* name, int64_t count, int64_t rows, int64_t columns, F f,
                 Finish finish, const T*... p) {
  if (count * columns <= 0) return;
  constexpr int size = pack_size<T...>;
  const int64_t chunk = std::max(chunk_of_rows, (rows + most_chunks - 1) / most_chunks);
  const Matrices shape{count, rows, columns, chunk};
  const int64_t chunks = shape.chunks();
  const auto run = [&](auto end) {
    if (columns % size == 0) {
      launch_columns<8, size, sums>(device, name, shape, f, end, p...);
    } else {
      launch_columns<8, 1, sums>(device, name, shape, f, end, p...);
    }
  };
  if (chunks == 1) return run(finish);
  const Scratch<double> partial(device, count * chunks * sums * columns);
  run([=, to = partial.data()] AG_LAMBDA(int64_t chunk, int s, int64_t column, double total) {
    to[(chunk * sums + s) * columns + column] = total;
  });
  sum_chunks<sums>(device, name, count, chunks, columns, finish, partial.data());
}

}  // namespace altgrad::cuda
