// Codes of a byte as numbers: the highest bit is the sign; the others, moved up by `shift`, are the bits of a float, which
// times `factor` is the number. A factor of 2^(127 - bias) makes it that of a format with this bias, its subnormals too.
#pragma once

#include <altgrad/core/export.h>
#include <altgrad/core/internal/strict_math.h>

#include <bit>
#include <cstdint>

namespace altgrad {

// Rows of a matrix (n, k) that lie together, so that products with few rows read it from end to end: in panels of
// coded_panel of them, the last one filled up. For a CPU to take apart without moving them between its lanes, rows 8 apart
// share 32 bits, and of these, rows 16 apart share 16. Element (j, i) is the byte
constexpr int64_t coded_panel = 32;
AG_HD constexpr int64_t coded_place(int64_t j, int64_t i, int64_t k) {
  return (j / coded_panel * k + i) * coded_panel + j % 8 * 4 + j / 8 % 2 * 2 + j / 16 % 2;
}

// The code of a format whose sign stands at sign_code, with its sign at the top.
AG_HD inline uint8_t byte_code(uint8_t code, uint32_t sign_code) {
  return uint8_t((code & sign_code ? 0x80u : 0u) | (code & (sign_code - 1)));
}
AG_HD inline float coded_value(uint8_t code, int shift, float factor) {
  return std::bit_cast<float>(uint32_t(code & 0x80u) << 24 | uint32_t(code & 0x7fu) << shift) * factor;
}

}  // namespace altgrad
