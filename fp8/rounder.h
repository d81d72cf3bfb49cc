// Rounder: puts floats and doubles on the grid of a format. It is integer arithmetic on the bits of floats, so that it
// does not depend on the floating-point environment (rounding mode, flushing of subnormals), on fma contraction or on
// -ffast-math, and CPU and GPU agree bit for bit.
//
// Let u be the bits of |x| as an integer, p the explicit mantissa bits of T, one = 2^p, M those of the format, and q
// its smallest step. The grid near 0 for M = 2, with a dot at each tie:
//
//   |x| / q   0     1     2     3     4     5     6     7     8          10          12          14          16
//             |--.--|--.--|--.--|--.--|--.--|--.--|--.--|--.--|-----.-----|-----.-----|-----.-----|-----.-----|-- ...
//   code      0     1     2     3     4     5     6     7     8           9          10          11          12
//             |     subnormals        |  first normal binade  |                 second binade                 |
//   field t   | <2  |  2  |     3     |           4           |                       4
//   unit      |2 one| one |  one / 2  |        one / 4        |                    one / 4
//
// - A binade [2^k, 2^(k+1)) is `one` integers u wide, whatever k, and holds 2^M codes: its steps are unit = one >> M
//   integers. The number below x is u & -unit; to round is to add and to cut, (u + added) & -unit. A carry out of the
//   mantissa raises the exponent, which is right: the next binade begins there, and its steps are twice as long.
// - `added` is 0 toward zero. In stochastic rounding it is a uniform integer in [0, unit), which carries with the
//   probability of what would be cut. To nearest it is unit / 2 - 1, and one more where the code below is odd, which is
//   where u & unit is set: a tie is carried from odd codes alone and so ends on an even one (roundTiesToEven, IEEE 754,
//   4.3.1; the integer form is that of ml_dtypes' RoundBitsToNearestEven).
// - Among the subnormals steps stay q, so each binade further down has half the codes and twice the unit. Binades are
//   therefore counted from q: v = u - origin has the exponent field t = 2 in [q, 2q), and unit = 4 one >> t, where t
//   counts no further than M + 2, the first normal binade. In [q, 2q) bit `unit` of v is the last bit of t = 2, and yet
//   the code is 1: there parity is flipped, and so it is in every binade where M = 0.
// - In [q / 2, q), where t = 1, the unit is 2 one: x becomes 0 or q, and the tie is q / 2. What is below becomes 0, but
//   in stochastic rounding, which compares x / q with the random bits.
// - Where T's own subnormals lie above q / 2 (formats about as wide as T), their binades are fewer integers wide.
//   Mantissa bits then count from the leading bit of u, which is the exponent of u converted, as an integer, to T.
#pragma once

#include <altgrad/fp8/number_format.h>

ALTGRAD_API_BEGIN
namespace altgrad::fp8 {

template <class T>
struct NearestRounder;

/// Rounds values of T (float or double) onto the grid of a format, without branches: loops over it vectorise
/// (g++: -O3 -fno-trapping-math). Build it on the host, use it anywhere.
///
///   Rounder<float> r(E4M3);
///   y[i] = r(x[i]);             // nearest_even or toward_zero (which a stochastic Rounder does without bits)
///   y[i] = r(x[i], random[i]);  // any rounding; 32 uniform random bits for each element
///   code[i] = r.code(y[i]);     // y must come from r; Format::decode is the way back
///
/// The result is exact. Where the format's range is wider than T's, the largest grid point that T holds takes
/// the place of max().
template <class T>
class Rounder {
 public:
  AG_HD explicit constexpr Rounder(const Format& f, Rounding rounding = Rounding::nearest_even,
                                   Overflow overflow = Overflow::saturate_finite)
      : step_field_(f.min_exponent() - f.mantissa_bits + exponent_bias),
        nearest_mask_(rounding == Rounding::nearest_even ? ~Bits{0} : 0),
        stochastic_mask_(rounding == Rounding::stochastic ? ~Bits{0} : 0),
        magnitude_mask_(f.has_sign ? ~sign_bit : ~Bits{0}),
        zero_sign_mask_(f.has_minus_zero() ? sign_bit : 0),
        mantissa_bits_(f.mantissa_bits),
        no_zero_(!f.has_subnormals),
        nan_code_(f.nan_code()),
        inf_code_(f.inf_code()),
        sign_code_(f.sign_code()) {
    // Grid. A step far below T's subnormals makes no difference but for the parity of its exponent.
    const Int step = larger(step_field_, -p - 20 - (step_field_ + p) % 2);
    const bool deep = step < 2;  // some of T's subnormals lie above q / 2
    half_step_field_ = step - 1;
    origin_ = static_cast<Bits>(step - 2) << p;
    v_floor_ = deep ? 0 : origin_;
    t_floor_ = deep ? one : origin_;
    normal_t_ = f.mantissa_bits + 2;
    t_plus_lead_ = normal_t_ + exponent_bias + p;
    lead_floor_ = Bits{1} << f.mantissa_bits;
    unit_at_0_ = 4 * one;

    // Ties. q has code 1, so its binade's parity is flipped (E8M0: q has code 0). Without mantissa bits the code
    // counts binades, also among T's subnormals, where the leading bit moves.
    constexpr Bits even_bits = ~Bits{0} / 3;
    const Bits alternating = (step + p + no_zero_) % 2 == 0 ? even_bits : ~even_bits;
    parity_flip_ = (no_zero_ ? 0 : one) | (f.mantissa_bits == 0 ? alternating & (one - 1) : 0);

    // Range.
    const Bits format_max = f.template magnitude_bits<T>(f.max_code());
    max_ = format_max < inf ? format_max : (inf - 1) & (0 - (one >> mantissa_bits_));
    min_ = f.has_subnormals ? 0 : detail::bits_of_scaled<T>(1, f.min_exponent());
    const bool saturates = overflow != Overflow::to_special || rounding == Rounding::toward_zero;
    above_max_ = saturates || !f.has_nan() ? max_ : f.has_inf() ? inf : inf | one >> 1;
    special_from_ = overflow == Overflow::saturate_all ? inf + 1 : inf;
    special_bits_ = f.has_nan() && !f.has_inf() ? inf | one >> 1 : 0;

    const bool inside = f.max() <= 0x1p60 && f.min_subnormal() >= 0x1p-60;
    if (rounding == Rounding::nearest_even && overflow != Overflow::to_special && f.mantissa_bits > 0 &&
        f.has_sign && f.has_subnormals && inside) {
      magic_floor_ = static_cast<Bits>(f.min_exponent() + exponent_bias) << p;
      magic_shift_ = (static_cast<Bits>(p - f.mantissa_bits) << p) + one / 2;
    }
  }

  AG_HD constexpr T operator()(T x) const { return round<false>(x, 0); }

  /// Rounds this to nearest even and saturates, on a grid with mantissa bits that lies well inside T's range? So do all
  /// 8-bit formats but E7M0 and E8M0. The library's kernels then round finite numbers by NearestRounder
  /// (fp8/internal/kernels.h), which gives the same as this class in fewer operations, of floating-point arithmetic.
  AG_HD constexpr bool has_nearest() const { return magic_floor_ != 0; }
  /// The same as (*this)(x).
  AG_HD constexpr T nearest(T x) const { return (*this)(x); }
  AG_HD constexpr T max() const { return std::bit_cast<T>(max_); }  ///< the largest result but Inf
  AG_HD constexpr T operator()(T x, std::uint32_t random) const { return round<true>(x, random); }

  AG_HD constexpr std::uint32_t code(T rounded) const {
    const Bits all = std::bit_cast<Bits>(rounded), u = all & ~sign_bit;
    const bool tiny = u < one;  // T's subnormals: as a float, the integer u has their mantissa, normalised
    const Bits converted = std::bit_cast<Bits>(static_cast<T>(static_cast<Int>(u)));
    const Bits w = tiny ? converted : u;
    const Int binade = exponent(w) - (tiny ? exponent_bias + p - 1 : 0) - step_field_;
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
  static constexpr Bits inf = (Bits{2} * exponent_bias + 1) << p, sign_bit = Bits{1} << (W - 1);

  template <bool with_random>
  AG_HD constexpr T round(T x, std::uint32_t random) const {
    const Bits all = std::bit_cast<Bits>(x), u = all & magnitude_mask_;

    // Where is x? The unit of its binade, as derived above.
    const Bits v = larger(u, v_floor_) - origin_;
    const Int lead = exponent(std::bit_cast<Bits>(static_cast<T>(static_cast<Int>(u | lead_floor_))));
    const Int t = smaller(exponent(larger(u, t_floor_) - origin_), larger(t_plus_lead_ - lead, normal_t_));
    const Bits unit = unit_at_0_ >> t;

    // Add and cut.
    const Bits odd = ((v ^ parity_flip_) & unit) != 0;
    const Bits dice = with_random ? widened(random) & stochastic_mask_ : 0;
    const Bits added = (((unit + odd - 1) >> 1) & nearest_mask_) | (dice >> (W - 2 - p) >> t);
    Bits r = (v + added) & (0 - unit);
    const Bits rebased = r + origin_;
    r = r == 0 ? 0 : rebased;

    if constexpr (with_random) {  // below q / 2, where v has no bits: up to q with probability x / q
      const Int depth = half_step_field_ - larger(exponent(u), Int{1});
      const Bits significand = (u & (one - 1)) | (u < one ? 0 : one);
      const Bits odds = significand << (W - 2 - p) >> smaller(larger(depth - 1, Int{0}), Int{W - 1});
      const Bits q = origin_ + 2 * one;
      const Bits up = odds > (dice | ~stochastic_mask_) ? q : 0;  // odds: x / q, of 2^W
      r = depth < 1 ? r : up;
    }
    const Bits overflow = above_max_, special = u | special_bits_;
    r = larger(r, min_);
    r = r > max_ ? overflow : r;
    r = u >= special_from_ ? special : r;
    const Bits sign = all & ~magnitude_mask_, zero_sign = sign & zero_sign_mask_;
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

  // The random bits lead a Bits; in double it is the middle of the interval that they stand for.
  static AG_HD constexpr Bits widened(std::uint32_t random) {
    return static_cast<Bits>((static_cast<std::uint64_t>(random) << 32 | 0x80000000u) >> (64 - W));
  }

  static AG_HD constexpr Int exponent(Bits bits) { return static_cast<Int>(bits >> p); }

  // The grid: the exponent field of q in a T of any range, that of q / 2, the first normal binade's t, and what t and
  // the leading bit's exponent add up to among T's subnormals.
  Int step_field_, half_step_field_, normal_t_, t_plus_lead_;
  Bits origin_, v_floor_, t_floor_,
      lead_floor_;  // u is raised to the floors before v, t and lead are taken
  Bits unit_at_0_;  // where t = 0; g++ 12 vectorises no shift of a constant
  // Ties: masks of all bits or none, and the bits of v that are flipped to give a code's parity.
  Bits nearest_mask_, stochastic_mask_, parity_flip_;
  // The range: the smallest and largest results, what becomes of larger ones, the first u that is special, and the
  // bits that make it NaN where there is no Inf.
  Bits min_, max_, above_max_, special_from_, special_bits_;
  // The sign: masks of the bits of |x|, and of a zero's sign.
  Bits magnitude_mask_, zero_sign_mask_;
  // Codes, for code().
  Int mantissa_bits_, no_zero_;
  Bits nan_code_, inf_code_, sign_code_;
  // NearestRounder's c has the exponent field of x, which is raised to the first and moved by the second.
  Bits magic_floor_ = 0, magic_shift_ = 0;
};

AG_HD constexpr std::uint32_t Format::encode(double x, Rounding rounding, Overflow overflow,
                                             std::uint32_t random) const {
  const Rounder<double> r(*this, rounding, overflow);
  return r.code(r(x, random));
}

}  // namespace altgrad::fp8
ALTGRAD_API_END
