// A weight in codes of a byte, for layers that only compute forward: what QuantizedLinear keeps in eval mode, and all that
// CodedLinear has.
#pragma once

#include <altgrad/fp8/quantizer.h>

#include <memory>
#include <mutex>
#include <optional>

namespace altgrad::fp8::detail {

struct WeightCodes {
  Tensor panels;  // u8, see core/internal/coded.h
  Tensor scale;   // f32 ()
  Format format;
  int64_t rows, columns;
};

// w as the quantizer rounds it in eval mode, to the bit; none where codes of a byte do not give that: w is not f32, the
// format has more than 8 bits or no subnormals, rounding is stochastic, a number is not finite.
std::optional<WeightCodes> weight_codes(const Tensor& w, Quantizer& quantizer);

// The weight (rows, columns), f32.
Tensor decoded(const WeightCodes& w);

// x (..., in) w^T + b -> (..., out), of f32, or bf16 on a GPU, with x rounded as `input` does in eval mode. Not
// differentiable. Throws std::invalid_argument where x does not match.
Tensor coded_linear(const char* op, const Tensor& x, const WeightCodes& w, const std::optional<Tensor>& b,
                    Quantizer& input);

// The codes of a layer's weight, made once for what weight and history hold. For several threads.
class KeptCodes {
 public:
  // Null where there are none.
  std::shared_ptr<const WeightCodes> of(const Tensor& w, Quantizer& quantizer);
  void drop();

 private:
  std::mutex mutex_;
  uint64_t weight_ = 0, history_ = 0;  // contents_of both
  std::shared_ptr<const WeightCodes> codes_;
};

}  // namespace altgrad::fp8::detail
