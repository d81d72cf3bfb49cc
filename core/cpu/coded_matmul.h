// Products of few rows with a matrix in codes of a byte: a token reads every weight once, so what it costs is the bytes that
// it reads. Codes are decoded in registers; the sums are those of packed_matmul.h, in whose files this is compiled.
#pragma once

#include <altgrad/core/cpu/packed_matmul.h>

namespace altgrad::cpu {
namespace {

constexpr int64_t coded_panel = 32;  // as in core/internal/coded.h, whose inline functions must not be here

typedef int32_t Ints __attribute__((vector_size(lanes * sizeof(int32_t))));

// Vector v of a panel's row as the bits of floats: codes with their signs at the top, moved down until the magnitudes are
// in their place, and of these the bits to be kept.
#if defined(__FMA__)
// In words of 16 bits first, the low bytes of all or the high ones, so that an instruction moves twice as many.
inline __m256i bits(const uint8_t* codes, int v, int down, int kept, __m256) {
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
  const __m256i halves =
      _mm256_and_si256(_mm256_sra_epi16(v < 2 ? _mm256_slli_epi16(x, 8) : x, _mm_cvtsi32_si128(down)),
                       _mm256_set1_epi16(int16_t(kept >> 16)));
  return v % 2 == 0 ? _mm256_slli_epi32(halves, 16)
                    : _mm256_and_si256(halves, _mm256_set1_epi32(int(0xffff0000u)));
}
#if defined(__AVX512F__)
inline __m512i bits(const uint8_t* codes, int v, int down, int kept, __m512) {
  const __m512i twice = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
  const __m512i up = _mm512_inserti64x4(_mm512_set1_epi32(24 - 8 * v), _mm256_set1_epi32(8 - 8 * v), 1);
  return _mm512_and_epi32(_mm512_sra_epi32(_mm512_sllv_epi32(twice, up), _mm_cvtsi32_si128(down)),
                          _mm512_set1_epi32(kept));
}
#endif
#else
inline Ints bits(const uint8_t* codes, int v, int down, int kept, Vector) {
  Ints x;
  for (int64_t lane = 0; lane < lanes; ++lane) {
    const int64_t j = v * lanes + lane;
    x[lane] = int32_t(uint32_t(codes[j % 8 * 4 + j / 8 % 2 * 2 + j / 16]) << 24);
  }
  return x >> down & kept;
}
#endif

// R rows times V vectors of a panel's columns, from vector `first` on.
template <int R, int V, int first>
void coded_tile(float* c, int64_t ldc, const float* a, int64_t lda, const CodedMatrix& w, int64_t columns,
                int64_t k, int64_t k_step, const float* bias) {
  const int down = 24 - w.shift,
            kept = int(0x80000000u | 0x7fu << w.shift);  // of what is moved down, the sign and the magnitude
  const Vector factor = broadcast(w.factor);
  for (int64_t p = 0; p < k; p += k_step) {
    const int64_t end = min(k, p + k_step);
    Vector sum[R][V] = {};
#pragma GCC unroll 2
    for (int64_t i = p; i < end; ++i) {
      const uint8_t* const codes = w.codes + i * coded_panel;
      __builtin_prefetch(codes + 2048);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const Vector column = Vector(bits(codes, first + v, down, kept, Vector{})) * factor;
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) sum[r][v] = fma(broadcast(a[r * lda + i]), column, sum[r][v]);
      }
    }
    for (int r = 0; r < R; ++r) {
      float row[V * lanes];
      for (int v = 0; v < V; ++v) store(row + v * lanes, sum[r][v]);
      for (int64_t j = 0; j < columns; ++j) {
        float& y = c[r * ldc + j];
        y = p == 0 ? row[j] + (bias ? bias[j] : 0) : row[j] + y;
      }
    }
  }
}

// Two vectors at a time but for one row, whose sums would wait for each other.
template <int R>
void coded_rows(float* c, int64_t ldc, const float* a, int64_t lda, const CodedMatrix& w, int64_t columns,
                int64_t k, int64_t k_step, const float* bias) {
  constexpr int all = int(coded_panel / lanes), V = R == 1 ? all : 2;
  constexpr int64_t wide = V * lanes;
  coded_tile<R, V, 0>(c, ldc, a, lda, w, min(wide, columns), k, k_step, bias);
  if (V < all && columns > wide) {
    coded_tile<R, V, all - V>(c + wide, ldc, a, lda, w, columns - wide, k, k_step,
                              bias ? bias + wide : nullptr);
  }
}

// PackedKernels::multiply_coded.
void multiply_coded(float* c, int64_t ldc, const float* a, int64_t lda, const CodedMatrix& panel, int64_t m,
                    int64_t columns, int64_t k, int64_t k_step, const float* bias) {
  constexpr decltype(&coded_rows<1>) of[] = {coded_rows<1>, coded_rows<2>, coded_rows<3>, coded_rows<4>};
  static_assert(sizeof of / sizeof *of == packed_few_rows);
  of[m - 1](c, ldc, a, lda, panel, columns, k, k_step, bias);
}

}  // namespace
}  // namespace altgrad::cpu
