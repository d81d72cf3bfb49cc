// The packed f32 product in vectors of 8 floats; CMakeLists.txt has the instruction set.
#include <cstdint>

namespace altgrad::cpu {
namespace {
constexpr int64_t lanes = 8;
}
}  // namespace altgrad::cpu

#include <altgrad/core/cpu/coded_matmul.h>

namespace altgrad::cpu {

constinit const PackedKernels packed_avx2{lanes, pack_b, multiply, multiply_few, multiply_coded};

}  // namespace altgrad::cpu
