// The packed f32 product in vectors of 8 floats; CMakeLists.txt has the instruction set.
#include <immintrin.h>

#include <cstdint>

namespace altgrad::cpu {
namespace {
constexpr int64_t lanes = 8;
typedef float Vector __attribute__((vector_size(lanes * sizeof(float))));
inline Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
}  // namespace
}  // namespace altgrad::cpu

#include <altgrad/core/cpu/packed_matmul.h>

namespace altgrad::cpu {

constinit const PackedKernels packed_avx2{lanes, pack_b, multiply, multiply_few};

}  // namespace altgrad::cpu
