// How elementwise kernels walk two inputs that broadcast.
#pragma once

#include <altgrad/core/shape.h>

namespace altgrad::kernels {

// Nested loops over an output's index space, outermost first: their sizes, and the strides (in elements) with which two
// inputs are read. A stride of 0 repeats the input along the axis.
struct LoopNest {
  int dim = 0;
  int64_t size[Shape::max_dim], a[Shape::max_dim], b[Shape::max_dim];
  int64_t numel = 1;

  // Adds an innermost loop, merged with the last one where both strides allow it.
  void add_loop(int64_t n, int64_t stride_a, int64_t stride_b) {
    numel *= n;
    if (n == 1) return;
    const int last = dim - 1;
    if (dim > 0 && a[last] == stride_a * n && b[last] == stride_b * n) {
      size[last] *= n, a[last] = stride_a, b[last] = stride_b;
    } else {
      size[dim] = n, a[dim] = stride_a, b[dim] = stride_b;
      ++dim;
    }
  }
};

}  // namespace altgrad::kernels
