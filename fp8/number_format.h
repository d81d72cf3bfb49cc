// Number formats as data: a Format says how many bits, which bias and which codes are special, for any float,
// fixed-point or power-of-two format of 4 to 16 bits. Sources: IEEE 754-2019; OCP OFP8 1.0 (E4M3, E5M2); OCP MX 1.0
// (E8M0, FP6, FP4); ml_dtypes (fnuz, b11); IEEE P3109 interim report.
#pragma once

#include <altgrad/core/bfloat16.h>
#include <altgrad/core/export.h>
#include <altgrad/core/fast_math.h>

#include <bit>
#include <concepts>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string_view>
#include <type_traits>

ALTGRAD_API_BEGIN
namespace altgrad::fp8 {

/// Which codes are not numbers.
enum class Specials {
  ieee,        ///< the top exponent holds Inf (mantissa 0) and NaN (canonical: only the top mantissa bit set)
  fn,          ///< OCP E4M3: only the all-ones magnitude is NaN; no Inf
  fnuz,        ///< only the code of -0 is NaN; no Inf, no -0
  p3109,       ///< IEEE P3109: the code of -0 is NaN, the all-ones magnitude Inf; no -0
  finite_only  ///< every code is a number
};

/// Ties go to the even code (IEEE: roundTiesToEven); magnitudes are cut; or up with the probability of the
/// fraction of a step that would be cut, so that the expectation is x (for |x| <= max).
enum class Rounding { nearest_even, toward_zero, stochastic };

/// What becomes of an x that is too large, of +-Inf and of NaN (the sign is kept):
///
///   rounded magnitude > max   | ieee, p3109 | fn, fnuz | finite_only
///     to_special              | Inf         | NaN      | max            toward_zero: max, always (IEEE 754, 7.4)
///     saturate_finite, _all   | max         | max      | max
///   +-Inf
///     to_special, _finite     | Inf         | NaN      | Inf            no code for it: encode gives max
///     saturate_all            | max         | max      | max
///   NaN, any policy           | NaN         | NaN      | NaN            no code for it: encode gives max
///
/// to_special is CUDA's NOSAT and ml_dtypes' cast, saturate_finite is ml_dtypes' saturating cast, saturate_all
/// is CUDA's SATFINITE.
enum class Overflow { to_special, saturate_finite, saturate_all };

namespace detail {
template <class T>
using BitsOf = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;

// The bits of m * 2^k as a T (float or double), for m < 2^17: exact wherever T holds it, to nearest even among T's
// subnormals, Inf or 0 beyond.
template <class T>
AG_HD constexpr BitsOf<T> bits_of_scaled(std::uint32_t m, int k) {
  using Bits = BitsOf<T>;
  constexpr int p = std::numeric_limits<T>::digits - 1, bias = std::numeric_limits<T>::max_exponent - 1;
  if (m == 0) return 0;
  const int lead = 63 - altgrad::detail::leading_zeros(m), field = lead + k + bias;
  if (field > 2 * bias) return (Bits{2} * bias + 1) << p;
  if (field > 0) return (static_cast<Bits>(field - 1) << p) + (static_cast<Bits>(m) << (p - lead));
  const int shift = k + bias - 1 + p;  // a subnormal counts units of 2^(1 - bias - p)
  if (shift >= 0) return static_cast<Bits>(m) << shift;
  if (shift < -18) return 0;
  const Bits half = Bits{1} << (-shift - 1), odd = m >> -shift & 1;
  return (m + half - 1 + odd) >> -shift;
}
}  // namespace detail

/// A name of up to 31 characters, held in place: a Format does not depend on the string it was named with. Throws
/// std::invalid_argument where there are more.
class FormatName {
 public:
  template <class S = const char*>
  requires std::convertible_to<const S&, std::string_view>
  constexpr FormatName(const S& text = "") {
    const std::string_view view = text;
    if (view.size() >= sizeof text_)
      throw std::invalid_argument("format: a name has more than 31 characters");
    for (; size_ < view.size(); ++size_) text_[size_] = view[size_];
  }
  constexpr operator std::string_view() const { return {text_, size_}; }
  friend constexpr bool operator==(const FormatName& a, std::string_view b) {
    return std::string_view(a) == b;
  }
  friend constexpr bool operator==(const FormatName& a, const std::same_as<FormatName> auto& b) {
    return a == std::string_view(b);
  }
  friend std::ostream& operator<<(std::ostream& out, const FormatName& name) {
    return out << std::string_view(name);
  }

 private:
  char text_[32] = {};
  std::size_t size_ = 0;
};

struct Format {
  int exponent_bits = 0;
  int mantissa_bits = 0;
  int bias = 0;
  Specials specials = Specials::finite_only;
  FormatName name = "";
  bool has_sign = true;
  bool has_subnormals = true;  ///< false: exponent field 0 is a binade like others, and there is no 0 (E8M0)

  /// A code is sign, exponent field e, mantissa m of M = mantissa_bits:
  ///   e > 0:  (-1)^s 2^(e - bias) (1 + m / 2^M)        e = 0:  (-1)^s 2^(1 - bias) (m / 2^M)
  /// E0 formats are fixed point: e = 0 throughout. Values beyond double (E11M4 to E15M0) are Inf or 0.
  AG_HD constexpr double decode(std::uint32_t code) const {
    const std::uint32_t magnitude = code & magnitude_mask();
    const bool negative = code & sign_code();
    const bool is_nan = nan_is_minus_zero()        ? magnitude == 0 && negative
                        : specials == Specials::fn ? magnitude == magnitude_mask()
                                                   : has_inf() && magnitude > inf_code();
    const bool is_inf = has_inf() && magnitude == inf_code();
    constexpr std::uint64_t inf = std::uint64_t{0x7ff} << 52, nan = inf | std::uint64_t{1} << 51;
    const std::uint64_t bits = is_nan ? nan : is_inf ? inf : magnitude_bits<double>(magnitude);
    return std::bit_cast<double>(bits | static_cast<std::uint64_t>(negative) << 63);
  }
  /// The bits of a number's magnitude as a T, its code being no special one.
  template <class T>
  AG_HD constexpr detail::BitsOf<T> magnitude_bits(std::uint32_t magnitude) const {
    const std::uint32_t field = magnitude >> mantissa_bits;
    const bool normal = field != 0 || !has_subnormals;
    const std::uint32_t significand = magnitude - ((field - normal) << mantissa_bits);  // with the leading 1
    return detail::bits_of_scaled<T>(significand, static_cast<int>(field) + !normal - bias - mantissa_bits);
  }

  /// The code of x, rounded once, directly. Where there is no 0, it becomes the smallest number; where there
  /// is no sign, a sign bit counts as NaN, that of -0 too (E8M0: 0 is 2^-127, -0 is NaN). `random` serves stochastic
  /// rounding. In loops use a Rounder.
  AG_HD constexpr std::uint32_t encode(double x, Rounding rounding = Rounding::nearest_even,
                                       Overflow overflow = Overflow::saturate_finite,
                                       std::uint32_t random = 0) const;

  AG_HD constexpr int bits() const { return has_sign + exponent_bits + mantissa_bits; }
  AG_HD constexpr std::uint32_t num_codes() const { return 1u << bits(); }
  AG_HD constexpr std::uint32_t sign_code() const { return has_sign ? num_codes() / 2 : 0; }
  AG_HD constexpr std::uint32_t magnitude_mask() const { return (1u << (exponent_bits + mantissa_bits)) - 1; }

  AG_HD constexpr bool has_inf() const { return specials == Specials::ieee || specials == Specials::p3109; }
  AG_HD constexpr bool has_nan() const { return specials != Specials::finite_only; }
  AG_HD constexpr bool nan_is_minus_zero() const {  // its code, that is
    return specials == Specials::fnuz || specials == Specials::p3109;
  }
  AG_HD constexpr bool has_minus_zero() const { return has_sign && has_subnormals && !nan_is_minus_zero(); }

  /// Codes of the largest number, of NaN and of +Inf; where there is no such code, what encode gives instead.
  AG_HD constexpr std::uint32_t max_code() const {
    if (has_inf()) return inf_code() - 1;
    return specials == Specials::fn ? magnitude_mask() - 1 : magnitude_mask();
  }
  AG_HD constexpr std::uint32_t nan_code() const {
    if (nan_is_minus_zero()) return sign_code();
    if (specials == Specials::ieee) return inf_code() | (1u << mantissa_bits >> 1);
    return specials == Specials::fn ? magnitude_mask() : max_code();
  }
  AG_HD constexpr std::uint32_t inf_code() const {
    if (specials == Specials::p3109) return magnitude_mask();
    return has_inf() ? magnitude_mask() >> mantissa_bits << mantissa_bits : nan_code();
  }

  /// The largest number, the smallest normal one (E0: none, the formula lies above max) and the smallest
  /// positive one (E7M0 and E8M0 have no subnormals: min_normal).
  AG_HD constexpr double max() const { return decode(max_code()); }
  AG_HD constexpr double min_normal() const { return pow2(min_exponent()); }
  AG_HD constexpr double min_subnormal() const {
    return pow2(min_exponent() - (has_subnormals ? mantissa_bits : 0));
  }
  AG_HD constexpr int min_exponent() const { return has_subnormals - bias; }  ///< of min_normal

  AG_HD constexpr bool operator==(const Format& o) const {  // the same codes for the same numbers
    return exponent_bits == o.exponent_bits && mantissa_bits == o.mantissa_bits && bias == o.bias &&
           specials == o.specials && has_sign == o.has_sign && has_subnormals == o.has_subnormals;
  }

  /// Throws std::invalid_argument, naming what is wrong. Every function here takes a valid format for granted.
  void validate() const;

 private:
  AG_HD static constexpr double pow2(int k) {
    return std::bit_cast<double>(detail::bits_of_scaled<double>(1, k));
  }
};

}  // namespace altgrad::fp8
ALTGRAD_API_END
