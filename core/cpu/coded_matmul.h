// Products of few rows with a matrix in codes of a byte: a token reads every weight once, so what it costs is the bytes that
// it reads. Codes are decoded in registers; the sums are those of packed_matmul.h, in whose files this is compiled.
#pragma once

#include <altgrad/core/cpu/packed_matmul.h>

namespace altgrad::cpu {
namespace {

constexpr int64_t coded_panel = 32;  // as in core/internal/coded.h, whose inline functions must not be here

typedef int32_t Ints __attribute__((vector_size(lanes * sizeof(int32_t))));

// As many codes as the vector has lanes, their signs spread over 32 bits.
#if defined(__FMA__)
inline __m256i widened(const uint8_t* codes, __m256) {
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
}
#if defined(__AVX512F__)
inline __m512i widened(const uint8_t* codes, __m512) {
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
}
#endif
#else
inline Ints widened(const uint8_t* codes, Vector) {
  typedef int8_t Bytes __attribute__((vector_size(lanes)));
  Bytes bytes;
  __builtin_memcpy(&bytes, codes, sizeof bytes);
  return __builtin_convertvector(bytes, Ints);
}
#endif

// R rows times V vectors of a panel's columns.
template <int R, int V>
void coded_tile(float* c, int64_t ldc, const float* a, int64_t lda, const CodedMatrix& w, int64_t columns,
                int64_t k, int64_t k_step, const float* bias) {
  const int shift = w.shift,
            kept = int(0x80000000u | 0x7fu << shift);  // of what is moved up, the sign and the magnitude
  const Vector factor = broadcast(w.factor);
  for (int64_t p = 0; p < k; p += k_step) {
    const int64_t end = min(k, p + k_step);
    Vector sum[R][V] = {};
    for (int64_t i = p; i < end; ++i) {
      const uint8_t* const codes = w.codes + i * coded_panel;
      if (i % 2 == 0) __builtin_prefetch(codes + 1024);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const Vector column = Vector((Ints(widened(codes + v * lanes, Vector{})) << shift) & kept) * factor;
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
template <int R, int V = R == 1 ? int(coded_panel / lanes) : 2>
void coded_rows(float* c, int64_t ldc, const float* a, int64_t lda, const CodedMatrix& w, int64_t columns,
                int64_t k, int64_t k_step, const float* bias) {
  for (int64_t j = 0; j < columns; j += V * lanes) {
    coded_tile<R, V>(c + j, ldc, a, lda, {w.codes + j, w.shift, w.factor}, min(V * lanes, columns - j), k,
                     k_step, bias ? bias + j : nullptr);
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
