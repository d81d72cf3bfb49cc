// The bf16 product on AVX512-BF16: a tile of 14 x 32 sums in registers, a pair of A broadcast at a time.
#include <altgrad/core/cpu/bf16_matmul.h>

namespace altgrad::cpu {
namespace {

template <int R>
void tile(Target target, const uint16_t* a, int64_t lda, const uint32_t* b, int64_t k) {
  const uint16_t *a5 = a + 5 * lda, *a10 = a + 10 * lda;  // few enough addresses to stay in registers
  __m512 sum[R][2] = {};
  for (int64_t i = 0; i < k; i += 2, a += 2, a5 += 2, a10 += 2, b += panel) {
    const __m512bh left = __m512bh(_mm512_load_si512(b)), right = __m512bh(_mm512_load_si512(b + 16));
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r) {
      int pair;
      __builtin_memcpy(&pair, (r < 5 ? a : r < 10 ? a5 : a10) + r % 5 * lda, sizeof pair);
      const __m512bh both = __m512bh(_mm512_set1_epi32(pair));
      sum[r][0] = _mm512_dpbf16_ps(sum[r][0], both, left);
      sum[r][1] = _mm512_dpbf16_ps(sum[r][1], both, right);
    }
  }
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r) {
    target.put<0>(r, sum[r][0]);
    target.put<1>(r, sum[r][1]);
  }
}

// tile<R> for a number of rows known at run time: of[R - 1].
template <int... R>
struct Tiles {
  static constexpr decltype(&tile<1>) of[] = {tile<R>...};
};

struct VectorTile {
  static constexpr int64_t rows = 14;
  void operator()(const Target& target, const uint16_t* a, int64_t lda, const uint32_t* b, int64_t k) const {
    Tiles<1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14>::of[target.rows - 1](target, a, lda, b, k);
  }
};

}  // namespace

void matmul_avx512_bf16(float* c, int64_t ldc, MatrixView<uint16_t> a, MatrixView<uint16_t> b, int64_t m,
                        int64_t n, int64_t k, float alpha, float beta, const float* bias, uint32_t* scratch) {
  bf16_matmul<VectorTile>(c, ldc, a, b, m, n, k, alpha, beta, bias, scratch);
}

}  // namespace altgrad::cpu
