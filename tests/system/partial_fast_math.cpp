// A user's file with a part of -ffast-math that no macro tells of. What is inline in public headers gives the library's
// bits there too.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fast-math")
#endif
#include <altgrad/altgrad.h>

#include <bit>
#include <cstdio>
#include <cstring>

using namespace altgrad::fp8;

#if ALTGRAD_FAST_MATH
#error "this file is to be compiled without a macro that tells of -ffast-math"
#endif

int main() {
  const altgrad::Tensor x = altgrad::Tensor::empty({1 << 16});
  for (uint32_t i = 0; i < 1 << 16; ++i) {
    const uint32_t bits = i << 16;
    std::memcpy(x.ptr<float>() + i, &bits, sizeof bits);
  }
  int wrong = 0;
  for (const Format& f : formats()) {
    const altgrad::Tensor y = quantize(x, f, 1.0f);
    const Rounder<float> r(f);
    for (int64_t i = 0; i < x.numel(); ++i) {
      uint32_t in, out;
      std::memcpy(&in, x.ptr<float>() + i, sizeof in);
      std::memcpy(&out, y.ptr<float>() + i, sizeof out);
      if ((in & 0x7f800000) == 0x7f800000) continue;  // in fast_math
      const float v = std::bit_cast<float>(in);
      wrong += std::bit_cast<uint32_t>(r(v)) != out || std::bit_cast<uint32_t>(r.nearest(v)) != out;
    }
  }
  std::printf("%d roundings differ\n", wrong);
  return wrong != 0;
}
