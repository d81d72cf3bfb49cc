// Numbers of the FP8 formats that tensor cores multiply, as their codes.
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

}  // namespace altgrad::cuda
