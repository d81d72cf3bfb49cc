// How an operand is rounded, whatever its form (fp8/qtensor.cpp), and its gradient (fp8/quantize.cpp).
#pragma once

#include <altgrad/fp8/quantizer.h>

#include <array>
#include <initializer_list>
#include <optional>

namespace altgrad::fp8::detail {

struct History;
struct ScaleRule;

// Does the device multiply matrices in bf16?
bool has_bf16(Device on);

// Memory for x rounded to `format`: with native_fp8 in u8, or else in the form that suits products with `partners`, in
// bf16 where all of them fit it and the device of x has instructions for it, in the dtype that x is computed in where
// not. Throws std::invalid_argument where x's device has no native FP8, or not of that format.
QTensor empty_operand(const Tensor& x, const Format& format, std::initializer_list<Partner> partners,
                      bool native_fp8);

// Rounds x into such memory, with this scale. `sums` (columns), f32, becomes what the rows of x add up to: for codes, and
// not where it is undefined.
void round_into(const QTensor& q, const Tensor& x, const CastOptions& cast,
                const std::optional<RandomStream>& random, const Tensor& scale, const Tensor& sums = {});
// The same with the scale that the rule makes of the history and x's amax, which `scale` becomes.
void round_into(const QTensor& q, const Tensor& x, const CastOptions& cast,
                const std::optional<RandomStream>& random, const Tensor& scale, const History& history,
                const ScaleRule& rule, const Tensor& sums = {});

// Quantizer::apply, with such sums, which are for native_fp8 alone.
QTensor quantized(Quantizer& quantizer, const Tensor& x, bool record, std::initializer_list<Partner> partners,
                  bool native_fp8, const Tensor& sums = {});

// What codes stand for, times scale; NaN where one is none of the format's.
std::array<float, 256> decoded_codes(const Format& format, float scale);

// matmul, with the result in this dtype, bf16 on a GPU only.
Tensor product(const QTensor& a, const QTensor& b, const std::optional<Tensor>& bias, DType result);
// c = a b + beta c, c being of the dtype that matmul gives.
void add_product(const Tensor& c, const QTensor& a, const QTensor& b, double beta);

// Throw std::invalid_argument where an enumeration is out of range, or the format is none or has no sign.
void check_cast(const char* op, const CastOptions& options);
void check_quantizer(const char* op, const std::optional<Format>& format, Scaling scaling,
                     const CastOptions& cast);

// Throw std::invalid_argument where products of any two matrices of these formats, or of x's dtype on x's device, are
// none of FP8 tensor cores.
void check_native_fp8(const char* op, std::initializer_list<std::optional<Format>> formats);
void check_native_fp8(const char* op, const Tensor& x);

// dy, or 0 where |x / scale| > max: the gradient of Ste::clipped.
Tensor clipped_ste_grad(const Tensor& dy, const Tensor& x, const Format& format, const Tensor& scale);

}  // namespace altgrad::fp8::detail
