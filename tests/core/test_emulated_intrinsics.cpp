// The emulated products of bf16 against sums worked out by hand, where the manual's order, rounding and zeros for
// subnormals show, and against its rules for tiles.
#include "emulated_intrinsics/immintrin.h"

#include "catch.h"

#include <bit>

namespace {

// A pair of values that bf16 holds.
struct Pair {
  float even, odd;
  uint32_t bits() const {
    return std::bit_cast<uint32_t>(even) >> 16 | (std::bit_cast<uint32_t>(odd) & 0xffff0000);
  }
};

float dot(float sum, Pair a, Pair b) {
  const auto all = [](Pair x) { return __m512bh(_mm512_set1_epi32(int(x.bits()))); };
  return _mm512_dpbf16_ps(_mm512_set1_ps(sum), all(a), all(b)).lane[9];
}

struct Config {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {4, 8, 4};
  uint8_t rows[16] = {1, 1, 2};
};

// sum + a (1, 2 pairs) b (2 pairs, 1), in tiles of just that size.
float tile_dot(float sum, Pair a0, Pair a1, Pair b0, Pair b1) {
  const Config config;
  const uint32_t a[] = {a0.bits(), a1.bits()}, b[] = {b0.bits(), b1.bits()};
  float y[2] = {sum, 100};
  _tile_loadconfig(&config);
  _tile_loadd(0, y, 64);
  _tile_loadd(1, a, 64);
  _tile_loadd(2, b, 4);
  _tile_dpbf16ps(0, 1, 2);
  _tile_stored(0, y, 64);
  _tile_release();
  return y[1] == 100 ? y[0] : NAN;
}

constexpr float large = 0x1p12f, tiny = 0x1p-64f, subnormal = 0x1p-127f;

}  // namespace

TEST_CASE("the emulated VDPBF16PS adds the odd product, then the even one", "[emulated]") {
  CHECK(dot(1, {2, 3}, {5, 7}) == 32);
  CHECK(dot(large * large, {1, -large}, {1, large}) == 1);
  CHECK(dot(large * large, {-large, 1}, {large, 1}) == 0);  // 2^24 + 1 is a tie: to even
  CHECK(dot(large * large, {-large, 3}, {large, 1}) == 4);
  CHECK(dot(1, {subnormal, 0}, {0x1p127f, 0}) == 1);
  CHECK(dot(subnormal, {0, 0}, {0, 0}) == 0);
  CHECK(dot(0, {tiny, 0}, {tiny, 0}) == 0);
}

TEST_CASE("the emulated TDPBF16PS sums even and odd products apart", "[emulated]") {
  CHECK(tile_dot(1, {2, 3}, {1, 4}, {5, 7}, {100, 1000}) == 4132);
  CHECK(tile_dot(0, {large, 1}, {-large, 0}, {large, 1}, {large, 1}) == 1);  // in one sum, 1 would be lost
  CHECK(tile_dot(large * large, {1, 0}, {0, -large}, {1, 0}, {0, large}) == 1);  // added before C is
  CHECK(tile_dot(1, {subnormal, 0}, {0, 0}, {0x1p127f, 0}, {0, 0}) == 1);
  CHECK(tile_dot(0, {tiny, 0}, {tiny, 0}, {tiny, 0}, {tiny, 0}) == 0);
}

TEST_CASE("emulated tiles are refused where a CPU would fault", "[emulated]") {
  Config config;
  CHECK_THROWS_AS(_tile_zero(0), std::logic_error);  // not configured
  _tile_loadconfig(&config);
  _tile_zero(0);
  CHECK_THROWS_AS(_tile_zero(3), std::logic_error);  // without a shape
  CHECK_THROWS_AS(_tile_dpbf16ps(0, 2, 1), std::logic_error);
  CHECK_THROWS_AS(_tile_dpbf16ps(0, 1, 1), std::logic_error);
  config.rows[5] = 17;
  CHECK_THROWS_AS(_tile_loadconfig(&config), std::logic_error);
  config.rows[5] = 0;
  config.palette = 2;
  CHECK_THROWS_AS(_tile_loadconfig(&config), std::logic_error);
  _tile_release();
  CHECK_THROWS_AS(_tile_zero(0), std::logic_error);
}
