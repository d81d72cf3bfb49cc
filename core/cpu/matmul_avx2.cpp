// The packed f32 product in vectors of 8 floats; CMakeLists.txt has the instruction set.
#include <immintrin.h>

#include <cstdint>

namespace altgrad::cpu {
namespace {
constexpr int64_t lanes = 8;
typedef float Vector __attribute__((vector_size(lanes * sizeof(float))));
// Codes of coded_matmul as floats, not yet times their factor: sign and magnitude are spread over 32 bits, moved up and
// freed of what the sign was spread over.
class CodeBits {
 public:
  explicit CodeBits(int shift)
      : shift_(_mm_cvtsi32_si128(shift)), mask_(_mm256_set1_epi32(int(0x80000000u | 0x7fu << shift))) {}
  Vector floats(const uint8_t* codes) const {
    const __m256i wide = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
    return Vector(_mm256_and_si256(_mm256_sll_epi32(wide, shift_), mask_));
  }

 private:
  __m128i shift_;
  __m256i mask_;
};
inline Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
}  // namespace
}  // namespace altgrad::cpu

#include <altgrad/core/cpu/coded_matmul.h>

namespace altgrad::cpu {

constinit const PackedKernels packed_avx2{lanes, pack_b, multiply, multiply_few, multiply_coded};

}  // namespace altgrad::cpu
