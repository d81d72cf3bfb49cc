// bf16: its values, and conversions to and from it, alone and as casts of tensors, against a plain version in long double.
#include <altgrad/altgrad.h>

#include <cmath>
#include <cstring>

#include "catch.h"
#include "values.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

using namespace altgrad;

namespace {

constexpr TensorOptions in_bf16{.dtype = DType::bf16};

bfloat16 of_code(int code) { return std::bit_cast<bfloat16>(uint16_t(code)); }

// What a code means: (-1)^sign 2^(e - 127) (1 + m / 128), subnormal where e is 0.
double value_of(int code) {
  const int e = code >> 7 & 255, m = code & 127;
  const double magnitude = e == 255 ? (m ? NAN : INFINITY)
                           : e == 0 ? std::ldexp(m, -133)
                                    : std::ldexp(128 + m, e - 134);
  return code & 0x8000 ? -magnitude : magnitude;
}

// The number that bf16 rounds x to: to the nearest multiple of its step, to an even one where two are as near.
// (long double holds f64 and i64; scaling by powers of two is exact.)
long double nearest(long double x) {
  const long double a = std::fabs(x);
  if (!(a > 0) || std::isinf(a)) return x;
  const int exponent = std::max(std::ilogb(a), -126) - 7;
  const long double steps = std::scalbn(a, -exponent), below = std::floor(steps), rest = steps - below;
  const bool up = rest > 0.5L || (rest == 0.5L && std::fmod(below, 2.0L) == 1);
  const long double y = std::scalbn(below + (up ? 1 : 0), exponent);
  return std::copysign(y < 0x1p128L ? y : INFINITY, x);
}

bool is_nan(bfloat16 b) { return (b.bits & 0x7fff) > 0x7f80; }

// Is b what x rounds to? A NaN: a quiet one of the same sign.
bool rounds_to(long double x, bfloat16 b) {
  if (std::isnan(x)) return is_nan(b) && (b.bits & 0x40) && bool(b.bits & 0x8000) == std::signbit(x);
  const double y = value_of(b.bits);
  return y == nearest(x) && std::signbit(y) == std::signbit(x);
}

// All floats whose lower halves are among the eight at which rounding changes, or next to one: 2^19 of them.
std::vector<float> floats_around_codes() {
  std::vector<float> all;
  for (uint32_t code = 0; code < 1 << 16; ++code) {
    for (const uint32_t low : {0u, 1u, 0x4000u, 0x7fffu, 0x8000u, 0x8001u, 0xc000u, 0xffffu})
      all.push_back(std::bit_cast<float>(code << 16 | low));
  }
  return all;
}

// Doubles at, just below and just above each code and each middle between two, and beyond the range of floats.
std::vector<double> doubles_around_codes() {
  std::vector<double> all = {
      0x1p-134, 0x1.0000000000001p-134, 0x1p-135, 0x1.8p-134,           1e-300, 5e-324, 1e39,
      1e300,    0x1.fffffffffffffp1023, INFINITY, 0x1.fefffffffffffp127};
  for (int code = 0; code < 0x7f80; ++code) {
    const double at = value_of(code), next = code == 0x7f7f ? 0x1p128 : value_of(code + 1);
    for (const double x : {at, at + (next - at) / 2})
      for (const double y : {x, std::nextafter(x, 0), std::nextafter(x, INFINITY)}) all.push_back(y);
  }
  const size_t count = all.size();
  for (size_t i = 0; i < count; ++i) all.push_back(-all[i]);
  all.insert(all.end(), {NAN, -NAN, std::bit_cast<double>(0x7ff0000000000001),
                         std::bit_cast<double>(0xfff4 * (uint64_t(1) << 48))});
  return all;
}

std::vector<int64_t> integers() {
  std::vector<int64_t> all = {0, 1, -1, 255, 256, 257, 258, 259, -257, INT64_MIN, INT64_MAX, INT64_MIN + 1};
  for (int k = 8; k < 62; ++k) {  // around the middle of 2^k m and 2^k (m + 1), for even and odd m
    for (const int64_t m : {128, 129, 255}) {
      if (k > 55) break;
      const int64_t middle = (2 * m + 1) << (k - 1);
      for (const int64_t x : {middle - 1, middle, middle + 1, (m << k) + 1}) all.insert(all.end(), {x, -x});
    }
  }
  return all;
}

// All codes, in order.
Tensor all_codes() {
  const Tensor t = Tensor::empty({1 << 16}, in_bf16);
  for (int code = 0; code < 1 << 16; ++code) t.data<bfloat16>()[size_t(code)] = of_code(code);
  return t;
}

}  // namespace

static_assert(sizeof(bfloat16) == 2 && std::is_trivially_copyable_v<bfloat16>);
static_assert(size_of(DType::bf16) == 2 && dtype_of<bfloat16> == DType::bf16);
static_assert(!is_floating(DType::bf16) && !is_integer(DType::bf16) && has_gradient(DType::bf16));
static_assert(float(bfloat16(-2.5f)) == -2.5f && bfloat16(3).bits == 0x4040);

TEST_CASE("every code of bf16 is the number that it stands for, and comes back from it", "[bf16]") {
  int wrong = 0;
  for (int code = 0; code < 1 << 16; ++code) {
    const float x = of_code(code);
    const double y = value_of(code);
    wrong += !(x == y || (std::isnan(x) && std::isnan(y))) || std::signbit(x) != bool(code & 0x8000);
    const int quiet = std::isnan(y) ? code | 0x40 : code;
    wrong += bfloat16(x).bits != quiet || bfloat16(double(x)).bits != quiet;
  }
  CHECK(wrong == 0);
}

TEST_CASE("floats round to the nearest bf16, ties to even", "[bf16]") {
  int wrong = 0;
  const fp8::Rounder<float> rounder(fp8::bf16, fp8::Rounding::nearest_even, fp8::Overflow::to_special);
  for (const float x : floats_around_codes()) {
    wrong += !rounds_to(x, bfloat16(x));
    if (!std::isnan(x)) wrong += bfloat16(x).bits != rounder.code(rounder(x));  // the format of this name
  }
  CHECK(wrong == 0);
}

TEST_CASE("doubles and integers are rounded to bf16 once", "[bf16]") {
  int wrong = 0, twice = 0;
  for (const double x : doubles_around_codes()) {
    wrong += !rounds_to(x, bfloat16(x));
    twice += bfloat16(x).bits != bfloat16(float(x)).bits && !std::isnan(x);
  }
  CHECK(wrong == 0);
  CHECK(twice > 60'000);  // where rounding by way of float is wrong
  twice = 0;
  for (const int64_t x : integers()) {
    wrong += !rounds_to((long double)(x), bfloat16(x));
    twice += bfloat16(x).bits != bfloat16(double(x)).bits;
  }
  CHECK(wrong == 0);
  CHECK(twice > 0);
  CHECK(bfloat16(UINT64_MAX).bits == 0x5f80);
  CHECK(bfloat16(uint8_t(255)).bits == 0x437f);
  CHECK(bfloat16(true).bits == 0x3f80);
}

TEST_CASE("casts to bf16 are its conversions", "[bf16]") {
  const auto check = [](const auto& from) {
    const Tensor x = Tensor::from(from, {int64_t(from.size())}), y = x.to(DType::bf16);
    REQUIRE(y.dtype() == DType::bf16);
    int wrong = 0;
    for (size_t i = 0; i < from.size(); ++i)
      wrong += !rounds_to((long double)(from[i]), y.data<bfloat16>()[i]);
    CHECK(wrong == 0);
    const Tensor z = Tensor::empty(x.shape(), in_bf16);
    z.copy_(x);
    CHECK(std::memcmp(y.raw(), z.raw(), y.nbytes()) == 0);
  };
  check(floats_around_codes());
  check(doubles_around_codes());
  check(integers());
  std::vector<uint8_t> bytes;
  for (int i = 0; i < 256; ++i) bytes.push_back(uint8_t(i));
  check(bytes);
}

TEST_CASE("casts from bf16 are exact, to integers toward zero and kept in range", "[bf16]") {
  const Tensor codes = all_codes();
  const auto f = values<float>(codes.to(DType::f32));
  const auto d = values<double>(codes.to(DType::f64));
  const auto wide = values<int64_t>(codes.to(DType::i64));
  const auto bytes = values<uint8_t>(codes.to(DType::u8));
  int wrong = 0;
  for (int code = 0; code < 1 << 16; ++code) {
    const double y = value_of(code);
    const auto i = size_t(code);
    if (std::isnan(y)) {
      wrong += !std::isnan(f[i]) || !std::isnan(d[i]) || wide[i] != 0 || bytes[i] != 0;
      continue;
    }
    wrong += f[i] != y || d[i] != y || std::signbit(f[i]) != std::signbit(y);
    wrong += wide[i] != (y >= 0x1p63 ? INT64_MAX : y < -0x1p63 ? INT64_MIN : int64_t(y));
    wrong += bytes[i] != (y >= 255 ? 255 : y <= 0 ? 0 : int(y));
  }
  CHECK(wrong == 0);
  CHECK(codes.to(DType::bf16).is(codes));
}

TEST_CASE("conversions to bf16 do not depend on the floating-point environment", "[bf16]") {
#if !defined(__x86_64__)
  SKIP_TEST("the mode is set in a register of x86");
#else
  const auto floats = floats_around_codes();
  const auto doubles = doubles_around_codes();
  const auto round_all = [&] {
    std::vector<uint16_t> bits;
    for (const float x : floats) bits.push_back(bfloat16(x).bits);
    for (const double x : doubles) bits.push_back(bfloat16(x).bits);
    for (const int64_t x : integers()) bits.push_back(bfloat16(x).bits);
    const Tensor cast = Tensor::from(floats, {int64_t(floats.size())}).to(DType::bf16);
    for (const bfloat16 b : cast.data<bfloat16>()) bits.push_back(b.bits);
    bits.push_back(Tensor::full({}, 0x1.8p-133, in_bf16).item<bfloat16>().bits);
    bits.push_back(Tensor::from({of_code(1)}, {}).item<bool>());
    return bits;
  };
  const auto plain = round_all();
  const unsigned mode = _mm_getcsr();
  for (const unsigned other : {0x8040u, 0x2000u, 0x4000u, 0x6000u}) {  // FTZ and DAZ, three roundings
    _mm_setcsr(mode | other);
    const auto again = round_all();
    _mm_setcsr(mode);
    CHECK(std::equal(plain.begin(), plain.end(), again.begin(), again.end()));  // too many to print
  }
#endif
}
