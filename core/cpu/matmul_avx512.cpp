// The packed f32 product in vectors of 16 floats; CMakeLists.txt has the instruction set.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC bug 105593: both set off by its own intrinsics
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <cstdint>

namespace altgrad::cpu {
namespace {
constexpr int64_t lanes = 16;
typedef float Vector __attribute__((vector_size(lanes * sizeof(float))));
// Codes of coded_matmul as floats, not yet times their factor: sign and magnitude are spread over 32 bits, moved up and
// freed of what the sign was spread over.
class CodeBits {
 public:
  explicit CodeBits(int shift)
      : shift_(_mm_cvtsi32_si128(shift)), mask_(_mm512_set1_epi32(int(0x80000000u | 0x7fu << shift))) {}
  Vector floats(const uint8_t* codes) const {
    const __m512i wide = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
    return Vector(_mm512_and_si512(_mm512_sll_epi32(wide, shift_), mask_));
  }

 private:
  __m128i shift_;
  __m512i mask_;
};
inline Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
}  // namespace
}  // namespace altgrad::cpu

#include <altgrad/core/cpu/coded_matmul.h>

namespace altgrad::cpu {

constinit const PackedKernels packed_avx512{lanes, pack_b, multiply, multiply_few, multiply_coded};

}  // namespace altgrad::cpu
