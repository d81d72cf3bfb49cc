// The bf16 product on AVX512-BF16: a tile of 14 x 32 sums in registers, a pair of A broadcast at a time.
#include <altgrad/core/cpu/bf16_matmul.h>

namespace altgrad::cpu {
namespace {

struct VectorTile {
  static constexpr int64_t rows = 14;

  void operator()(float* sums, const uint16_t* a, int64_t lda, const uint32_t* b, int64_t k,
                  int64_t m) const {
    const uint16_t* row[rows];  // those past the end repeat the last one
    for (int64_t r = 0; r < rows; ++r) row[r] = a + least(r, m - 1) * lda;
    __m512 sum[rows][2] = {};
    for (int64_t i = 0; i < k; i += 2, b += panel) {
      const __m512bh left = __m512bh(_mm512_load_si512(b)), right = __m512bh(_mm512_load_si512(b + 16));
#pragma GCC unroll 14
      for (int r = 0; r < rows; ++r) {
        int pair;
        __builtin_memcpy(&pair, row[r] + i, sizeof pair);
        const __m512bh both = __m512bh(_mm512_set1_epi32(pair));
        sum[r][0] = _mm512_dpbf16_ps(sum[r][0], both, left);
        sum[r][1] = _mm512_dpbf16_ps(sum[r][1], both, right);
      }
    }
#pragma GCC unroll 14
    for (int r = 0; r < rows; ++r) {
      _mm512_store_ps(sums + r * panel, sum[r][0]);
      _mm512_store_ps(sums + r * panel + 16, sum[r][1]);
    }
  }
};

}  // namespace

void matmul_avx512_bf16(float* c, int64_t ldc, Operand<uint16_t> a, Operand<uint16_t> b, int64_t m, int64_t n,
                        int64_t k, float alpha, float beta, const float* bias, uint32_t* scratch) {
  bf16_matmul<VectorTile>(c, ldc, a, b, m, n, k, alpha, beta, bias, scratch);
}

}  // namespace altgrad::cpu
