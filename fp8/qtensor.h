// QTensor: a matrix that was rounded to a number format, as an operand of products. Quantizer::apply makes one, matmul
// multiplies two.
#pragma once

#include <altgrad/core/tensor.h>
#include <altgrad/fp8/format.h>

#include <optional>

ALTGRAD_API_BEGIN
namespace altgrad::fp8 {

/// What an operand will be multiplied by: a matrix that is rounded to `format`, or, without one, as it is, in `dtype`.
struct Partner {
  Partner(const Format& rounded_to) : format(rounded_to) {}
  Partner(const std::optional<Format>& rounded_to, DType otherwise = DType::f32)
      : format(rounded_to), dtype(otherwise) {}

  std::optional<Format> format;
  DType dtype = DType::f32;
};

/// One scale for the whole matrix: a product may sum along either axis.
struct QTensor {
  /// (..., columns), all other axes are rows. In bf16: the format's own numbers, to be multiplied by `scale`, or, without
  /// a format, the numbers themselves. In u8: their codes, of E4M3 or E5M2, which FP8 tensor cores multiply; they keep
  /// fewer bits of a sum than f32 has, and GPUs of compute capability 8.9 and up have them. In f32 or f64: on their
  /// scale already.
  Tensor values;
  /// f32 (), on the device of the values; undefined but where values in bf16 or u8 have a format.
  Tensor scale;
  std::optional<Format> format;  ///< empty: the values are those of the tensor that was given
  bool transposed = false;
  /// With values in u8: the same as (columns, rows), since those tensor cores read along sums.
  Tensor values_t = {};

  int64_t rows() const;
  int64_t columns() const;
  /// The transposed matrix, of the same values.
  QTensor t() const;
  /// The values on their scale, as f32 or f64, in the shape they lie in; the values themselves where they are that.
  /// Throws std::invalid_argument where the members are none of what is said here.
  Tensor dequantize() const;
};

/// Has the device FP8 tensor cores, for operands in u8?
bool has_native_fp8(Device on);

/// a (m, k) b (k, n) + bias (n) -> (m, n), f32 where the values are bf16. In bf16 the scales are applied to the sums,
/// so that no product is rounded. A bias needs an a that is not transposed and a b that is. Not differentiable.
/// Throws std::invalid_argument where sizes, dtypes, devices or the bias do not match, or no FP8 tensor cores multiply
/// two that are to be multiplied by them.
Tensor matmul(const QTensor& a, const QTensor& b, const std::optional<Tensor>& bias = {});

}  // namespace altgrad::fp8
ALTGRAD_API_END
