// What the fp8 tests compare with: rounding by looking through the format's table of numbers.
#pragma once

#include <altgrad/fp8/quantized_linear.h>

#include <cmath>
#include <limits>
#include <vector>

#include "reference.h"

namespace reference {

using altgrad::fp8::Format;

// The numbers >= 0 of a format in order of their codes.
inline std::vector<double> magnitudes(const Format& f) {
  std::vector<double> values;
  const uint32_t codes = f.has_sign ? f.num_codes() / 2 : f.num_codes();
  for (uint32_t code = 0; code < codes; ++code) {
    if (std::isfinite(f.decode(code))) values.push_back(f.decode(code));
  }
  return values;
}

// Nearest number, ties to the even code, saturating: rounding as a definition, one comparison for each
// number. Signed formats with a zero only.
class Rounder {
 public:
  explicit Rounder(const Format& f) : format_(f), grid_(magnitudes(f)) {}
  double operator()(double x) const {
    if (std::isnan(x)) return x;
    if (std::isinf(x))
      return format_.has_inf() || !format_.has_nan() ? x : std::numeric_limits<double>::quiet_NaN();
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

inline double largest(const std::vector<double>& values) {
  double top = 0;
  for (double v : values) top = std::max(top, std::abs(v));
  return top;
}

// A Linear with an input and a cotangent, from a fixed seed.
struct LinearCase {
  int64_t rows = 6, in = 10, out = 7;
  std::shared_ptr<altgrad::nn::Linear> linear;
  Tensor x, dy;
  explicit LinearCase(DType dtype = DType::f64, bool bias = true) {
    altgrad::manual_seed(21);
    linear = std::make_shared<altgrad::nn::Linear>(in, out, altgrad::nn::LinearOptions{.bias = bias});
    linear->to(dtype);
    linear->to(device());
    x = here::randn({2, 3, in}, {.dtype = dtype}).requires_grad(true);
    dy = here::randn({2, 3, out}, {.dtype = dtype});
  }
  // Forward and backward through a layer; gradients are left in x, weight and bias.
  Tensor run(altgrad::fp8::QuantizedLinear& layer) const {
    altgrad::Tape tape;
    const Tensor y = layer(x);
    tape.backward(y, dy);
    return y;
  }
};

}  // namespace reference
