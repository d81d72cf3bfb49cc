// Products of tiles of floats by a warp (core/cuda/f32_attention.cu), of operands in shared memory, with sums in
// registers. A warp has 16 rows. Where they lie among its lanes, InF32 and InTf32 say: a lane has `height` rows, and so
// 2 * height lanes share a row; of it a lane has score_width columns side by side, or sum_width of a sum over a tile.
#pragma once

#include <altgrad/core/cuda/flash_attention.h>
#include <altgrad/core/cuda/packs.h>

#include <bit>
#include <cmath>

namespace altgrad::cuda::flash {

// Of a warp's rows, n numbers each, those that a lane has.
template <class Lanes, int n>
struct Part {
  float at[Lanes::height][n / (2 * Lanes::height)] = {};
};
// The i-th row that a lane has, and its j-th column, where it has `wide` side by side.
template <class Lanes>
AG_DEVICE int row_of(int i) {
  return m / Lanes::height * i + lane() / (2 * Lanes::height);
}
template <class Lanes, int wide>
AG_DEVICE int column_of(int j) {
  return 2 * Lanes::height * wide * (j / wide) + lane() % (2 * Lanes::height) * wide + j % wide;
}

// In f32, which no tensor core has: of what a lane reads, 16 bytes at a time, each number serves four rows, or eight
// columns and more. Pieces of eight rows, or eight pieces of one, lie in different banks.
struct InF32 {
  static constexpr int height = 4, score_width = 1, sum_width = 4;

  // scores += a b^T, of the warp's rows a (16, k) and a tile b (n, k).
  template <int n, int k>
  static AG_DEVICE void add_abt(Part<InF32, n>& scores, const float* a, const float* b) {
    const float *const own_a = a + lane() / 8 * F32::pitch<k>, *const own_b = b + lane() % 8 * F32::pitch<k>;
    AG_UNROLL_TWICE for (int c = 0; c < k; c += 4) {
      Pack<float, 4> left[height];
      AG_UNROLL for (int i = 0; i < height; ++i) left[i] = load<4>(own_a + 4 * i * F32::pitch<k> + c, true);
      AG_UNROLL for (int j = 0; j < n / 8; ++j) {
        const Pack<float, 4> right = load<4>(own_b + 8 * j * F32::pitch<k> + c, true);
        AG_UNROLL for (int i = 0; i < height; ++i) {
          AG_UNROLL for (int e = 0; e < 4; ++e) scores.at[i][j] += left[i].at[e] * right.at[e];
        }
      }
    }
  }
  // sums += a b, of the warp's weights a (16, k) and a tile b (k, n).
  template <int n, int k>
  static AG_DEVICE void add_ab(Part<InF32, n>& sums, const float* a, const float* b) {
    const float *const own_a = a + lane() / 8 * F32::pitch<k>, *const own_b = b + lane() % 8 * 4;
    AG_UNROLL_TWICE for (int c = 0; c < k; c += 4) {
      Pack<float, 4> left[height];
      AG_UNROLL for (int i = 0; i < height; ++i) left[i] = load<4>(own_a + 4 * i * F32::pitch<k> + c, true);
      AG_UNROLL for (int e = 0; e < 4; ++e) {
        AG_UNROLL for (int j = 0; j < n / 32; ++j) {
          const Pack<float, 4> right = load<4>(own_b + (c + e) * F32::pitch<n> + 32 * j, true);
          AG_UNROLL for (int i = 0; i < height; ++i) {
            AG_UNROLL for (int q = 0; q < 4; ++q) sums.at[i][4 * j + q] += left[i].at[e] * right.at[q];
          }
        }
      }
    }
  }
};

// The bits of x rounded to what tensor cores see of a float, 11 significant bits, NaN being one still.
AG_DEVICE uint32_t tf32_bits(float x) {
#if defined(__CUDACC__)
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
#else
  return std::bit_cast<uint32_t>(x) + (std::isfinite(x) ? 0x1000 : 0);
#endif
}

// In tf32 with sums in f32, by tensor cores. The order of a product's terms is free: where the instruction has columns
// t and t + 4 of a, and such rows of b, these are 2 t and 2 t + 1, which lie side by side.
struct InTf32 {
  static constexpr int height = 2, score_width = 2, sum_width = 2;

  template <int n, int k>
  static AG_DEVICE void add_abt(Part<InTf32, n>& scores, const float* a, const float* b AG_PLACE) {
    const float* const own_b = b + lane() / 4 * F32::pitch<k> + lane() % 4 * 2;
    AG_UNROLL_TWICE for (int c = 0; c < k; c += 8) {
      uint32_t left[4];
      load_left<k>(left, a + c);
      AG_UNROLL for (int j = 0; j < n / 8; ++j) {
        const Pack<float, 2> right = load<2>(own_b + 8 * j * F32::pitch<k> + c, true);
        AG_AT_PLACE(multiply, scores, left, right.at[0], right.at[1], j);
      }
    }
  }
  template <int n, int k>
  static AG_DEVICE void add_ab(Part<InTf32, n>& sums, const float* a, const float* b AG_PLACE) {
    const float* const own_b = b + lane() % 4 * 2 * F32::pitch<n> + lane() / 4;
    AG_UNROLL_TWICE for (int c = 0; c < k; c += 8) {
      uint32_t left[4];
      load_left<k>(left, a + c);
      AG_UNROLL for (int j = 0; j < n / 8; ++j) {
        const float* const right = own_b + c * F32::pitch<n> + 8 * j;
        AG_AT_PLACE(multiply, sums, left, right[0], right[F32::pitch<n>], j);
      }
    }
  }

 private:
  // Eight columns of the warp's rows.
  template <int k>
  static AG_DEVICE void load_left(uint32_t (&left)[4], const float* a) {
    AG_UNROLL for (int i = 0; i < 2; ++i) {
      const Pack<float, 2> two = load<2>(a + (8 * i + lane() / 4) * F32::pitch<k> + lane() % 4 * 2, true);
      left[i] = tf32_bits(two.at[0]);
      left[2 + i] = tf32_bits(two.at[1]);
    }
  }
  // The sums' columns 8 j to 8 j + 7.
  template <int n>
  static AG_DEVICE void multiply(Part<InTf32, n>& sums, const uint32_t (&left)[4], float first, float second,
                                 int j AG_PLACE) {
    float d[4] = {sums.at[0][2 * j], sums.at[0][2 * j + 1], sums.at[1][2 * j], sums.at[1][2 * j + 1]};
    AG_AT_PLACE(mma_tf32, d, left, {tf32_bits(first), tf32_bits(second)});
    AG_UNROLL for (int i = 0; i < 4; ++i) sums.at[i / 2][2 * j + i % 2] = d[i];
  }
};

// f(i, column, x, ...) for a lane's scores x, or those of several matrices.
template <class F, class Lanes, int n, class... Others>
AG_DEVICE void each_score(F f, Part<Lanes, n>& x, Others&... others) {
  AG_UNROLL for (int i = 0; i < Lanes::height; ++i) {
    AG_UNROLL for (int j = 0; j < n / (2 * Lanes::height); ++j)
        f(i, column_of<Lanes, Lanes::score_width>(j), x.at[i][j], others.at[i][j]...);
  }
}

// The warp's rows of shared memory become its scores, for all its lanes.
template <class Lanes, int n>
AG_DEVICE void share(float* rows, Part<Lanes, n>& scores AG_PLACE) {
  AG_AT_PLACE(__syncwarp, all_lanes);  // nobody needs what was there
  each_score([&](int i, int column, float x) { rows[row_of<Lanes>(i) * F32::pitch<n> + column] = x; },
             scores);
  AG_AT_PLACE(__syncwarp, all_lanes);
}

// The lanes that share a row get its sum, or the largest of its numbers.
template <class Lanes, class F>
AG_DEVICE float reduce_lanes(float x, F combine AG_PLACE) {
  for (int bits = Lanes::height; bits > 0; bits /= 2)
    x = combine(x, AG_AT_PLACE(__shfl_xor_sync, all_lanes, x, bits));
  return x;
}

// y's rows from `first` on, as far as there are any, become scales[i] times the sums.
template <class Lanes, int n>
AG_DEVICE void store_sums(const Matrix<float>& y, int first, const Part<Lanes, n>& sums,
                          const float (&scales)[Lanes::height]) {
  constexpr int wide = Lanes::sum_width;
  AG_UNROLL for (int i = 0; i < Lanes::height; ++i) {
    AG_UNROLL for (int j = 0; j < n / (2 * Lanes::height); j += wide) {
      const int row = first + row_of<Lanes>(i), column = column_of<Lanes, wide>(j);
      Pack<float, wide> out;
      AG_UNROLL for (int q = 0; q < wide; ++q) out.at[q] = scales[i] * sums.at[i][j + q];
      if (row < y.rows && column < y.columns) store(out, y.row(row) + column, true);
    }
  }
}

}  // namespace altgrad::cuda::flash
