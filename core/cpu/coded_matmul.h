// Products of few rows with a matrix in codes of a byte: a token reads every weight once, so what it costs is the bytes that
// it reads. Codes are decoded in registers; the sums are those of packed_matmul.h, in whose files this is compiled.
#pragma once

#include <altgrad/core/cpu/packed_matmul.h>

namespace altgrad::cpu {
namespace {

constexpr int64_t coded_panel = 32;  // as in core/internal/coded.h, whose inline functions must not be here

// R rows times V vectors of a panel's columns. decoded() is the instruction set's.
template <int R, int V>
void coded_tile(float* c, int64_t ldc, const float* a, int64_t lda, const CodedMatrix& w, int64_t columns,
                int64_t k, int64_t k_step, const float* bias) {
  const CodeBits bits(w.shift);
  const Vector factor = broadcast(w.factor);
  for (int64_t p = 0; p < k; p += k_step) {
    const int64_t end = min(k, p + k_step);
    Vector sum[R][V] = {};
    for (int64_t i = p; i < end; ++i) {
      const uint8_t* const codes = w.codes + i * coded_panel;
      if (i % 2 == 0) __builtin_prefetch(codes + 1024);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const Vector column = bits.floats(codes + v * lanes) * factor;
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
