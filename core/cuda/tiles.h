// Products of tiles by a warp: sums in registers, a left operand in registers, a right one in shared memory. A lane has
// parts of 8 x 8 squares, as mma.sync has them (device.h): with g = lane / 4 and t = lane % 4, of row g the columns
// 2 t and 2 t + 1.
#pragma once

#include <altgrad/core/bfloat16.h>
#include <altgrad/core/cuda/approx.h>
#include <altgrad/core/cuda/device.h>

#include <type_traits>

namespace altgrad::cuda {

AG_DEVICE int lane() { return int(threadIdx.x) % 32; }
AG_DEVICE int warp() { return int(threadIdx.x) / 32; }

// The four lanes that share a row get its sum, or the largest of its numbers.
template <class F>
AG_DEVICE float reduce_row(float x, F combine AG_PLACE) {
  x = combine(x, AG_AT_PLACE(__shfl_xor_sync, all_lanes, x, 1));
  return combine(x, AG_AT_PLACE(__shfl_xor_sync, all_lanes, x, 2));
}

// A matrix in global memory: row r at data + r * stride. Beyond its rows and columns lie zeros.
template <class T>
struct Matrix {
  T* data;
  int stride, rows, columns;

  AG_DEVICE T* row(int r) const { return data + int64_t(r) * stride; }
  AG_DEVICE Matrix first(int n) const { return {data, stride, n, columns}; }
};

// A warp's sums. A lane has those of rows 8 r + g, two columns of every eight.
template <int m, int n>
struct Sums {
  float at[m / 16][n / 8][4] = {};
};

// f(r, column, x, ...) for a lane's own sums x of one matrix, or of several: those of row 8 r + g.
template <class F, int m, int n, class... Others>
AG_DEVICE void each_sum(F f, Sums<m, n>& x, Others&... others) {
  AG_UNROLL for (int i = 0; i < m / 16; ++i) {
    AG_UNROLL for (int j = 0; j < n / 8; ++j) {
      AG_UNROLL for (int k = 0; k < 4; ++k)
          f(2 * i + k / 2, 8 * j + lane() % 4 * 2 + k % 2, x.at[i][j][k], others.at[i][j][k]...);
    }
  }
}

// Products of bfloat16s with sums in f32, which is what a product with mma_bf16 is.
struct Bf16 {
  using Value = bfloat16;

  // A left operand, m x k.
  template <int m, int k>
  struct Left {
    uint32_t at[m / 16][k / 16][4];
  };

  // Rows in shared memory are so far apart that ldmatrix meets no bank twice: by 16 bytes modulo 32 or 64 bytes.
  template <int columns>
  static constexpr int pitch = columns + 8;

  // Rows of shared memory.
  template <int m, int k>
  static AG_DEVICE Left<m, k> left(const bfloat16* a AG_PLACE) {
    Left<m, k> made;
    const bfloat16* const own = a + lane() % 16 * pitch<k> + lane() / 16 * 8;
    AG_UNROLL for (int i = 0; i < m / 16; ++i) {
      AG_UNROLL for (int j = 0; j < k / 16; ++j)
          AG_AT_PLACE(load_matrices, made.at[i][j], &own[16 * i * pitch<k> + 16 * j].bits);
    }
    return made;
  }
  // Sums, rounded: of two squares side by side a lane has what is a left operand's.
  template <int m, int k>
  static AG_DEVICE Left<m, k> left(const Sums<m, k>& a) {
    Left<m, k> made;
    AG_UNROLL for (int i = 0; i < m / 16; ++i) {
      AG_UNROLL for (int j = 0; j < k / 16; ++j) {
        AG_UNROLL for (int part = 0; part < 4; ++part) {
          const float* const two = &a.at[i][2 * j + part / 2][part % 2 * 2];
          made.at[i][j][part] = pair_of(two[0], two[1]);
        }
      }
    }
    return made;
  }

  // sum += a b^T, of n rows b of shared memory.
  template <int m, int n, int k>
  static AG_DEVICE void add_abt(Sums<m, n>& sum, const Left<m, k>& a, const bfloat16* b AG_PLACE) {
    const bfloat16* const own = b + (lane() % 8 + lane() / 16 * 8) * pitch<k> + lane() / 8 % 2 * 8;
    AG_UNROLL for (int l = 0; l < k / 16; ++l) {
      AG_UNROLL for (int j = 0; j < n / 16; ++j) {
        uint32_t of_b[4];
        AG_AT_PLACE(load_matrices, of_b, &own[16 * j * pitch<k> + 16 * l].bits);
        AG_AT_PLACE((multiply_pair<m, n, k>), sum, a, of_b, j, l);
      }
    }
  }
  // sum += a b, of k rows b of shared memory.
  template <int m, int n, int k>
  static AG_DEVICE void add_ab(Sums<m, n>& sum, const Left<m, k>& a, const bfloat16* b AG_PLACE) {
    const bfloat16* const own = b + lane() % 16 * pitch<n> + lane() / 16 * 8;
    AG_UNROLL for (int l = 0; l < k / 16; ++l) {
      AG_UNROLL for (int j = 0; j < n / 16; ++j) {
        uint32_t of_b[4];
        AG_AT_PLACE(load_matrices<true>, of_b, &own[16 * l * pitch<n> + 16 * j].bits);
        AG_AT_PLACE((multiply_pair<m, n, k>), sum, a, of_b, j, l);
      }
    }
  }

  // Two numbers side by side.
  static AG_DEVICE void store(bfloat16* to, float first, float second) {
    *reinterpret_cast<uint32_t*>(to) = pair_of(first, second);
  }

 private:
  // Columns 16 j to 16 j + 15 of the sums, of columns 16 l to 16 l + 15 of a.
  template <int m, int n, int k>
  static AG_DEVICE void multiply_pair(Sums<m, n>& sum, const Left<m, k>& a, const uint32_t (&b)[4], int j,
                                      int l AG_PLACE) {
    AG_UNROLL for (int i = 0; i < m / 16; ++i) {
      AG_AT_PLACE(mma_bf16, sum.at[i][2 * j], a.at[i][l], {b[0], b[1]});
      AG_AT_PLACE(mma_bf16, sum.at[i][2 * j + 1], a.at[i][l], {b[2], b[3]});
    }
  }
};

// y's rows from `first` on, as far as there are any, become scales[r] times the sums.
template <class Math, int m, int n>
AG_DEVICE void store_rows(const Matrix<typename Math::Value>& y, int first, const Sums<m, n>& x,
                          const float (&scales)[m / 8]) {
  AG_UNROLL for (int r = 0; r < m / 8; ++r) {
    const int row = first + 8 * r + lane() / 4;
    if (row >= y.rows) continue;
    AG_UNROLL for (int j = 0; j < n / 8; ++j) {
      const float* const two = &x.at[r / 2][j][r % 2 * 2];
      if (8 * j < y.columns)
        Math::store(y.row(row) + 8 * j + lane() % 4 * 2, scales[r] * two[0], scales[r] * two[1]);
    }
  }
}
template <class Math, int m, int n>
AG_DEVICE void store_rows(const Matrix<typename Math::Value>& y, int first, const Sums<m, n>& x,
                          float scale) {
  float scales[m / 8];
  AG_UNROLL for (int r = 0; r < m / 8; ++r) scales[r] = scale;
  store_rows<Math>(y, first, x, scales);
}

}  // namespace altgrad::cuda
