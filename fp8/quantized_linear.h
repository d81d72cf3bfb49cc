// QuantizedLinear: a Linear whose weight, and where asked its input and the gradient of its output, are
// rounded to a number format on each forward. It has the original Linear, and is not one: the Linear's own
// tensors are what is trained, saved and named; only what enters the matrix products is rounded.
#pragma once

#include <altgrad/fp8/quantizer.h>
#include <altgrad/nn/layers.h>

#include <string>
#include <vector>

ALTGRAD_API_BEGIN
namespace altgrad::fp8 {

namespace detail {
class KeptCodes;
struct WeightCodes;
}  // namespace detail

/// Options of quantize_model and, but for skip_patterns, of QuantizedLinear::from_linear.
struct QuantizeOptions {
  std::vector<std::string> skip_patterns = {};  ///< see quantize_model
  std::optional<Format> input_format = {};      ///< empty: inputs are not rounded
  std::optional<Format> grad_format = {};       ///< empty: gradients of outputs are not rounded
  Scaling scaling = Scaling::window;
  int64_t history_length = 16;  ///< steps that an amax is held
  Rounding rounding = Rounding::nearest_even;
  Overflow overflow = Overflow::saturate_finite;
  Ste ste = Ste::identity;
  /// All three products by FP8 tensor cores, of GPUs of compute capability 8.9 and up, which keep fewer bits of a sum
  /// than f32 has. All three formats are needed, each E4M3 or E5M2, the latter for one of them at most.
  bool native_fp8 = false;
};

struct LinearQuantizers {
  Quantizer weight, input, grad;
  bool native_fp8 = false;  ///< see QuantizeOptions
};

/// x (..., in), w (out, in), b (out) -> (..., out) = Q(x) Q(w)^T + b. In training, the amaxes of x and w are
/// recorded, and in backward that of the output's gradient where it has a format. Throws as linear does, and
/// std::invalid_argument where FP8 tensor cores are asked for and x's device has none.
Tensor quantized_linear(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b,
                        LinearQuantizers& quantizers, bool training);

/// The histories are of the tensors that the layer saw in training. Loading a state with a weight for the layer but
/// not its histories empties them; one with histories restores them, of another length the newest amaxes. A write
/// that no layer sees (copy_, fill_, through data(), nn::init, a load into a module that has the weight but not this
/// layer: linear_ptr(), or another that it is tied to) leaves them: in eval mode, and with delayed scaling, what was
/// written is clipped to the old amax until reset_histories().
///
/// In eval mode, where nothing is recorded, the layer keeps its weight in codes, a byte each, and products of few rows,
/// as in generating text, read these alone. They are made once, and again when weight or history have changed: by an
/// optimizer, a load, copy_, fill_, data(). What a span writes that was taken before, or a kernel of one's own, is not
/// seen until the layer has been in training mode. The results are those of the rounded weight, in f32 on the CPU to the
/// bit. Weights in f64, formats of more than 8 bits or without subnormals, stochastic rounding, native_fp8, and inputs
/// that are rounded where the device multiplies bf16, go without.
///
/// A layer that was moved from throws std::invalid_argument when it is used.
class QuantizedLinear final : public nn::ModuleOf<QuantizedLinear, nn::Layer> {
 public:
  /// Wraps the very object; by value, one of its own on the same tensors. The mode (train, eval) is the
  /// Linear's. Throws std::invalid_argument on null, an ill-formed or unsigned format, history_length < 1, an
  /// enumeration out of range, formats that native_fp8 does not multiply, or skip_patterns.
  static QuantizedLinear from_linear(std::shared_ptr<nn::Linear> linear, const Format& format,
                                     const QuantizeOptions& options = {});
  static QuantizedLinear from_linear(nn::Linear linear, const Format& format,
                                     const QuantizeOptions& options = {});

  /// A copy has a Linear object of its own, on the same tensors, as copies of a Linear do.
  QuantizedLinear(const QuantizedLinear& other);
  QuantizedLinear(QuantizedLinear&&) = default;

  const Tensor& weight() const { return linear().weight(); }
  const std::optional<Tensor>& bias() const { return linear().bias(); }
  const nn::Linear& linear() const { return *linear_ptr(); }
  const std::shared_ptr<nn::Linear>& linear_ptr() const;
  const AmaxHistory& weight_history() const { return quantizers_.weight.history; }
  const AmaxHistory& input_history() const { return quantizers_.input.history; }
  const AmaxHistory& grad_history() const { return quantizers_.grad.history; }
  const Format& format() const { return *quantizers_.weight.format; }
  const std::optional<Format>& input_format() const { return quantizers_.input.format; }
  const std::optional<Format>& grad_format() const { return quantizers_.grad.format; }
  const LinearQuantizers& quantizers() const { return quantizers_; }

  /// Forgets all amaxes, as if the layer had seen nothing yet.
  void reset_histories();

  Tensor forward(const Tensor& x) override;
  /// The Linear's parameters under the Linear's names, then the histories.
  void visit(nn::Visitor& v) override;
  void adapt_state(StateDict& part, const nn::LoadOptions& options) const override;
  /// in_features=64, out_features=192, format=E5M2, quantize_input=false; then what else is not the default.
  std::string extra_repr() const override;

 private:
  friend class CodedLinear;
  QuantizedLinear(std::shared_ptr<nn::Linear> linear, LinearQuantizers quantizers);
  std::shared_ptr<const detail::WeightCodes> codes_for(const Tensor& x);

  std::shared_ptr<nn::Linear> linear_;
  LinearQuantizers quantizers_;
  std::shared_ptr<detail::KeptCodes> kept_;  // this layer's own
};

/// Throws std::invalid_argument where these cannot make a QuantizedLinear; skip_patterns are not looked at.
void check_quantize_options(const Format& format, const QuantizeOptions& options);

}  // namespace altgrad::fp8
ALTGRAD_API_END
