// The bf16 product on AMX: a tile of 32 x 32 sums in four of the eight tile registers.
#include <altgrad/core/cpu/bf16_matmul.h>

namespace altgrad::cpu {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Registers: 0 to 3 the sums, 4 and 5 two tiles of A, below each other, 6 and 7 two tiles of B, side by side.
struct AmxTile {
  static constexpr int64_t rows = 32;
  AmxTile() {
    const TileConfig config;
    _tile_loadconfig(&config);
  }
  ~AmxTile() { _tile_release(); }

  // Sums of all of its rows, as A is filled up with zeros.
  void operator()(const Target& target, const uint16_t* a, int64_t lda, const uint32_t* b, int64_t k) const {
    alignas(64) float sums[rows * panel];
    constexpr int64_t b_bytes = panel * sizeof(uint32_t), sum_bytes = panel * sizeof(float);
    const int64_t a_bytes = lda * int64_t(sizeof(uint16_t));
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t i = 0; i < k; i += 32, b += 16 * panel) {
      _tile_loadd(4, a + i, a_bytes);
      _tile_loadd(6, b, b_bytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, b + 16, b_bytes);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, a + 16 * lda + i, a_bytes);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, sum_bytes);
    _tile_stored(1, sums + 16, sum_bytes);
    _tile_stored(2, sums + 16 * panel, sum_bytes);
    _tile_stored(3, sums + 16 * panel + 16, sum_bytes);
    for (int64_t r = 0; r < target.rows; ++r) {
      target.put<0>(r, _mm512_load_ps(sums + r * panel));
      target.put<1>(r, _mm512_load_ps(sums + r * panel + 16));
    }
  }
};

}  // namespace

void matmul_amx(float* c, int64_t ldc, MatrixView<uint16_t> a, MatrixView<uint16_t> b, int64_t m, int64_t n,
                int64_t k, float alpha, float beta, const float* bias, uint32_t* scratch) {
  bf16_matmul<AmxTile>(c, ldc, a, b, m, n, k, alpha, beta, bias, scratch);
}

}  // namespace altgrad::cpu
