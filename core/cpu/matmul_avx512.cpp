// The packed f32 product in vectors of 16 floats; CMakeLists.txt has the instruction set.
#include <cstdint>

namespace altgrad::cpu {
namespace {
constexpr int64_t lanes = 16;
}
}  // namespace altgrad::cpu

#include <altgrad/core/cpu/packed_matmul.h>

namespace altgrad::cpu {

void matmul_avx512(float* c, int64_t ldc, Operand<float> a, Operand<float> b, int64_t m, int64_t n, int64_t k,
                   float alpha, float beta, float* scratch) {
  packed_matmul(c, ldc, a, b, m, n, k, alpha, beta, scratch);
}

}  // namespace altgrad::cpu
