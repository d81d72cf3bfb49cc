// The formats by name, and what rounds to them.
#pragma once

#include <altgrad/fp8/number_format.h>
#include <altgrad/fp8/rounder.h>

#include <span>

ALTGRAD_API_BEGIN
namespace altgrad::fp8 {

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
inline constexpr Format E4M3{4, 3, 7, Specials::fn, "E4M3"};     ///< OCP OFP8
inline constexpr Format E5M2{5, 2, 15, Specials::ieee, "E5M2"};  ///< OCP OFP8
inline constexpr Format E6M1 = detail::family(6, 1, "E6M1");
inline constexpr Format E7M0 = detail::family(7, 0, "E7M0");

/// The field's names (ml_dtypes, OCP MX). OCP E4M3 is float8_e4m3fn; float8_e4m3 is IEEE-like, with Inf.
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

/// IEEE P3109, 8 bits, signed, with infinities: k8pP has P bits of precision, with the leading one (gfloat's names).
inline constexpr Format p3109_k8p1se{7, 0, 64, Specials::p3109, "p3109_k8p1se"};
inline constexpr Format p3109_k8p2se{6, 1, 32, Specials::p3109, "p3109_k8p2se"};
inline constexpr Format p3109_k8p3se{5, 2, 16, Specials::p3109, "p3109_k8p3se"};
inline constexpr Format p3109_k8p4se{4, 3, 8, Specials::p3109, "p3109_k8p4se"};
inline constexpr Format p3109_k8p5se{3, 4, 4, Specials::p3109, "p3109_k8p5se"};
inline constexpr Format p3109_k8p6se{2, 5, 2, Specials::p3109, "p3109_k8p6se"};
inline constexpr Format p3109_k8p7se{1, 6, 1, Specials::p3109, "p3109_k8p7se"};

/// 16 bits: IEEE half precision, bfloat16, and the family (E5M10 and E8M7 are those two).
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

/// All of the above, and one of them by name (in any case; throws std::invalid_argument with the list).
std::span<const Format> formats();
const Format& format(std::string_view name);

}  // namespace altgrad::fp8
ALTGRAD_API_END
