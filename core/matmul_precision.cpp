#include <altgrad/core/matmul_precision.h>

#include <altgrad/core/error.h>

#include <atomic>

namespace altgrad {
namespace {
std::atomic<MatmulPrecision> current{MatmulPrecision::f32};
}

void set_matmul_precision(MatmulPrecision precision) {
  if (precision > MatmulPrecision::bf16)
    fail("set_matmul_precision: ", int(precision), " is none of MatmulPrecision");
  current = precision;
}
MatmulPrecision matmul_precision() { return current; }

}  // namespace altgrad
