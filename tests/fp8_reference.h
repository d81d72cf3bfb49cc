// What the fp8 tests compare with: rounding by looking through the format's table of numbers, and bits.
#pragma once

#include <altgrad/core/tensor.h>
#include <altgrad/fp8/format.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace reference {

using altgrad::Tensor;
using altgrad::fp8::Format;

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() && std::memcmp(a.raw(), b.raw(), a.nbytes()) == 0;
}

// The numbers >= 0 of a format in order of their codes.
inline std::vector<double> magnitudes(const Format& f) {
  std::vector<double> values;
  const uint32_t codes = f.has_sign ? f.num_codes() / 2 : f.num_codes();
  for (uint32_t code = 0; code < codes; ++code) {
    if (std::isfinite(f.decode(code))) values.push_back(f.decode(code));
  }
  return values;
}

// Nearest number, ties to the even code, saturating: rounding as a definition, one comparison for each number. Signed
// formats with a zero only.
class Rounder {
 public:
  explicit Rounder(const Format& f) : format_(f), grid_(magnitudes(f)) {}
  double operator()(double x) const {
    if (std::isnan(x)) return x;
    if (std::isinf(x)) return format_.has_inf() || !format_.has_nan() ? x : std::numeric_limits<double>::quiet_NaN();
    size_t best = 0;
    for (size_t i = 1; i < grid_.size(); ++i) {
      const double now = std::abs(grid_[i] - std::abs(x)), held = std::abs(grid_[best] - std::abs(x));
      if (now < held || (now == held && i % 2 == 0)) best = i;
    }
    const double y = std::copysign(grid_[best], x);
    return y == 0 && !format_.has_minus_zero() ? 0.0 : y;
  }
  double max() const { return grid_.back(); }

 private:
  Format format_;
  std::vector<double> grid_;
};

}  // namespace reference
