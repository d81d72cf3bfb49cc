// The intrinsics of AVX-512 and AMX that the bf16 kernels use, in plain C++: the kernels' own sources, compiled with
// this folder before the compiler's, run on every CPU. Written by Intel's Intrinsics Guide and the pseudocode of its
// Software Developer's Manual; a tile that is used against the manual's rules throws, where a CPU would fault.
//
// Of the numbers, VDPBF16PS and TDPBF16PS are as the manual has them: every operation rounds to nearest even, subnormal
// operands and results are zeros, the odd elements of pairs come first in the one, and even and odd ones have sums of
// their own in the other. They are fused in the manual and a product and a sum here, which is the same, as products of
// two bf16 values are exact in f32, unless they leave its range.
#pragma once
#pragma GCC system_header  // as the compiler's: what is not used gives no warning

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace {

struct __m256i {
  uint16_t lane[16];
};
struct alignas(64) __m512 {
  float lane[16];
};
struct alignas(64) __m512i {
  uint32_t lane[16];
};
struct __m512bh {
  uint32_t lane[16];  // pairs, the even element in the lower half
  explicit __m512bh(const __m512i& x) { std::memcpy(lane, x.lane, sizeof lane); }
};
using __mmask16 = uint16_t;

// Each lane of a T by f(lane).
template <class T, class F>
T lanes_of(F&& f) {
  T x;
  for (int i = 0; i < 16; ++i) x.lane[i] = f(i);
  return x;
}
template <class T>
T load_from(const void* p) {
  T x;
  std::memcpy(x.lane, p, sizeof x.lane);
  return x;
}
// Loads and stores by whole registers fault where the address is not aligned.
void require_aligned(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % 64 != 0) throw std::logic_error("an unaligned address");
}

__m256i _mm256_loadu_si256(const __m256i* p) { return load_from<__m256i>(p); }
__m512i _mm512_loadu_si512(const void* p) { return load_from<__m512i>(p); }
__m512i _mm512_load_si512(const void* p) {
  require_aligned(p);
  return load_from<__m512i>(p);
}
__m512 _mm512_load_ps(const void* p) {
  require_aligned(p);
  return load_from<__m512>(p);
}
void _mm512_store_si512(void* p, const __m512i& x) {
  require_aligned(p);
  std::memcpy(p, x.lane, sizeof x.lane);
}
__m512 _mm512_maskz_loadu_ps(__mmask16 mask, const float* p) {  // reads nothing that the mask leaves out
  return lanes_of<__m512>([&](int i) { return mask >> i & 1 ? p[i] : 0; });
}
void _mm512_mask_storeu_ps(float* p, __mmask16 mask, const __m512& x) {
  for (int i = 0; i < 16; ++i) {
    if (mask >> i & 1) p[i] = x.lane[i];
  }
}

__m512 _mm512_setzero_ps() { return {}; }
__m512 _mm512_set1_ps(float x) {
  return lanes_of<__m512>([&](int) { return x; });
}
__m512i _mm512_set1_epi32(int x) {
  return lanes_of<__m512i>([&](int) { return uint32_t(x); });
}
__m512i _mm512_cvtepu16_epi32(const __m256i& x) {
  return lanes_of<__m512i>([&](int i) { return x.lane[i]; });
}
__m512i _mm512_or_si512(const __m512i& a, const __m512i& b) {
  return lanes_of<__m512i>([&](int i) { return a.lane[i] | b.lane[i]; });
}
__m512i _mm512_slli_epi32(const __m512i& x, unsigned count) {
  return lanes_of<__m512i>([&](int i) { return count < 32 ? x.lane[i] << count : 0; });
}
__m512 _mm512_fmadd_ps(const __m512& a, const __m512& b, const __m512& c) {
  return lanes_of<__m512>([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
}

// Within each quarter of 4 lanes: a's and b's lower or higher two, in turn.
__m512i _mm512_unpacklo_epi32(const __m512i& a, const __m512i& b) {
  return lanes_of<__m512i>([&](int i) { return (i % 2 ? b : a).lane[i / 4 * 4 + i % 4 / 2]; });
}
__m512i _mm512_unpackhi_epi32(const __m512i& a, const __m512i& b) {
  return lanes_of<__m512i>([&](int i) { return (i % 2 ? b : a).lane[i / 4 * 4 + i % 4 / 2 + 2]; });
}
__m512i _mm512_unpacklo_epi64(const __m512i& a, const __m512i& b) {
  return lanes_of<__m512i>([&](int i) { return (i % 4 < 2 ? a : b).lane[i / 4 * 4 + i % 2]; });
}
__m512i _mm512_unpackhi_epi64(const __m512i& a, const __m512i& b) {
  return lanes_of<__m512i>([&](int i) { return (i % 4 < 2 ? a : b).lane[i / 4 * 4 + i % 2 + 2]; });
}
// Two quarters of a, two of b, each chosen by two bits of control.
__m512i _mm512_shuffle_i32x4(const __m512i& a, const __m512i& b, int control) {
  return lanes_of<__m512i>(
      [&](int i) { return (i < 8 ? a : b).lane[(control >> i / 4 * 2 & 3) * 4 + i % 4]; });
}

float flushed(float x) {
  return std::fabs(x) < std::numeric_limits<float>::min() ? std::copysign(0.f, x) : x;
}
float bf16(uint32_t bits) {
  const uint32_t wide = bits << 16;
  float x;
  std::memcpy(&x, &wide, sizeof x);
  return flushed(x);
}
float even(uint32_t pair) { return bf16(pair & 0xffff); }
float odd(uint32_t pair) { return bf16(pair >> 16); }
float multiply_add(float a, float b, float c) { return flushed(a * b + c); }

__m512 _mm512_dpbf16_ps(const __m512& sum, const __m512bh& a, const __m512bh& b) {
  return lanes_of<__m512>([&](int i) {
    const float with_odd = multiply_add(odd(a.lane[i]), odd(b.lane[i]), flushed(sum.lane[i]));
    return multiply_add(even(a.lane[i]), even(b.lane[i]), with_odd);
  });
}

// The tile registers of a thread, and their shapes; none until they are configured.
struct Tiles {
  struct Tile {
    int rows = 0, row_bytes = 0;
    uint32_t at[16][16] = {};
  };
  bool configured = false;
  Tile tile[8];
  Tile& operator[](int i) {
    if (!configured || i < 0 || i >= 8 || tile[i].rows == 0) throw std::logic_error("a tile without a shape");
    return tile[i];
  }
};
thread_local Tiles tiles;

void _tile_loadconfig(const void* config) {
  const auto* const bytes = static_cast<const uint8_t*>(config);
  tiles = {.configured = true};
  for (int i = 0; i < 8; ++i) {
    uint16_t row_bytes;
    std::memcpy(&row_bytes, bytes + 16 + 2 * i, sizeof row_bytes);
    tiles.tile[i].rows = bytes[48 + i];
    tiles.tile[i].row_bytes = row_bytes;
    if (bytes[48 + i] > 16 || row_bytes > 64 || row_bytes % 4 != 0) throw std::logic_error("a tile's shape");
  }
  if (bytes[0] != 1 || bytes[1] != 0) throw std::logic_error("the tiles' palette or starting row");
  for (int i = 2; i < 64; ++i) {
    const bool reserved = i < 16 || (i >= 32 && i < 48) || i >= 56;
    if (reserved && bytes[i] != 0) throw std::logic_error("a reserved byte of the tiles' configuration");
  }
}
void _tile_release() { tiles = {}; }
void _tile_zero(int i) { std::memset(tiles[i].at, 0, sizeof tiles[i].at); }

void _tile_loadd(int i, const void* from, int64_t stride) {
  Tiles::Tile& t = tiles[i];
  std::memset(t.at, 0, sizeof t.at);
  for (int r = 0; r < t.rows; ++r)
    std::memcpy(t.at[r], static_cast<const char*>(from) + r * stride, size_t(t.row_bytes));
}
void _tile_stored(int i, void* to, int64_t stride) {
  const Tiles::Tile& t = tiles[i];
  for (int r = 0; r < t.rows; ++r)
    std::memcpy(static_cast<char*>(to) + r * stride, t.at[r], size_t(t.row_bytes));
}

// sums (rows, columns) += a (rows, pairs) b (pairs, columns)
void _tile_dpbf16ps(int sums, int left, int right) {
  Tiles::Tile &c = tiles[sums], &a = tiles[left], &b = tiles[right];
  if (&c == &a || &c == &b || &a == &b) throw std::logic_error("a tile product with one tile twice");
  const int columns = c.row_bytes / 4, pairs = a.row_bytes / 4;
  if (a.rows != c.rows || b.rows != pairs || b.row_bytes != c.row_bytes)
    throw std::logic_error("a tile product of shapes that do not fit");
  for (int r = 0; r < c.rows; ++r) {
    float of_even[16] = {}, of_odd[16] = {};
    for (int k = 0; k < pairs; ++k) {
      for (int j = 0; j < columns; ++j) {
        of_even[j] = multiply_add(even(a.at[r][k]), even(b.at[k][j]), of_even[j]);
        of_odd[j] = multiply_add(odd(a.at[r][k]), odd(b.at[k][j]), of_odd[j]);
      }
    }
    for (int j = 0; j < columns; ++j) {
      float sum;
      std::memcpy(&sum, &c.at[r][j], sizeof sum);
      sum = flushed(flushed(sum) + flushed(of_even[j] + of_odd[j]));
      std::memcpy(&c.at[r][j], &sum, sizeof sum);
    }
  }
}

}  // namespace
