// Writes nvidia_codes.h, from CUDA's host headers:
//   c++ -std=c++20 -O2 -I/usr/local/cuda/include tests/fp8/nvidia_codes.cpp -o codes && ./codes > tests/fp8/nvidia_codes.h
#include <cuda_fp4.h>
#include <cuda_fp6.h>
#include <cuda_fp8.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ranges>
#include <vector>

// Prints the first float of each code, found by bisection, and makes sure that they say what floats of all upper
// halves become: with these lower halves, the neighbours of all ties of up to 7 bits among them.
template <class Convert>
void write(const char* name, uint32_t sign, Convert convert) {
  constexpr uint32_t inf = 0x7f800000;
  const auto code = [&](uint32_t bits) { return uint32_t(convert(std::bit_cast<float>(bits))); };
  const uint32_t nan = code(inf + 1);
  std::vector<uint32_t> first;
  std::printf("inline const NvidiaCodes %s = {%#x, %#x, {", name, sign, nan);
  const auto floats = std::views::iota(0u, inf + 1);
  for (auto at = floats.begin(); at != floats.end();) {
    std::printf("%s%#x,", first.size() % 9 ? " " : "\n    ", *at);
    first.push_back(*at);
    at = std::ranges::partition_point(floats, [&](uint32_t bits) { return code(bits) < first.size(); });
  }
  std::printf("\n}};\n");
  for (uint32_t upper = 0; upper < 0x8000; ++upper) {
    for (const uint32_t lower : {0, 1, 2, 0x7fff, 0x8000, 0x8001, 0xfffe, 0xffff}) {
      const uint32_t bits = upper << 16 | lower;
      const auto expected =
          bits > inf ? nan : uint32_t(std::ranges::upper_bound(first, bits) - first.begin() - 1);
      if (code(bits) == expected && code(bits | 1u << 31) == (bits > inf ? nan : expected | sign)) continue;
      std::fprintf(stderr, "%s: %08x breaks the table's form\n", name, bits);
      std::exit(1);
    }
  }
}

int main() {
  constexpr auto near = cudaRoundNearest;
  std::printf(
      R"(// What NVIDIA's host conversions make of floats; written by nvidia_codes.cpp with CUDA %d.%d.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

// A float x >= 0 has the code c where first[c] <= its bits < first[c + 1], -x the same with the sign, any NaN has nan.
struct NvidiaCodes {
  uint32_t sign, nan;
  std::vector<uint32_t> first;
  uint32_t operator()(float x) const {
    const uint32_t bits = std::bit_cast<uint32_t>(x), size = bits & 0x7fffffff;
    if (size > 0x7f800000) return nan;
    const auto code = uint32_t(std::upper_bound(first.begin(), first.end(), size) - first.begin() - 1);
    return size == bits ? code : code | sign;
  }
};

// clang-format off
namespace nvidia {
)",
      CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  write("e4m3_satfinite", 0x80, [](float x) { return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3); });
  write("e4m3_nosat", 0x80, [](float x) { return __nv_cvt_float_to_fp8(x, __NV_NOSAT, __NV_E4M3); });
  write("e5m2_satfinite", 0x80, [](float x) { return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E5M2); });
  write("e5m2_nosat", 0x80, [](float x) { return __nv_cvt_float_to_fp8(x, __NV_NOSAT, __NV_E5M2); });
  write("e2m3", 0x20, [](float x) { return __nv_cvt_float_to_fp6(x, __NV_E2M3, near); });
  write("e3m2", 0x20, [](float x) { return __nv_cvt_float_to_fp6(x, __NV_E3M2, near); });
  write("e2m1", 0x8, [](float x) { return __nv_cvt_float_to_fp4(x, __NV_E2M1, near); });
  std::printf("}  // namespace nvidia\n");
}
