// Number formats against the published tables: encodings, special values, overflow, names. Rounding against a
// slow reference, exhaustively, and against NVIDIA's conversions is in test_format_oracle.cpp.
#include <altgrad/fp8/format.h>

#include <bit>
#include <climits>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "catch.h"

using namespace altgrad::fp8;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double quiet_nan = std::numeric_limits<double>::quiet_NaN();

// A user's own format, as the README writes it, checked at compile time.
constexpr Format mine{
    .exponent_bits = 4, .mantissa_bits = 3, .bias = 9, .specials = Specials::finite_only, .name = "E4M3b9"};
static_assert(mine.max() == 120 && mine.min_normal() == 0x1p-8 && mine.min_subnormal() == 0x1p-11);
static_assert(mine.encode(0.3f) == 0x3a && mine.decode(0x3a) == 0.3125 && mine.bits() == 8);
static_assert(E4M3 == float8_e4m3fn && E5M2 == float8_e5m2 && !(E3M4 == float8_e3m4) && fp16 == E5M10);

struct Encoding {
  Format format;
  int bias;
  double max;
  std::uint32_t max_code;
  double min_normal, min_subnormal;
  int inf_code, nan_code;  // -1: none
  std::set<std::uint32_t> nans;
  double last_in, first_out;  // the largest x that rounds to max, a value just above it that overflows
  bool minus_zero;
};

const std::vector<Encoding>& encodings() {
  static const std::vector<Encoding> table{
      {float8_e4m3fn, 7, 448, 0x7E, 0x1p-6, 0x1p-9, -1, 0x7F, {0x7F, 0xFF}, 464, 464.00003, true},
      {float8_e4m3,
       7,
       240,
       0x77,
       0x1p-6,
       0x1p-9,
       0x78,
       0x7C,
       {0x79, 0x7A, 0x7B, 0x7C, 0x7D, 0x7E, 0x7F, 0xF9, 0xFA, 0xFB, 0xFC, 0xFD, 0xFE, 0xFF},
       247.9999,
       248,
       true},
      {float8_e5m2,
       15,
       57344,
       0x7B,
       0x1p-14,
       0x1p-16,
       0x7C,
       0x7E,
       {0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF},
       61439.99,
       61440,
       true},
      {float8_e3m4,
       3,
       15.5,
       0x6F,
       0x1p-2,
       0x1p-6,
       0x70,
       0x78,
       {0x71, 0x72, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A, 0x7B, 0x7C, 0x7D, 0x7E, 0x7F,
        0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8, 0xF9, 0xFA, 0xFB, 0xFC, 0xFD, 0xFE, 0xFF},
       15.74999,
       15.75,
       true},
      {float8_e4m3fnuz, 8, 240, 0x7F, 0x1p-7, 0x1p-10, -1, 0x80, {0x80}, 247.9999, 248, false},
      {float8_e5m2fnuz, 16, 57344, 0x7F, 0x1p-15, 0x1p-17, -1, 0x80, {0x80}, 61439.99, 61440, false},
      {float8_e4m3b11fnuz, 11, 30, 0x7F, 0x1p-10, 0x1p-13, -1, 0x80, {0x80}, 30.99999, 31, false},
      {float8_e8m0fnu,
       127,
       0x1p127,
       0xFE,
       0x1p-127,
       0x1p-127,
       -1,
       0xFF,
       {0xFF},
       0x1.8p127,
       0x1.800001p127,
       false},
      {p3109_k8p3se, 16, 49152, 0x7E, 0x1p-15, 0x1p-17, 0x7F, 0x80, {0x80}, 53248, 53248.01, false},
      {p3109_k8p4se, 8, 224, 0x7E, 0x1p-7, 0x1p-10, 0x7F, 0x80, {0x80}, 232, 232.0001, false},
      {float6_e2m3fn, 1, 7.5, 0x1F, 1, 0.125, -1, -1, {}, 7.74, 7.75, true},
      {float6_e3m2fn, 3, 28, 0x1F, 0.25, 0.0625, -1, -1, {}, 29.9, 30, true},
      {float4_e2m1fn, 1, 6, 0x7, 1, 0.5, -1, -1, {}, 6.9, 7, true},
      {E0M7, 1, 127 / 128., 0x7F, 1, 1 / 128., -1, -1, {}, 127.4 / 128, 127.5 / 128, true},
      {E1M6, 0, 127 / 32., 0x7F, 2, 1 / 32., -1, -1, {}, 127.4 / 32, 127.5 / 32, true},
      {E2M5, 1, 7.875, 0x7F, 1, 1 / 32., -1, -1, {}, 7.93, 7.9375, true},
      {E3M4, 3, 31, 0x7F, 0.25, 1 / 64., -1, -1, {}, 31.4, 31.5, true},
      {E6M1, 31, 0x1.8p32, 0x7F, 0x1p-30, 0x1p-31, -1, -1, {}, 0x1.bp32, 0x1.cp32, true},
      {E7M0, 63, 0x1p64, 0x7F, 0x1p-62, 0x1p-62, -1, -1, {}, 0x1.7p64, 0x1.8p64, true},
      {fp16, 15, 65504, 0x7BFF, 0x1p-14, 0x1p-24, 0x7C00, 0x7E00, {}, 65519.9, 65520, true},
      {bf16, 127, 0x1.fep127, 0x7F7F, 0x1p-126, 0x1p-133, 0x7F80, 0x7FC0, {}, 0x1.feffp127, 0x1.ffp127, true},
      {E0M15, 1, 32767 / 32768., 0x7FFF, 1, 1 / 32768., -1, -1, {}, 32767.4 / 32768, 32767.5 / 32768, true},
      {E7M8, 63, 0x1.ffp64, 0x7FFF, 0x1p-62, 0x1p-70, -1, -1, {}, 0x1.ff7p64, 0x1.ff8p64, true},
      {E9M6, 255, 0x1.fcp256, 0x7FFF, 0x1p-254, 0x1p-260, -1, -1, {}, 0x1.fdp256, 0x1.fep256, true},
  };
  return table;
}

// What x becomes, as a value and as a code: the two must tell the same story.
struct Cast {
  double value;
  std::uint32_t code;
};

Cast cast(const Format& f, double x, Overflow overflow, Rounding rounding = Rounding::nearest_even) {
  const Rounder<double> r(f, rounding, overflow);
  const double value = r(x);
  CHECK(f.encode(x, rounding, overflow) == r.code(value));
  return {value, r.code(value)};
}

}  // namespace

TEST_CASE("every format has the published bias, range and special codes", "[format]") {
  for (const Encoding& e : encodings()) {
    const Format& f = e.format;
    INFO(f.name);
    CHECK(f.bias == e.bias);
    CHECK(f.max() == e.max);
    CHECK(f.max_code() == e.max_code);
    CHECK(f.decode(e.max_code) == e.max);
    CHECK(f.min_normal() == e.min_normal);
    CHECK(f.min_subnormal() == e.min_subnormal);
    CHECK(f.has_inf() == (e.inf_code >= 0));
    CHECK(f.has_nan() == (e.nan_code >= 0));
    CHECK(f.has_minus_zero() == e.minus_zero);
    if (f.has_inf()) {
      CHECK(f.inf_code() == static_cast<std::uint32_t>(e.inf_code));
      CHECK(f.decode(f.inf_code()) == infinity);
      CHECK(f.decode(f.inf_code() | f.sign_code()) == -infinity);
    }
    if (f.has_nan()) CHECK(f.nan_code() == static_cast<std::uint32_t>(e.nan_code));
    if (f.bits() > 8) continue;
    std::set<std::uint32_t> nans;
    for (std::uint32_t c = 0; c < f.num_codes(); ++c)
      if (std::isnan(f.decode(c))) nans.insert(c);
    CHECK(nans == e.nans);
  }
}

TEST_CASE("overflow begins where the published thresholds say", "[format]") {
  for (const Encoding& e : encodings()) {
    INFO(e.format.name);
    const double beyond = e.format.has_inf() ? infinity : quiet_nan;
    CHECK(cast(e.format, e.last_in, Overflow::to_special).code == e.max_code);
    const Cast out = cast(e.format, e.first_out, Overflow::to_special);
    if (!e.format.has_nan()) {
      CHECK(out.value == e.max);
    } else if (std::isnan(beyond)) {
      CHECK(std::isnan(out.value));
    } else {
      CHECK(out.value == beyond);
    }
    CHECK(cast(e.format, e.first_out, Overflow::saturate_finite).code == e.max_code);
    CHECK(cast(e.format, e.first_out, Overflow::saturate_all).code == e.max_code);
    CHECK(cast(e.format, e.first_out, Overflow::to_special, Rounding::toward_zero).code == e.max_code);
  }
}

TEST_CASE("infinities and NaN become what the overflow policy says", "[format]") {
  using O = Overflow;
  for (const Format& f : formats()) {
    INFO(f.name);
    for (O o : {O::to_special, O::saturate_finite, O::saturate_all}) {
      const Cast n = cast(f, quiet_nan, o);
      CHECK(std::isnan(n.value));  // never silently a number
      CHECK(n.code == (f.has_nan() ? f.nan_code() : f.max_code()));
    }
    const double largest = cast(f, std::numeric_limits<double>::max(), O::saturate_all).value;
    CHECK(cast(f, infinity, O::saturate_all).value == largest);
    for (O o : {O::to_special, O::saturate_finite}) {
      const Cast i = cast(f, infinity, o);
      if (f.specials == Specials::fn || f.specials == Specials::fnuz) {
        CHECK(std::isnan(i.value));
      } else {
        CHECK(i.value == infinity);
        CHECK(i.code == (f.has_inf() ? f.inf_code() : f.max_code()));
        CHECK(cast(f, -infinity, o).value == -infinity);
      }
    }
  }
  // The sign is kept, as by ml_dtypes; saturate_all is as CUDA's SATFINITE.
  CHECK(E4M3.encode(-quiet_nan, Rounding::nearest_even, O::to_special) == 0xFF);
  CHECK(E4M3.encode(-1e9, Rounding::nearest_even, O::to_special) == 0xFF);
  CHECK(E4M3.encode(-infinity, Rounding::nearest_even, O::saturate_all) == 0xFE);
  CHECK(E5M2.encode(infinity, Rounding::nearest_even, O::saturate_all) == 0x7B);
  CHECK(float8_e4m3fnuz.encode(-quiet_nan) == 0x80);
  CHECK(float4_e2m1fn.encode(-infinity) == 0xF);
}

TEST_CASE("minus zero stays where the format has it", "[format]") {
  for (const Format& f : formats()) {
    INFO(f.name);
    if (!f.has_sign) continue;
    for (double x : {-0.0, -f.min_subnormal() / 4}) {
      const float as_float = static_cast<float>(x);
      CHECK(std::signbit(Rounder<double>(f)(x)) == (f.has_minus_zero() || f.min_subnormal() == 0));
      if (as_float == 0) CHECK(std::signbit(Rounder<float>(f)(as_float)) == f.has_minus_zero());
      if (f.min_subnormal() > 0) CHECK(f.encode(x) == (f.has_minus_zero() ? f.sign_code() : 0));
    }
  }
}

TEST_CASE("half the smallest step rounds to zero and anything above it up", "[format]") {
  for (const Format& f : formats()) {
    const double step = f.min_subnormal();
    if (step < 0x1p-1000 || !f.has_subnormals) continue;
    INFO(f.name);
    CHECK(Rounder<double>(f)(step / 2) == 0);
    CHECK(Rounder<double>(f)(std::nextafter(step / 2, 1.0)) == step);
    CHECK(Rounder<double>(f)(std::nextafter(f.min_normal(), 0.0)) ==
          (f.exponent_bits == 0 ? f.max() : f.min_normal()));  // a subnormal that rounds up gets there
  }
}

TEST_CASE("ties go to the even code without mantissa bits too", "[format]") {
  CHECK(E7M0.encode(1.0) == 63);
  CHECK(Rounder<float>(E7M0)(1.5f) == 2);
  CHECK(Rounder<float>(E7M0)(3.0f) == 2);
  CHECK(Rounder<float>(E7M0)(6.0f) == 8);
  CHECK(Rounder<float>(float8_e8m0fnu)(1.5f) == 2);
  CHECK(Rounder<float>(float8_e8m0fnu)(3.0f) == 2);
  Format shifted = E7M0;  // with the other parity of the bias the ties go the other way
  shifted.bias = 62;
  CHECK(Rounder<float>(shifted)(1.5f) == 1);
  CHECK(Rounder<float>(shifted)(3.0f) == 4);
}

TEST_CASE("E8M0 has neither zero nor sign", "[format]") {
  CHECK(float8_e8m0fnu.encode(0.0) == 0);
  CHECK(float8_e8m0fnu.decode(0) == 0x1p-127);
  CHECK(float8_e8m0fnu.encode(-1.0) == 0xFF);
  CHECK(float8_e8m0fnu.encode(-0.0) == 0xFF);
  CHECK(std::isnan(Rounder<float>(float8_e8m0fnu)(-1.0f)));
  CHECK(Rounder<float>(float8_e8m0fnu)(0x1p-149f) == 0x1p-127f);
  CHECK(Rounder<float>(float8_e8m0fnu)(0x1.9p-127f) == 0x1p-126f);
}

TEST_CASE("every code of every format survives decode and encode", "[format]") {
  for (const Format& f : formats()) {
    INFO(f.name);
    int wrong = 0;
    for (std::uint32_t c = 0; c < f.num_codes(); ++c) {
      const double x = f.decode(c);
      const bool beyond_double =
          !f.has_inf() && f.exponent_bits >= 11 && (std::abs(x) == infinity || std::abs(x) < 0x1p-1060);
      if (beyond_double) continue;
      const std::uint32_t expected = std::isnan(x) ? f.nan_code() | (c & f.sign_code()) : c;
      wrong += f.encode(x) != expected;
      const float y = static_cast<float>(x);
      if (static_cast<double>(y) == x) wrong += Rounder<float>(f).code(y) != expected;
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("formats are found by name, and a wrong name lists them all", "[format]") {
  CHECK(format("E4M3") == E4M3);
  CHECK(format("e3m4") == E3M4);
  CHECK(format("float8_e4m3").max() == 240);
  CHECK(format("E4M3").name == "E4M3");
  INFO("a format is a constant of format.h and a name in format.cpp's registry");
  CHECK(formats().size() == 44);
  std::set<std::string_view> names;
  for (const Format& f : formats()) {
    names.insert(f.name);
    CHECK(&format(f.name) == &f);
    CHECK_NOTHROW(f.validate());
  }
  CHECK(names.size() == formats().size());
  std::string message;
  try {
    format("E9M9");
  } catch (const std::invalid_argument& e) {
    message = e.what();
  }
  for (const Format& f : formats()) CHECK(message.find(f.name) != std::string::npos);
  CHECK(message.find("E9M9") != std::string::npos);
}

TEST_CASE("validate names what is wrong with a format", "[format]") {
  const auto complaint = [](const Format& f) -> std::string {
    try {
      f.validate();
    } catch (const std::invalid_argument& e) {
      return e.what();
    }
    return "";
  };
  const auto contains = [](const std::string& s, const char* part) { return s.find(part) != s.npos; };
  CHECK(complaint(mine).empty());
  CHECK(contains(complaint({.exponent_bits = 16, .name = "big"}), "'big': exponent_bits is 16"));
  CHECK(contains(complaint({.exponent_bits = 3, .mantissa_bits = -1}), "mantissa_bits is -1"));
  CHECK(contains(complaint({.exponent_bits = 9, .mantissa_bits = 9}), "19 bits"));
  CHECK(contains(complaint({.exponent_bits = 1, .mantissa_bits = 1}), "3 bits"));
  CHECK(contains(complaint({.exponent_bits = 7, .mantissa_bits = 0, .specials = Specials::ieee}), "ieee"));
  CHECK(contains(complaint({.exponent_bits = 4, .mantissa_bits = 4, .bias = 7, .has_sign = false}), "sign"));
  CHECK(contains(complaint({.exponent_bits = 4, .mantissa_bits = 3, .bias = 900}), "bias 900"));
  CHECK(contains(complaint({.exponent_bits = 4, .mantissa_bits = 3, .bias = -900}), "bias -900"));
  for (const int bias : {INT_MIN, INT_MIN + 20, -16385, 16385, INT_MAX}) {
    CHECK(contains(complaint({.exponent_bits = 4, .mantissa_bits = 3, .bias = bias}), "not -16384 to 16384"));
  }
  for (const int n : {INT_MIN, INT_MAX}) {
    CHECK(contains(complaint({.exponent_bits = n, .mantissa_bits = 3}), "exponent_bits is"));
    CHECK(contains(complaint({.exponent_bits = 4, .mantissa_bits = n}), "mantissa_bits is"));
  }
  for (const int specials : {-1, 5, 77}) {
    CHECK(contains(
        complaint({.exponent_bits = 4, .mantissa_bits = 3, .bias = 7, .specials = Specials(specials)}),
        "none of Specials"));
  }
  CHECK(contains(complaint({.exponent_bits = 0, .mantissa_bits = 7, .bias = 1, .has_subnormals = false}),
                 "exponent bit"));
}

TEST_CASE("a format keeps its name when the string it was named with is gone", "[format]") {
  Format f = E4M3;
  {
    const std::string name = "E" + std::to_string(4) + "M3 of my own making";
    f = {.exponent_bits = 4, .mantissa_bits = 3, .bias = 7, .name = name};
  }
  CHECK(f.name == "E4M3 of my own making");
  CHECK_THROWS_AS((Format{.name = std::string(32, 'x')}), std::invalid_argument);
}
