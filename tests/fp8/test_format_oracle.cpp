// Rounding against two judges that share no code with it: a plain reference (the sorted list of all numbers
// of a format, built with ldexp; binary search; compare with the midpoint) and what NVIDIA's host conversions
// gave. Exhaustive over the upper halves of f32 and around grid points and ties.
#include <altgrad/fp8/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "catch.h"
#include "nvidia_codes.h"

using namespace altgrad::fp8;

namespace {

#if defined(__SANITIZE_ADDRESS__) || !defined(NDEBUG)
constexpr int share = 20;  // of the random inputs, where code runs slowly
#else
constexpr int share = 1;
#endif

constexpr Overflow overflows[] = {Overflow::to_special, Overflow::saturate_finite, Overflow::saturate_all};

// long double: midpoints and the range of E15M0 do not fit double.
long double magnitude(const Format& f, std::int64_t code) {
  const std::int64_t field = code >> f.mantissa_bits, scale = std::int64_t{1} << f.mantissa_bits;
  const bool normal = field > 0 || !f.has_subnormals;
  const int exponent = (normal ? static_cast<int>(field) : 1) - f.bias - f.mantissa_bits;
  return std::ldexp(static_cast<long double>(code % scale + (normal ? scale : 0)), exponent);
}

// The numbers of a format that T holds, in order of their codes, and one beyond the last.
template <class T>
struct Reference {
  Format format;
  std::vector<long double> values;

  explicit Reference(const Format& f) : format(f) {
    std::int64_t last = (std::int64_t{1} << (f.exponent_bits + f.mantissa_bits)) - 1;
    if (f.specials == Specials::fn || f.specials == Specials::p3109) last -= 1;
    if (f.specials == Specials::ieee) last -= std::int64_t{1} << f.mantissa_bits;
    for (std::int64_t c = 0; c <= last; ++c) {
      if (magnitude(f, c) > std::numeric_limits<T>::max()) break;
      values.push_back(magnitude(f, c));
    }
    values.push_back(magnitude(f, static_cast<std::int64_t>(values.size())));
  }

  std::uint32_t last() const { return static_cast<std::uint32_t>(values.size() - 2); }

  // Code of the largest number <= |x|, at most that of the entry beyond the last.
  std::uint32_t below(T x) const {
    const auto above = std::upper_bound(values.begin(), values.end(), static_cast<long double>(std::abs(x)));
    return above == values.begin() ? 0 : static_cast<std::uint32_t>(above - values.begin() - 1);
  }

  // Value and code of x. A special result has the code of the special, or that of the largest number.
  std::pair<T, std::uint32_t> operator()(T x, Rounding rounding, Overflow overflow) const {
    const std::uint32_t sign = std::signbit(x) && format.has_sign ? 1u << (format.bits() - 1) : 0;
    const bool ieee = format.specials == Specials::ieee, finite = format.specials == Specials::finite_only;
    const bool p3109 = format.specials == Specials::p3109, infinite = ieee || p3109;
    const std::uint32_t ones = (1u << (format.exponent_bits + format.mantissa_bits)) - 1;
    const std::uint32_t ieee_inf = ones >> format.mantissa_bits << format.mantissa_bits;
    const std::uint32_t nan_code = ieee ? ieee_inf + (1u << format.mantissa_bits) / 2
                                        : ones + (p3109 || format.specials == Specials::fnuz);
    const std::uint32_t inf_code = ieee ? ieee_inf : p3109 ? ones : nan_code;
    const T nan = std::numeric_limits<T>::quiet_NaN();
    const T inf = std::copysign(std::numeric_limits<T>::infinity(), x);

    if (std::isnan(x) || (std::signbit(x) && !format.has_sign)) return {nan, nan_code | sign};
    std::uint32_t code = last();
    if (std::isinf(x)) {
      if (overflow != Overflow::saturate_all) return {infinite || finite ? inf : nan, inf_code | sign};
    } else {
      code = below(x);
      const long double size = std::abs(x);
      if (code <= last() && rounding == Rounding::nearest_even && size > values[code]) {
        const long double middle = (values[code] + values[code + 1]) / 2;
        if (size > middle || (size == middle && code % 2 == 1)) ++code;
      }
      if (code > last()) {
        code = last();
        if (overflow == Overflow::to_special && rounding != Rounding::toward_zero && !finite)
          return {infinite ? inf : nan, inf_code | sign};
      }
    }
    T value = std::copysign(static_cast<T>(values[code]), x);
    if (value == 0 && (p3109 || format.specials == Specials::fnuz)) return {T{0}, 0};
    return {value, code | sign};
  }
};

template <class T>
bool same(T a, T b) {
  return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
}

// Rounds each x to value and code, and counts what differs from the reference; keeps the first difference.
template <class T>
struct Comparison {
  const Reference<T>& reference;
  Rounding rounding;
  Overflow overflow;
  Rounder<T> rounder{reference.format, rounding, overflow};
  int wrong = 0;
  std::string first = "";

  void operator()(T x) {
    const auto [value, code] = reference(x, rounding, overflow);
    const T rounded = rounder(x), with_bits = rounder(x, 0x89abcdefu);
    if (same(rounded, value) && same(with_bits, value) && rounder.code(rounded) == code) return;
    if (wrong++ == 0) {
      const auto hex = [](double v) {
        char text[32];
        std::snprintf(text, sizeof text, "%a", v);
        return std::string(text);
      };
      first = hex(x) + " became " + hex(rounded) + ", code " + std::to_string(rounder.code(rounded)) +
              ", and should be " + hex(value) + ", code " + std::to_string(code);
    }
  }
};

template <class T, class Inputs>
void compare(const Format& f, const Inputs& inputs, bool all_policies = true) {
  const Reference<T> reference(f);
  for (Rounding rounding : {Rounding::nearest_even, Rounding::toward_zero}) {
    for (Overflow overflow : overflows) {
      const bool usual = rounding == Rounding::nearest_even && overflow == Overflow::saturate_finite;
      if (!usual && !all_policies) continue;
      Comparison<T> check{reference, rounding, overflow};
      inputs([&](T x) { check(x); });
      INFO(f.name << " " << sizeof(T) << " rounding " << int(rounding) << " overflow " << int(overflow));
      INFO(check.first);
      CHECK(check.wrong == 0);
    }
  }
}

// Formats that no registry has: what users may make.
std::vector<Format> all_formats() {
  std::vector<Format> all(formats().begin(), formats().end());
  all.push_back({.exponent_bits = 7, .mantissa_bits = 0, .bias = 62, .name = "E7M0, other parity"});
  all.push_back({.exponent_bits = 4, .mantissa_bits = 3, .bias = 9, .name = "E4M3b9"});
  all.push_back({.exponent_bits = 5, .mantissa_bits = 2, .bias = 130, .name = "E5M2b130"});
  all.push_back({.exponent_bits = 5, .mantissa_bits = 2, .bias = 121, .name = "E5M2b121"});
  all.push_back({.exponent_bits = 3, .mantissa_bits = 4, .bias = -90, .name = "E3M4b-90"});
  all.push_back({.exponent_bits = 2, .mantissa_bits = 1, .specials = Specials::ieee, .name = "E2M1, ieee"});
  all.push_back({.exponent_bits = 4,
                 .mantissa_bits = 4,
                 .bias = 7,
                 .specials = Specials::fn,
                 .name = "UE4M4",
                 .has_sign = false});
  all.push_back({.exponent_bits = 4,
                 .mantissa_bits = 3,
                 .bias = 7,
                 .name = "E4M3 without subnormals",
                 .has_subnormals = false});
  return all;
}

// Grid points, ties and their neighbours: all of an 8-bit format, a sample of a 16-bit one.
template <class T, class Each>
void around_grid(const Format& f, const Each& each) {
  const Reference<T> reference(f);
  const std::size_t stride = f.bits() > 8 ? 61 : 1, n = reference.values.size();
  for (std::size_t c = 0; c + 1 < n; c += (c < 40 || c + 100 > n ? 1 : stride)) {
    const long double a = reference.values[c], b = reference.values[c + 1];
    for (long double point : {a, (a + b) / 2, a + (b - a) / 4, b}) {
      if (point > std::numeric_limits<T>::max()) continue;
      const T x = static_cast<T>(point);
      for (T y : {x, std::nextafter(x, T{0}), std::nextafter(x, std::numeric_limits<T>::infinity())}) {
        each(y);
        each(-y);
      }
    }
  }
}

template <class T>
auto random_bits(int count) {
  return [count](const auto& each) {
    std::mt19937_64 engine(count);
    for (int i = 0; i < count; ++i) {
      if constexpr (sizeof(T) == 4) {
        each(std::bit_cast<T>(static_cast<std::uint32_t>(engine())));
      } else {
        each(std::bit_cast<T>(engine()));
      }
    }
  };
}

// Doubles of ordinary size, many of them within an ulp of a tie: what rounding by way of float gets wrong.
auto random_doubles(int count) {
  return [count](const auto& each) {
    std::mt19937_64 engine(count);
    std::uniform_int_distribution<int> exponent(-40, 40);
    for (int i = 0; i < count; ++i) {
      const double x = std::ldexp(static_cast<double>(engine() >> 59) + 32, exponent(engine));
      each(x);
      each(std::nextafter(x, 0.0));
      each(-std::nextafter(x, 1e300));
      each(std::ldexp(static_cast<double>(engine()), exponent(engine) - 64));
    }
  };
}

void upper_halves(const auto& each) {
  for (std::uint32_t i = 0; i < 0x10000; ++i) each(std::bit_cast<float>(i << 16));
}

}  // namespace

TEST_CASE("rounding agrees with the reference on all upper halves of f32", "[format]") {
  const auto inputs = [](const auto& each) { upper_halves(each); };
  for (const Format& f : all_formats()) compare<float>(f, inputs, share == 1);
}

TEST_CASE("rounding agrees with the reference at grid points, ties and their neighbours", "[format]") {
  for (const Format& f : all_formats()) {
    compare<float>(f, [&](const auto& each) { around_grid<float>(f, each); });
    compare<double>(f, [&](const auto& each) { around_grid<double>(f, each); });
    // Near enough to a tie that float cannot tell: rounded directly, not through float.
    compare<double>(f, [&](const auto& each) {
      around_grid<float>(f, [&](float x) {
        each(std::nextafter(double{x}, 1e300));
        each(std::nextafter(double{x}, -1e300));
      });
    });
  }
}

TEST_CASE("rounding agrees with the reference on random floats and doubles", "[format]") {
  for (const Format& f : all_formats()) {
    const bool ocp = f.name == "E4M3" || f.name == "E5M2";
    compare<float>(f, random_bits<float>((ocp ? 10'000'000 : 200'000) / share), false);
    compare<double>(f, random_bits<double>(100'000 / share), false);
    compare<double>(f, random_doubles(50'000 / share), false);
    compare<float>(f, random_bits<float>(20'000 / share));
  }
}

namespace {

// How many of the 2^32 values of `random` round x up. These are all above, or all below, some value: bisect.
template <class T>
double ups(const Rounder<T>& r, T x, T up) {
  const bool first = r(x, 0) == up, last = r(x, 0xffffffffu) == up;
  if (first == last) return first ? 0x1p32 : 0;
  std::uint64_t low = 0, high = 0xffffffffu;  // r(x, low) goes as the first, r(x, high) as the last
  while (high - low > 1) {
    const std::uint64_t middle = (low + high) / 2;
    ((r(x, static_cast<std::uint32_t>(middle)) == up) == first ? low : high) = middle;
  }
  return static_cast<double>(first ? high : 0x100000000u - high);
}

template <class T>
void check_stochastic(const Format& f) {
  INFO(f.name << " " << sizeof(T));
  const Reference<T> reference(f);
  const Rounder<T> r(f, Rounding::stochastic), truncate(f, Rounding::toward_zero);
  std::mt19937_64 engine(7);
  std::uniform_real_distribution<double> uniform;
  double worst = 0;
  int strangers = 0, moved = 0;
  for (int i = 0; i < 4000; ++i) {
    // Codes evenly, so that subnormals and normals have their share; steps of zero also deep below.
    const auto c = static_cast<std::uint32_t>((i < 400 ? i % 8 : engine()) % reference.last());
    const long double a = reference.values[c], b = reference.values[c + 1];
    const double fraction = i % 4 ? uniform(engine) : std::exp2(-30 * uniform(engine));
    const T x = static_cast<T>(a + (b - a) * fraction);
    if (!(x > a && x < b) || b < std::numeric_limits<T>::denorm_min()) continue;
    for (int k = 0; k < 8; ++k) {
      const T y = r(x, static_cast<std::uint32_t>(engine()));
      strangers += y != static_cast<T>(a) && y != static_cast<T>(b);
    }
    if (f.has_sign) strangers += r(-x, 12345u) != -r(x, 12345u);
    strangers += truncate(x) != static_cast<T>(a);
    moved += r(static_cast<T>(a), static_cast<std::uint32_t>(engine())) != static_cast<T>(a);
    const double expected = static_cast<double>((x - a) / (b - a)) * 0x1p32;
    worst = std::max(worst, std::abs(ups(r, x, static_cast<T>(b)) - expected));
  }
  CHECK(strangers == 0);  // only the two neighbours
  CHECK(moved == 0);      // a number of the format stays
  CHECK(worst <= 1);      // exactly the fraction of the 2^32 random numbers
}

}  // namespace

TEST_CASE("stochastic rounding goes up with the probability of the fraction", "[format]") {
  for (const Format& f : all_formats()) {
    check_stochastic<float>(f);
    check_stochastic<double>(f);
  }
}

TEST_CASE("stochastic rounding keeps the mean of values below the smallest step", "[format]") {
  const Rounder<float> r(E4M3, Rounding::stochastic);
  std::mt19937 engine(3);
  const float x = 0x1p-15f;  // 1/64 of the smallest step: nearest would lose it
  const int n = 4'000'000 / share;
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += r(x, static_cast<std::uint32_t>(engine()));
  CHECK(sum / n == Approx(x).epsilon(5 * std::sqrt(63.0 / n)));
  CHECK(Rounder<float>(E4M3)(x) == 0);
  for (std::uint32_t random : {0u, 1u, 0xffffffffu}) {
    CHECK(r(0.0f, random) == 0);
    CHECK(std::signbit(r(-0.0f, random)));
  }
}

TEST_CASE("stochastic rounding above max follows the overflow policy", "[format]") {
  const Rounder<float> saturating(E4M3, Rounding::stochastic);
  const Rounder<float> special(E4M3, Rounding::stochastic, Overflow::to_special);
  CHECK(saturating(470.0f, 0xffffffffu) == 448);
  CHECK(std::isnan(special(470.0f, 0xffffffffu)));  // up to 480, which is none of E4M3's numbers
  CHECK(special(470.0f, 0u) == 448);
  CHECK(std::isnan(special(1e9f, 0u)));
}

namespace {

// NVIDIA drops the sign of NaN in fp8, ml_dtypes and altgrad keep it: compare NaN as NaN.
int disagreements(const Format& f, Overflow overflow, bool finite_only, const NvidiaCodes& table) {
  const Rounder<float> r(f, Rounding::nearest_even, overflow);
  int wrong = 0;
  const auto check = [&](float x) {
    if (finite_only && !std::isfinite(x)) return;
    const std::uint32_t a = r.code(r(x)), b = table(x);
    wrong += a != b && !(std::isnan(f.decode(a)) && std::isnan(f.decode(b)));
  };
  upper_halves(check);
  random_bits<float>(10'000'000 / share)(check);
  for (const std::uint32_t first : table.first) {
    for (const std::uint32_t bits : {first - 1, first, first + 1}) check(std::bit_cast<float>(bits));
  }
  return wrong;
}

}  // namespace

TEST_CASE("E4M3 and E5M2 agree with NVIDIA's conversions", "[format]") {
  CHECK(disagreements(E4M3, Overflow::saturate_all, false, nvidia::e4m3_satfinite) == 0);
  CHECK(disagreements(E4M3, Overflow::to_special, false, nvidia::e4m3_nosat) == 0);
  CHECK(disagreements(E5M2, Overflow::saturate_all, false, nvidia::e5m2_satfinite) == 0);
  CHECK(disagreements(E5M2, Overflow::to_special, false, nvidia::e5m2_nosat) == 0);
}

TEST_CASE("FP6 and FP4 agree with NVIDIA's conversions", "[format]") {
  CHECK(disagreements(float6_e2m3fn, Overflow::saturate_all, true, nvidia::e2m3) == 0);
  CHECK(disagreements(float6_e3m2fn, Overflow::saturate_all, true, nvidia::e3m2) == 0);
  CHECK(disagreements(float4_e2m1fn, Overflow::saturate_all, true, nvidia::e2m1) == 0);
}
