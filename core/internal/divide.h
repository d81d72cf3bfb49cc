// Division by one number, many times.
#pragma once

#include <altgrad/core/export.h>
#include <altgrad/core/internal/strict_math.h>

#include <cmath>

namespace altgrad {

// x / divisor for floats of moderate size, without dividing: the residual of x * inverse, where inverse = 1 / divisor,
// brings it to the correctly rounded quotient (Markstein, "Computation of elementary functions on the IBM RISC
// System/6000 processor", 1990). A zero has x's sign.
AG_HD inline float divided(float x, float divisor, float inverse) {
  const float q = x * inverse;
  return std::fma(std::fma(q, divisor, -x), -inverse, q);
}

}  // namespace altgrad
