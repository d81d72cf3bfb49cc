// CodedLinear: a quantized layer that has its weight in codes alone, a byte each. It only computes forward.
#pragma once

#include <altgrad/fp8/quantized_linear.h>

ALTGRAD_API_BEGIN
namespace altgrad::fp8 {

/// What drop_masters puts in the place of a QuantizedLinear: the same results as its in eval mode, but for the order of
/// sums where that multiplies two operands in codes in bf16, as CPUs with AMX or AVX512-BF16 do. Its codes are buffers:
/// they are moved, copied, saved, and loaded into another CodedLinear of this format. In training mode, and where a tape
/// would have to give the input a gradient, it throws std::invalid_argument. A layer that was moved from throws it, too.
class CodedLinear final : public nn::ModuleOf<CodedLinear, nn::Layer> {
 public:
  /// Throws std::invalid_argument where the weight cannot be had in codes; see QuantizedLinear for which.
  explicit CodedLinear(const QuantizedLinear& layer);

  int64_t in_features() const;
  int64_t out_features() const;
  const Format& format() const { return format_; }
  /// The weight as it is rounded (out, in), f32: codes times scale().
  Tensor weight() const;
  float scale() const;
  const Quantizer& input() const { return input_; }  ///< how it rounds its input

  Tensor forward(const Tensor& x) override;
  void visit(nn::Visitor& v) override;
  std::string extra_repr()
      const override;  ///< in_features=64, out_features=192, format=E4M3, quantize_input=false

 private:
  detail::WeightCodes codes() const;

  Tensor panels_, scale_;  // detail::WeightCodes'
  Format format_;
  int64_t rows_, columns_;
  std::optional<Tensor> bias_;
  Quantizer input_;
};

/// Frees the weights in f32 of a model that will only generate: each QuantizedLinear below root becomes a CodedLinear, in
/// eval mode. A weight that others hold too, an embedding that is tied to it or an optimizer, stays. Training the model
/// throws from then on. empty_cache() gives the memory back to the system. Gives the layers' names in visiting order.
/// Throws std::invalid_argument, and then nothing has changed, where root itself is a QuantizedLinear, there is none, or
/// the weight of one cannot be had in codes.
std::vector<std::string> drop_masters(nn::Module& root);

}  // namespace altgrad::fp8
ALTGRAD_API_END
