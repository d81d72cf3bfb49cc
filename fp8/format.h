// Number formats as data, and the routine that rounds to any of them. A Format says how many bits, which bias
// and which codes are special, for any float, fixed-point or power-of-two format of 4 to 16 bits; a Rounder
// puts floats and doubles on its grid.
// The one decision worth knowing: all but Rounder::nearest is integer arithmetic on the bits of floats (to round: add
// something below one step, clear what is below one step), so that it does not depend on the floating-point
// environment (rounding mode, flushing of subnormals), on fma contraction or on -ffast-math, and CPU and GPU agree bit
// for bit.
// Sources: IEEE 754-2019; OCP OFP8 1.0 (E4M3, E5M2); OCP MX 1.0 (E8M0, FP6, FP4); ml_dtypes (fnuz, b11); IEEE P3109
// interim report.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <string_view>
#include <type_traits>

#include <altgrad/core/export.h>
#include <altgrad/core/fast_math.h>
#include <altgrad/core/host_device.h>

ALTGRAD_API_BEGIN
namespace altgrad::fp8 {

// Which codes are not numbers.
enum class Specials {
  ieee,        // the top exponent holds Inf (mantissa 0) and NaN (canonical: only the top mantissa bit set)
  fn,          // OCP E4M3: only the all-ones magnitude is NaN; no Inf
  fnuz,        // only the code of -0 is NaN; no Inf, no -0
  p3109,       // IEEE P3109: the code of -0 is NaN, the all-ones magnitude Inf; no -0
  finite_only  // every code is a number
};

// Ties go to the even code (IEEE: roundTiesToEven); magnitudes are cut; or up with the probability of the
// fraction of a step that would be cut, so that the expectation is x (for |x| <= max).
enum class Rounding { nearest_even, toward_zero, stochastic };

// What becomes of an x that is too large, of +-Inf and of NaN (the sign is kept):
//
//   rounded magnitude > max   | ieee, p3109 | fn, fnuz | finite_only
//     to_special              | Inf         | NaN      | max            toward_zero: max, always (IEEE 754, 7.4)
//     saturate_finite, _all   | max         | max      | max
//   +-Inf
//     to_special, _finite     | Inf         | NaN      | Inf            no code for it: encode gives max
//     saturate_all            | max         | max      | max
//   NaN, any policy           | NaN         | NaN      | NaN            no code for it: encode gives max
//
// to_special is CUDA's NOSAT and ml_dtypes' cast, saturate_finite is ml_dtypes' saturating cast, saturate_all
// is CUDA's SATFINITE.
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
  const int lead = static_cast<int>(std::bit_width(m)) - 1, field = lead + k + bias;
  if (field > 2 * bias) return (Bits{2} * bias + 1) << p;
  if (field > 0) return (static_cast<Bits>(field - 1) << p) + (static_cast<Bits>(m) << (p - lead));
  const int shift = k + bias - 1 + p;  // a subnormal counts units of 2^(1 - bias - p)
  if (shift >= 0) return static_cast<Bits>(m) << shift;
  if (shift < -18) return 0;
  const Bits half = Bits{1} << (-shift - 1), odd = m >> -shift & 1;
  return (m + half - 1 + odd) >> -shift;
}
}  // namespace detail

// A name of up to 31 characters, held in place: a Format does not depend on the string it was named with. Throws
// std::invalid_argument where there are more.
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
  bool has_subnormals = true;  // false: exponent field 0 is a binade like any other, so there is no 0 (E8M0)

  // A code is sign, exponent field e, mantissa m of M = mantissa_bits:
  //   e > 0:  (-1)^s 2^(e - bias) (1 + m / 2^M)        e = 0:  (-1)^s 2^(1 - bias) (m / 2^M)
  // E0 formats are fixed point: e = 0 throughout. Values beyond double (E11M4 to E15M0) are Inf or 0.
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
  // The bits of a number's magnitude as a T, its code being no special one.
  template <class T>
  AG_HD constexpr detail::BitsOf<T> magnitude_bits(std::uint32_t magnitude) const {
    const std::uint32_t field = magnitude >> mantissa_bits;
    const bool normal = field != 0 || !has_subnormals;
    const std::uint32_t significand = magnitude - ((field - normal) << mantissa_bits);  // with the leading 1
    return detail::bits_of_scaled<T>(significand, static_cast<int>(field) + !normal - bias - mantissa_bits);
  }

  // The code of x, rounded once, directly. Where there is no 0, it becomes the smallest number; where there
  // is no sign, a sign bit counts as NaN, that of -0 too (E8M0: 0 is 2^-127, -0 is NaN). `random` serves stochastic
  // rounding. In loops use a Rounder.
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

  // Codes of the largest number, of NaN and of +Inf; where there is no such code, what encode gives instead.
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

  // The largest number, the smallest normal one (E0: none, the formula lies above max) and the smallest
  // positive one (E7M0 and E8M0 have no subnormals: min_normal).
  AG_HD constexpr double max() const { return decode(max_code()); }
  AG_HD constexpr double min_normal() const { return pow2(min_exponent()); }
  AG_HD constexpr double min_subnormal() const {
    return pow2(min_exponent() - (has_subnormals ? mantissa_bits : 0));
  }
  AG_HD constexpr int min_exponent() const { return has_subnormals - bias; }  // of the smallest normal number

  AG_HD constexpr bool operator==(const Format& o) const {  // the same codes for the same numbers
    return exponent_bits == o.exponent_bits && mantissa_bits == o.mantissa_bits && bias == o.bias &&
           specials == o.specials && has_sign == o.has_sign && has_subnormals == o.has_subnormals;
  }

  // Throws std::invalid_argument, naming what is wrong. Every function here takes a valid format for granted.
  void validate() const;

 private:
  AG_HD static constexpr double pow2(int k) {
    return std::bit_cast<double>(detail::bits_of_scaled<double>(1, k));
  }
};

template <class T>
struct NearestRounder;  // fp8/internal/kernels.h

// Rounds values of T (float or double) onto the grid of a format, without branches: loops over it vectorise
// (g++: -O3 -fno-trapping-math). Build it on the host, use it anywhere.
//
//   Rounder<float> r(E4M3);
//   y[i] = r(x[i]);             // nearest_even or toward_zero (which a stochastic Rounder does without bits)
//   y[i] = r(x[i], random[i]);  // any rounding; 32 uniform random bits for each element
//   code[i] = r.code(y[i]);     // y must come from r; Format::decode is the way back
//
// The result is exact. Where the format's range is wider than T's, the largest grid point that T holds takes
// the place of max().
template <class T>
class Rounder {
 public:
  AG_HD explicit constexpr Rounder(const Format& f, Rounding rounding = Rounding::nearest_even,
                                   Overflow overflow = Overflow::saturate_finite)
      : mantissa_bits_(f.mantissa_bits),
        step_(f.min_exponent() - f.mantissa_bits + exponent_bias),
        no_zero_(!f.has_subnormals),
        nan_code_(f.nan_code()),
        inf_code_(f.inf_code()),
        sign_code_(f.sign_code()),
        magnitude_(f.has_sign ? ~top : ~Bits{0}),
        zero_sign_(f.has_minus_zero() ? top : 0),
        nearest_(rounding == Rounding::nearest_even ? ~Bits{0} : 0),
        stochastic_(rounding == Rounding::stochastic ? ~Bits{0} : 0) {
    // A step far below T's subnormals makes no difference but for the parity of its exponent.
    const Int step = larger(step_, -p - 20 - (step_ + p) % 2);
    const bool deep = step < 2;  // some of T's subnormals lie above q / 2
    first_ = step - 1;
    base_ = static_cast<Bits>(step - 2) << p;
    least_ = f.has_subnormals ? 0 : detail::bits_of_scaled<T>(1, f.min_exponent());
    lowest_ = deep ? 0 : base_;
    field_floor_ = deep ? one : base_;
    last_ = f.mantissa_bits + 2;
    last_at_ = last_ + exponent_bias + p;
    last_bit_ = Bits{1} << f.mantissa_bits;
    coarsest_ = 4 * one;

    // Which codes are odd: q has code 1, so its binade's parity is flipped (E8M0: q has code 0). Without
    // mantissa bits the code counts binades, also among T's subnormals, where the leading bit moves.
    constexpr Bits even_bits = ~Bits{0} / 3;
    const Bits alternating = (step + p + no_zero_) % 2 == 0 ? even_bits : ~even_bits;
    parity_ = (no_zero_ ? 0 : one) | (f.mantissa_bits == 0 ? alternating & (one - 1) : 0);

    const Bits largest = f.template magnitude_bits<T>(f.max_code());
    max_ = largest < inf ? largest : (inf - 1) & (0 - (one >> mantissa_bits_));
    const bool saturates = overflow != Overflow::to_special || rounding == Rounding::toward_zero;
    overflow_ = saturates || !f.has_nan() ? max_ : f.has_inf() ? inf : inf | one >> 1;
    specials_ = overflow == Overflow::saturate_all ? inf + 1 : inf;
    special_bits_ = f.has_nan() && !f.has_inf() ? inf | one >> 1 : 0;

    const bool inside = f.max() <= 0x1p60 && f.min_subnormal() >= 0x1p-60;
    if (rounding == Rounding::nearest_even && overflow != Overflow::to_special && f.mantissa_bits > 0 &&
        f.has_sign && f.has_subnormals && inside) {
      floor_ = static_cast<Bits>(f.min_exponent() + exponent_bias) << p;
      shift_ = (static_cast<Bits>(p - f.mantissa_bits) << p) + one / 2;
    }
  }

  AG_HD constexpr T operator()(T x) const { return round<false>(x, 0); }

  // Rounds this to nearest even and saturates, on a grid with mantissa bits that lies well inside T's range? So with all
  // 8-bit formats but E7M0 and E8M0. The library's kernels have fewer operations for finite numbers then.
  AG_HD constexpr bool has_nearest() const { return floor_ != 0; }
  // The same as (*this)(x).
  AG_HD constexpr T nearest(T x) const { return (*this)(x); }
  AG_HD constexpr T max() const { return std::bit_cast<T>(max_); }  // the largest result but Inf
  AG_HD constexpr T operator()(T x, std::uint32_t random) const { return round<true>(x, random); }

  AG_HD constexpr std::uint32_t code(T rounded) const {
    const Bits all = std::bit_cast<Bits>(rounded), u = all & ~top;
    const bool tiny = u < one;  // T's subnormals: as a float, the integer u has their mantissa, normalised
    const Bits converted = std::bit_cast<Bits>(static_cast<T>(static_cast<Int>(u)));
    const Bits w = tiny ? converted : u;
    const Int binade = exponent(w) - (tiny ? exponent_bias + p - 1 : 0) - step_;
    const Int kept = smaller(binade, mantissa_bits_);  // mantissa bits that there is room for
    const Bits significand = ((w & (one - 1)) | one) >> (p - larger(kept, Int{0}));
    const Bits number = significand + (static_cast<Bits>(binade - kept - no_zero_) << mantissa_bits_);
    const Bits sign = (all >> (W - 1)) * sign_code_, inf_code = inf_code_, nan_code = nan_code_;
    Bits magnitude = u == 0 ? 0 : number;
    magnitude = u == inf ? inf_code : magnitude;
    magnitude = u > inf ? nan_code : magnitude;
    return static_cast<std::uint32_t>(magnitude | sign);
  }

 private:
  friend struct NearestRounder<T>;
  using Bits = detail::BitsOf<T>;
  using Int = std::make_signed_t<Bits>;
  static constexpr int W = 8 * sizeof(T), p = std::numeric_limits<T>::digits - 1;
  static constexpr Int exponent_bias = std::numeric_limits<T>::max_exponent - 1;
  static constexpr Bits one = Bits{1} << p;  // one in the exponent field; also the implicit leading bit
  static constexpr Bits inf = (Bits{2} * exponent_bias + 1) << p, top = Bits{1} << (W - 1);

  template <bool with_random>
  AG_HD constexpr T round(T x, std::uint32_t random) const {
    const Bits all = std::bit_cast<Bits>(x), u = all & magnitude_;

    // Count binades from the format's smallest step q, so that v has exponent field 2 in [q, 2q). In field t
    // grid points are one unit = 4 * one >> t apart, until the format runs out of mantissa bits; among T's
    // own subnormals these count from their leading bit, which u, converted to T, shows.
    const Bits v = larger(u, lowest_) - base_;
    const Int lead = exponent(std::bit_cast<Bits>(static_cast<T>(static_cast<Int>(u | last_bit_))));
    const Int t = smaller(exponent(larger(u, field_floor_) - base_), larger(last_at_ - lead, last_));
    const Bits unit = coarsest_ >> t;

    // Add, cut. Half a unit less one, and one more if the code below is odd: ties go to the even code.
    const Bits odd = ((v ^ parity_) & unit) != 0;
    const Bits dice = with_random ? widened(random) & stochastic_ : 0;
    const Bits added = (((unit + odd - 1) >> 1) & nearest_) | (dice >> (W - 2 - p) >> t);
    Bits r = (v + added) & (0 - unit);
    const Bits rebased = r + base_;
    r = r == 0 ? 0 : rebased;

    if constexpr (with_random) {  // below q / 2, where v has no bits: up to q with probability x / q
      const Int depth = first_ - larger(exponent(u), Int{1});
      const Bits significand = (u & (one - 1)) | (u < one ? 0 : one);
      const Bits odds = significand << (W - 2 - p) >> smaller(larger(depth - 1, Int{0}), Int{W - 1});
      const Bits q = base_ + 2 * one;
      const Bits up = odds > (dice | ~stochastic_) ? q : 0;  // odds: x / q, of 2^W
      r = depth < 1 ? r : up;
    }
    const Bits overflow = overflow_, special = u | special_bits_;
    r = larger(r, least_);
    r = r > max_ ? overflow : r;
    r = u >= specials_ ? special : r;
    const Bits sign = all & ~magnitude_, zero_sign = sign & zero_sign_;
    return std::bit_cast<T>(r | (r == 0 ? zero_sign : sign));
  }

  template <class I>
  static AG_HD constexpr I smaller(I a, I b) {
    return b < a ? b : a;
  }
  template <class I>
  static AG_HD constexpr I larger(I a, I b) {
    return a < b ? b : a;
  }

  // Random bits as the leading bits of a Bits; in double the middle of the interval that they stand for.
  static AG_HD constexpr Bits widened(std::uint32_t random) {
    return static_cast<Bits>((static_cast<std::uint64_t>(random) << 32 | 0x80000000u) >> (64 - W));
  }

  static AG_HD constexpr Int exponent(Bits bits) { return static_cast<Int>(bits >> p); }

  Int mantissa_bits_, step_, no_zero_;  // step_: the exponent field of q
  Bits nan_code_, inf_code_, sign_code_;
  Bits magnitude_, zero_sign_;          // masks: the bits of |x|; the sign of a zero
  Bits nearest_, stochastic_, parity_;  // masks: all or none; flips odd and even codes
  Int first_, last_, last_at_;          // bounds of t
  Bits base_, lowest_, field_floor_, last_bit_;
  Bits coarsest_;                                          // g++ 12 vectorises no shift of a constant
  Bits floor_ = 0, shift_ = 0;                             // of nearest()
  Bits least_, max_, overflow_, specials_, special_bits_;  // what is out of range, and what becomes of it
};

AG_HD constexpr std::uint32_t Format::encode(double x, Rounding rounding, Overflow overflow,
                                             std::uint32_t random) const {
  const Rounder<double> r(*this, rounding, overflow);
  return r.code(r(x, random));
}

namespace detail {
// altgrad's own family: every split of the bits; no special values. Bias 2^(e-1) - 1; E0Mx is m / 2^x.
constexpr Format family(int exponent_bits, int mantissa_bits, std::string_view name) {
  const int bias = exponent_bits == 0 ? 1 : (1 << (exponent_bits - 1)) - 1;
  return {exponent_bits, mantissa_bits, bias, Specials::finite_only, name};
}
}  // namespace detail

inline constexpr Format E0M7 = detail::family(0, 7, "E0M7");
inline constexpr Format E1M6 = detail::family(1, 6, "E1M6");
inline constexpr Format E2M5 = detail::family(2, 5, "E2M5");
inline constexpr Format E3M4 = detail::family(3, 4, "E3M4");
inline constexpr Format E4M3{4, 3, 7, Specials::fn, "E4M3"};     // OCP OFP8
inline constexpr Format E5M2{5, 2, 15, Specials::ieee, "E5M2"};  // OCP OFP8
inline constexpr Format E6M1 = detail::family(6, 1, "E6M1");
inline constexpr Format E7M0 = detail::family(7, 0, "E7M0");

// The field's names (ml_dtypes, OCP MX). OCP E4M3 is float8_e4m3fn; float8_e4m3 is IEEE-like, with Inf.
inline constexpr Format float8_e4m3fn{4, 3, 7, Specials::fn, "float8_e4m3fn"};
inline constexpr Format float8_e4m3{4, 3, 7, Specials::ieee, "float8_e4m3"};
inline constexpr Format float8_e5m2{5, 2, 15, Specials::ieee, "float8_e5m2"};
inline constexpr Format float8_e3m4{3, 4, 3, Specials::ieee, "float8_e3m4"};
inline constexpr Format float8_e4m3fnuz{4, 3, 8, Specials::fnuz, "float8_e4m3fnuz"};
inline constexpr Format float8_e5m2fnuz{5, 2, 16, Specials::fnuz, "float8_e5m2fnuz"};
inline constexpr Format float8_e4m3b11fnuz{4, 3, 11, Specials::fnuz, "float8_e4m3b11fnuz"};
inline constexpr Format float8_e8m0fnu{8, 0, 127, Specials::fn, "float8_e8m0fnu", false, false};
inline constexpr Format float6_e2m3fn{2, 3, 1, Specials::finite_only, "float6_e2m3fn"};
inline constexpr Format float6_e3m2fn{3, 2, 3, Specials::finite_only, "float6_e3m2fn"};
inline constexpr Format float4_e2m1fn{2, 1, 1, Specials::finite_only, "float4_e2m1fn"};

// IEEE P3109, 8 bits, signed, with infinities: k8pP has P bits of precision, the leading one with them (gfloat's names).
inline constexpr Format p3109_k8p1se{7, 0, 64, Specials::p3109, "p3109_k8p1se"};
inline constexpr Format p3109_k8p2se{6, 1, 32, Specials::p3109, "p3109_k8p2se"};
inline constexpr Format p3109_k8p3se{5, 2, 16, Specials::p3109, "p3109_k8p3se"};
inline constexpr Format p3109_k8p4se{4, 3, 8, Specials::p3109, "p3109_k8p4se"};
inline constexpr Format p3109_k8p5se{3, 4, 4, Specials::p3109, "p3109_k8p5se"};
inline constexpr Format p3109_k8p6se{2, 5, 2, Specials::p3109, "p3109_k8p6se"};
inline constexpr Format p3109_k8p7se{1, 6, 1, Specials::p3109, "p3109_k8p7se"};

// 16 bits: IEEE half precision, bfloat16, and the family (E5M10 and E8M7 are those two).
inline constexpr Format fp16{5, 10, 15, Specials::ieee, "fp16"};
inline constexpr Format bf16{8, 7, 127, Specials::ieee, "bf16"};
inline constexpr Format E0M15 = detail::family(0, 15, "E0M15");
inline constexpr Format E1M14 = detail::family(1, 14, "E1M14");
inline constexpr Format E2M13 = detail::family(2, 13, "E2M13");
inline constexpr Format E3M12 = detail::family(3, 12, "E3M12");
inline constexpr Format E4M11 = detail::family(4, 11, "E4M11");
inline constexpr Format E5M10{5, 10, 15, Specials::ieee, "E5M10"};
inline constexpr Format E6M9 = detail::family(6, 9, "E6M9");
inline constexpr Format E7M8 = detail::family(7, 8, "E7M8");
inline constexpr Format E8M7{8, 7, 127, Specials::ieee, "E8M7"};
inline constexpr Format E9M6 = detail::family(9, 6, "E9M6");
inline constexpr Format E10M5 = detail::family(10, 5, "E10M5");
inline constexpr Format E11M4 = detail::family(11, 4, "E11M4");
inline constexpr Format E12M3 = detail::family(12, 3, "E12M3");
inline constexpr Format E13M2 = detail::family(13, 2, "E13M2");
inline constexpr Format E14M1 = detail::family(14, 1, "E14M1");
inline constexpr Format E15M0 = detail::family(15, 0, "E15M0");

// All of the above, and one of them by name (in any case; throws std::invalid_argument with the list).
std::span<const Format> formats();
const Format& format(std::string_view name);

}  // namespace altgrad::fp8
ALTGRAD_API_END
