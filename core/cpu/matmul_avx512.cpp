// The packed f32 product in vectors of 16 floats; CMakeLists.txt has the instruction set.
#include <immintrin.h>

#include <cstdint>

namespace altgrad::cpu {
namespace {
constexpr int64_t lanes = 16;
typedef float Vector __attribute__((vector_size(lanes * sizeof(float))));
inline Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
}  // namespace
}  // namespace altgrad::cpu

#include <altgrad/core/cpu/packed_matmul.h>

namespace altgrad::cpu {

constinit const PackedKernels packed_avx512{lanes, pack_b, multiply, multiply_few};

}  // namespace altgrad::cpu
