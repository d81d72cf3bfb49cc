// How elementwise kernels walk two inputs that broadcast.
#pragma once

#include <altgrad/core/shape.h>

namespace altgrad::kernels {

// Sizes and strides (in elements) of two inputs over an output's index space, neighbouring axes merged where
// possible. A stride of 0 repeats the input along the axis.
struct Strided {
  int dim = 0;
  int64_t size[Shape::max_dim], a[Shape::max_dim], b[Shape::max_dim];
  int64_t numel = 1;
};

}  // namespace altgrad::kernels
