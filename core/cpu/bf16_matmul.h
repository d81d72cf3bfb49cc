// A matrix product of bf16 values with f32 sums, compiled once for each instruction set that has one, by
// matmul_amx.cpp and matmul_avx512_bf16.cpp. Both take B as panels of pairs, two k of a column side by side,
// 32 columns wide; they differ in the tile they compute at once.
//
// As in packed_matmul.h: internal linkage, and no headers with inline functions but the compiler's intrinsics.
#pragma once

#include <altgrad/core/cpu/matmul.h>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC bug 105593: both set off by its own intrinsics
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

namespace altgrad::cpu {
namespace {

constexpr int64_t panel = bf16_padding;                    // columns of a panel of B
constexpr int64_t max_k = 1024, max_m = 224, max_n = 256;  // of a block; max_m = 7 x 32 = 16 x 14 rows
static_assert(max_k / 2 * (max_m + max_n) <= bf16_scratch);

int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Pairs (a[i], b[i]) for i < 16.
__m512i pairs(const uint16_t* a, const uint16_t* b) {
  const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a)));
  const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)));
  return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

// out[i][j] = rows[j][i], a square of 16 x 16 pairs; out's rows are `stride` pairs apart.
void store_transposed(uint32_t* out, int64_t stride, const __m512i* rows) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 2; ++j) {
      b[i + 2 * j] = _mm512_unpacklo_epi64(a[i + j], a[i + j + 2]);
      b[i + 2 * j + 1] = _mm512_unpackhi_epi64(a[i + j], a[i + j + 2]);
    }
  }
  // b[4 g + c] holds, in its lane l, column 4 l + c of rows 4 g .. 4 g + 3.
  for (int c = 0; c < 4; ++c) {
    const __m512i low = _mm512_shuffle_i32x4(b[c], b[4 + c], 0x44),
                  high = _mm512_shuffle_i32x4(b[c], b[4 + c], 0xee);
    const __m512i low2 = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0x44),
                  high2 = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0xee);
    _mm512_store_si512(out + c * stride, _mm512_shuffle_i32x4(low, low2, 0x88));
    _mm512_store_si512(out + (4 + c) * stride, _mm512_shuffle_i32x4(low, low2, 0xdd));
    _mm512_store_si512(out + (8 + c) * stride, _mm512_shuffle_i32x4(high, high2, 0x88));
    _mm512_store_si512(out + (12 + c) * stride, _mm512_shuffle_i32x4(high, high2, 0xdd));
  }
}

// B (k, n), k and n multiples of 32, into panels of k / 2 rows of 32 pairs.
void pack_b(uint32_t* out, MatrixView<uint16_t> b, int64_t k, int64_t n) {
  for (int64_t j = 0; j < n; j += panel, out += k / 2 * panel) {
    for (int64_t half = 0; half < panel; half += 16) {
      const uint16_t* from = b.data + (j + half) * b.column;
      if (b.column == 1) {
        for (int64_t i = 0; i < k; i += 2)
          _mm512_store_si512(out + i / 2 * panel + half, pairs(from + i * b.row, from + (i + 1) * b.row));
      } else {  // pairs lie side by side in B's columns
        for (int64_t i = 0; i < k; i += 32) {
          __m512i columns[16];
          for (int64_t c = 0; c < 16; ++c) columns[c] = _mm512_loadu_si512(from + i + c * b.column);
          store_transposed(out + i / 2 * panel + half, panel, columns);
        }
      }
    }
  }
}

// A column-major A (m, k), m and k multiples of 32, into row-major order.
void pack_a(uint16_t* out, MatrixView<uint16_t> a, int64_t m, int64_t k) {
  for (int64_t i = 0; i < k; i += 32) {
    for (int64_t r = 0; r < m; r += 16) {
      __m512i two_columns[16];
      for (int64_t c = 0; c < 16; ++c) {
        const uint16_t* column = a.data + (i + 2 * c) * a.column + r;
        two_columns[c] = pairs(column, column + a.column);
      }
      store_transposed(reinterpret_cast<uint32_t*>(out + r * k + i), k / 2, two_columns);
    }
  }
}

// Where a tile's sums go: C (rows, columns) = alpha * sums + beta * C + bias, columns <= 32; bias may be null.
struct Target {
  float* c;
  int64_t ldc, rows, columns;
  float alpha, beta;
  const float* bias;

  // Half a row of sums, columns [16 half, 16 half + 16), of which C has those that it has.
  template <int half>
  void put(int64_t row, __m512 sums) const {
    float* const y = c + row * ldc + 16 * half;
    const int64_t count = columns - 16 * half;
    if (count <= 0) return;
    const __mmask16 mask = count >= 16 ? 0xffff : __mmask16((1 << count) - 1);
    const __m512 first = bias ? _mm512_maskz_loadu_ps(mask, bias + 16 * half) : _mm512_setzero_ps();
    __m512 value = _mm512_fmadd_ps(_mm512_set1_ps(alpha), sums, first);
    if (beta != 0) value = _mm512_fmadd_ps(_mm512_set1_ps(beta), _mm512_maskz_loadu_ps(mask, y), value);
    _mm512_mask_storeu_ps(y, mask, value);
  }
};

// tile(target, a, lda, b, k): the sums are A (rows, k), row-major, lda apart, times a panel of B, for target.rows <=
// Tile::rows.
template <class Tile>
void bf16_matmul(float* c, int64_t ldc, MatrixView<uint16_t> a, MatrixView<uint16_t> b, int64_t m, int64_t n,
                 int64_t k, float alpha, float beta, const float* bias, uint32_t* scratch) {
  const Tile tile;
  uint32_t* const packed_b = scratch;
  uint16_t* const packed_a = reinterpret_cast<uint16_t*>(scratch + max_k / 2 * max_n);
  const bool pack = a.column != 1;
  const int64_t padded_k = round_up(k, bf16_padding);
  for (int64_t p = 0; p < padded_k; p += max_k, beta = 1, bias = nullptr) {
    const int64_t depth = min(max_k, padded_k - p);
    for (int64_t j = 0; j < n; j += max_n) {
      const int64_t width = min(max_n, n - j);
      pack_b(packed_b, {b.data + p * b.row + j * b.column, b.row, b.column}, depth, round_up(width, panel));
      for (int64_t i = 0; i < m; i += max_m) {
        const int64_t height = min(max_m, m - i);
        const uint16_t* block = a.data + i * a.row + p * a.column;
        if (pack) pack_a(packed_a, {block, a.row, a.column}, round_up(height, bf16_padding), depth);
        const uint16_t* const first = pack ? packed_a : block;
        const int64_t lda = pack ? depth : a.row;
        for (int64_t r = 0; r < height; r += Tile::rows) {
          const int64_t rows = min(Tile::rows, height - r);
          for (int64_t q = 0; q < width; q += panel) {
            const Target target{c + (i + r) * ldc + j + q,    ldc, rows, min(panel, width - q), alpha, beta,
                                bias ? bias + j + q : nullptr};
            tile(target, first + r * lda, lda, packed_b + q * (depth / 2), depth);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace altgrad::cpu
