// Small parameters for optimizers, and how near values must be.
#pragma once

#include <altgrad/core/tensor.h>

#include <algorithm>
#include <cmath>

#include "catch.h"
#include "values.h"

namespace optim_tests {

using namespace altgrad;
using Values = std::vector<double>;

inline Tensor parameter(const Values& elements, const Shape& shape, DType dtype = DType::f64) {
  return here::from(elements, shape).to(dtype).requires_grad(true);
}

inline void set_gradient(const Tensor& p, const Values& elements) {
  p.set_grad(here::from(elements, p.shape()).to(p.dtype()));
}

inline std::vector<Tensor> two_parameters() {
  return {parameter({0.5, -1.25, 2.0}, {3}), parameter({1.0, -0.75, 0.1, 3.0}, {2, 2})};
}

inline void require_close(const Values& got, const Values& expected, double tolerance) {
  REQUIRE(got.size() == expected.size());
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(got[i] - expected[i]) / std::max(1.0, std::abs(expected[i]));
    if (!(error <= worst)) worst = error;
  }
  CHECK(worst <= tolerance);
}

}  // namespace optim_tests
