// Number formats.
#include <altgrad/altgrad.h>

#include "../catch.h"

TEST_CASE("number formats", "[contract]") {
  using namespace altgrad;
  using namespace altgrad::fp8;
  constexpr Format mine{.exponent_bits = 4, .mantissa_bits = 3, .bias = 9,
                        .specials = Specials::finite_only, .name = "E4M3b9"};
  static_assert(mine.max() == 0x1.ep+6);
  static_assert(mine.min_normal() == 0x1p-8);
  static_assert(mine.min_subnormal() == 0x1p-11);
  CHECK(mine.decode(0x2a) == 0x1.4p-4);
  CHECK(mine.encode(0.3f) == 0x3a);  // 0.3 -> 1.25 * 2^-2

  const Format& f = format("E3M4");
  CHECK(f.exponent_bits == 3);
  CHECK_THROWS_WITH(format("E9M9"), ContainsSubstring("E4M3") && ContainsSubstring("E5M2"));

  auto x = Tensor::from({0.3f, -1.2f, 400.f}, {3});
  Tensor y = quantize(x, E4M3, /*scale=*/0.5f);
  CHECK(y.data<float>()[0] == 0.3125f);
  CHECK(y.data<float>()[1] == -1.25f);
  CHECK(y.data<float>()[2] == 224.f);  // 448 * scale
  AmaxHistory h(16);  h.update(x);  float s = compute_scale(h.amax(), E4M3);
  CHECK(s == 400.f / 448.f);
  Tensor codes = encode(x, E4M3, s);
  CHECK(codes.dtype() == DType::u8);
  Tensor back = decode(codes, E4M3, s);
  CHECK(back.data<float>()[2] == 400.f);
}
