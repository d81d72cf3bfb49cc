// The registry of number formats, and the check of formats made by users. Everything about a format that
// arithmetic needs is constexpr, in the header; here is what allocates strings and throws.
#include <altgrad/fp8/format.h>

#include <altgrad/core/error.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>

namespace altgrad::fp8 {
namespace {

// clang-format off
constexpr std::array registry{
    E0M7, E1M6, E2M5, E3M4, E4M3, E5M2, E6M1, E7M0,
    float8_e4m3fn, float8_e4m3, float8_e5m2, float8_e3m4, float8_e4m3fnuz, float8_e5m2fnuz, float8_e4m3b11fnuz,
    float8_e8m0fnu, float6_e2m3fn, float6_e3m2fn, float4_e2m1fn,
    p3109_k8p1se, p3109_k8p2se, p3109_k8p3se, p3109_k8p4se, p3109_k8p5se, p3109_k8p6se, p3109_k8p7se,
    fp16, bf16, E0M15, E1M14, E2M13, E3M12, E4M11, E5M10, E6M9, E7M8, E8M7, E9M6, E10M5, E11M4, E12M3, E13M2, E14M1,
    E15M0};
// clang-format on

bool same_name(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
  return std::ranges::equal(a, b, {}, lower, lower);
}

}  // namespace

std::span<const Format> formats() { return registry; }

const Format& format(std::string_view name) {
  const auto found = std::ranges::find_if(registry, [&](const Format& f) { return same_name(f.name, name); });
  if (found != registry.end()) return *found;
  std::string message = "format: no format is called '" + std::string(name) + "'; there are";
  const char* separator = " ";
  for (const Format& f : registry) {
    message.append(separator).append(f.name);
    separator = ", ";
  }
  throw std::invalid_argument(message);
}

void Format::validate() const {
  // The text is put together only where it is needed: ops validate on every call.
  const auto require = [this](bool ok, const auto&... what) {
    if (!ok) fail("format '", name, "': ", what...);
  };
  const auto in_range = [](int n) { return n >= 0 && n <= 15; };
  require(specials >= Specials::ieee && specials <= Specials::finite_only, "specials is ", int(specials),
          ", none of Specials");
  require(in_range(exponent_bits), "exponent_bits is ", exponent_bits, ", not 0 to 15");
  require(in_range(mantissa_bits), "mantissa_bits is ", mantissa_bits, ", not 0 to 15");
  require(bits() >= 4 && bits() <= 16, "sign, exponent and mantissa make ", bits(), " bits, not 4 to 16");
  require(specials != Specials::ieee || (exponent_bits > 0 && mantissa_bits > 0),
          "ieee specials need an exponent bit and a mantissa bit, to tell Inf from NaN");
  require(has_sign || specials == Specials::fn, "a format without sign needs fn specials: x < 0 is NaN");
  require(has_subnormals || exponent_bits > 0, "a format without subnormals needs an exponent bit");
  require(has_subnormals || !nan_is_minus_zero(), "fnuz and p3109 need a zero: their NaN is the code of -0");
  require(bias >= -(1 << 14) && bias <= 1 << 14, "bias is ", bias, ", not -16384 to 16384");
  // Beyond these no float of ordinary size is on the grid, and Rounder<float> has nothing to hold.
  require(min_subnormal() <= 0x1p100 && max() >= 0x1p-100, "bias ", bias,
          " puts every number outside 2^-100 to 2^100");
}

}  // namespace altgrad::fp8
