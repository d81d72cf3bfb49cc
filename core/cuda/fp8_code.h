// Numbers of the FP8 formats that tensor cores multiply, as their codes, and codes four to a word.
#pragma once

#include <altgrad/core/cuda/device.h>
#include <altgrad/core/internal/fp8.h>

#include <cuda_fp8.h>

#include <bit>
#include <cstdint>

namespace altgrad::cuda {

// The code of x, a number of the format, NaN, or E5M2's Inf, which the conversion alone would make finite.
AG_DEVICE uint8_t fp8_code(float x, kernels::Fp8 format) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (format == kernels::Fp8::e5m2 && (bits & 0x7fffffff) == 0x7f800000)
    return uint8_t(0x7c | (bits >> 24 & 0x80));
  return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, format == kernels::Fp8::e4m3 ? __NV_E4M3 : __NV_E5M2);
}
// The codes of a, in the low byte, and b, which are finite: rounded to nearest even, and kept within the finite numbers.
AG_DEVICE uint32_t nearest_fp8_codes(float a, float b, kernels::Fp8 format) {
  return __nv_cvt_float2_to_fp8x2(float2{a, b}, __NV_SATFINITE,
                                  format == kernels::Fp8::e4m3 ? __NV_E4M3 : __NV_E5M2);
}

// Byte i is that of a's four, and then b's, which digit i of the selector, a hexadecimal number, counts from 0.
AG_DEVICE uint32_t bytes_of(uint32_t a, uint32_t b, uint32_t selector) {
#if defined(__CUDACC__)
  return __byte_perm(a, b, selector);
#else
  const uint64_t all = uint64_t(b) << 32 | a;
  uint32_t bytes = 0;
  for (int i = 0; i < 32; i += 8) bytes |= uint32_t(all >> 8 * (selector >> i / 2 & 7) & 0xff) << i;
  return bytes;
#endif
}
// Byte j of word i becomes byte i of word j.
AG_DEVICE void transpose_bytes(uint32_t (&words)[4]) {
  const uint32_t low = bytes_of(words[0], words[1], 0x5140), high = bytes_of(words[0], words[1], 0x7362),
                 low_2 = bytes_of(words[2], words[3], 0x5140), high_2 = bytes_of(words[2], words[3], 0x7362);
  words[0] = bytes_of(low, low_2, 0x5410);
  words[1] = bytes_of(low, low_2, 0x7632);
  words[2] = bytes_of(high, high_2, 0x5410);
  words[3] = bytes_of(high, high_2, 0x7632);
}

}  // namespace altgrad::cuda
