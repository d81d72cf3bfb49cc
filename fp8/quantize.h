// Simulated quantization of tensors: onto a format's grid and back in one pass (fake quantization), or into
// codes of one byte each. scale is the divisor that brings x into the format's range:
//   Q(x) = round(x / scale) * scale
// with a true division, so that every device and thread count gives the same bits.
#pragma once

#include <altgrad/core/tensor.h>
#include <altgrad/fp8/format.h>

ALTGRAD_API_BEGIN
namespace altgrad::fp8 {

/// The gradient of rounding, which has none of its own: passed straight through, or zeroed where the value
/// saturated, |x / scale| > max (Bengio, Leonard & Courville, "Estimating or propagating gradients through
/// stochastic neurons", 2013).
enum class Ste { identity, clipped };

struct CastOptions {
  Rounding rounding = Rounding::nearest_even;  ///< stochastic takes one stream of rounding_generator() a call
  Overflow overflow = Overflow::saturate_finite;
  Ste ste = Ste::identity;  ///< quantize only
};

/// Q(x) for x of any shape, f32 or f64; differentiable. A finite x / scale beyond the floats saturates like
/// any other. Throws std::invalid_argument where x is not floating or scale is not positive and finite.
Tensor quantize(const Tensor& x, const Format& format, float scale, CastOptions options = {});

/// The codes of x / scale, u8, in x's shape. Not differentiable. Also throws for formats of more than 8 bits,
/// and where x holds a NaN and the format has none.
Tensor encode(const Tensor& x, const Format& format, float scale, CastOptions options = {});

/// The values of codes (u8), f32: decode(encode(x)) has the bits of quantize(x). What is no code of the format
/// (0x10 in a 4-bit one) gives NaN.
Tensor decode(const Tensor& codes, const Format& format, float scale);

}  // namespace altgrad::fp8
ALTGRAD_API_END
