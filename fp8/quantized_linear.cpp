// The layer and its op: three products of quantized operands. Backward uses the rounded operands of forward (they are
// what was multiplied), so the op keeps those, and the originals only where a clipped straight-through gradient has to
// look at them.
#include <altgrad/fp8/quantized_linear.h>

#include <altgrad/autograd/internal/common.h>
#include <altgrad/autograd/tape.h>
#include <altgrad/core/internal/graph.h>
#include <altgrad/fp8/internal/operand.h>
#include <altgrad/fp8/internal/weight_codes.h>

namespace altgrad::fp8 {
namespace {

// The names under which a layer's histories are saved.
struct SavedHistory {
  Quantizer LinearQuantizers::*role;
  const char *values, *counts;
};
constexpr SavedHistory saved_histories[] = {
    {&LinearQuantizers::weight, "_weight_amax", "_weight_amax_counts"},
    {&LinearQuantizers::input, "_input_amax", "_input_amax_counts"},
    {&LinearQuantizers::grad, "_grad_amax", "_grad_amax_counts"},
};

struct QuantizedLinearOp final : Op {
  static constexpr const char* name = "quantized_linear";
  QTensor qx, qw;
  Tensor x, w;  // only where the straight-through gradient needs them
  bool has_bias, training;
  std::optional<LinearQuantizers> quantizers;  // handles: the layer may be gone when backward runs

  // y (rows, out) = Q(x) (rows, in) Q(w)^T (in, out) + b
  Tensor forward(const Tensor& in, const Tensor& weight, const std::optional<Tensor>& b, LinearQuantizers& q,
                 bool in_training) {
    qx = q.input.apply(in, in_training, {Partner(q.weight.format, weight.dtype())}, q.native_fp8);
    qw = q.weight.apply(weight, in_training, {Partner(q.input.format, in.dtype())}, q.native_fp8);
    if (q.input.clips()) x = in;
    if (q.weight.clips()) w = weight;
    has_bias = b.has_value();
    training = in_training;
    quantizers = q;
    return detail::product(qx, qw.t(), b, in.dtype()).alias(in.shape().with(-1, qw.rows()));
  }

  // dx = Q(dy) Q(w), dw = Q(dy)^T Q(x), db = sum over rows of dy, found while dy is rounded to codes
  void backward(const Tensor& dy, Grads& d) override {
    const bool native = quantizers->native_fp8, needs_bias = has_bias && d.needs(2);
    Tensor db;
    if (d.needs(0) || d.needs(1)) {
      Quantizer& grad = quantizers->grad;
      if (native && grad.format && needs_bias) db = Tensor::empty({qw.rows()}, {DType::f32, dy.device()});
      const QTensor qdy = detail::quantized(grad, dy, training && grad.format,
                                            {Partner(quantizers->input.format, qx.values.dtype()),
                                             Partner(quantizers->weight.format, qw.values.dtype())},
                                            native, db);
      if (d.needs(0)) {
        const Tensor dx = detail::product(qdy, qw, {}, dy.dtype()).alias(qx.values.shape());
        d.add(0, quantizers->input.gradient(dx, x, qx));
      }
      const auto& weight = quantizers->weight;
      if (d.needs(1) && weight.clips()) {
        d.add(1, weight.gradient(matmul(qdy.t(), qx), w, qw));
      } else {
        d.accumulate(1, [&](const Tensor& dw, double beta) { detail::add_product(dw, qdy.t(), qx, beta); });
      }
    }
    if (needs_bias) d.add(2, db.defined() ? db : altgrad::detail::sum_to_shape(dy, {qw.rows()}));
  }
};

}  // namespace

Tensor quantized_linear(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b,
                        LinearQuantizers& quantizers, bool training) {
  altgrad::detail::check_linear("quantized_linear", x, w, b);
  if (quantizers.native_fp8) detail::check_native_fp8("quantized_linear", x);
  return apply<QuantizedLinearOp>(x, w, b, quantizers, training);
}

void check_quantize_options(const Format& format, const QuantizeOptions& options) {
  const CastOptions cast{options.rounding, options.overflow, options.ste};
  detail::check_quantizer("QuantizedLinear: weight", format, options.scaling, cast);
  detail::check_quantizer("QuantizedLinear: input", options.input_format, options.scaling, cast);
  detail::check_quantizer("QuantizedLinear: grad_output", options.grad_format, options.scaling, cast);
  if (options.native_fp8)
    detail::check_native_fp8("QuantizedLinear", {format, options.input_format, options.grad_format});
  if (options.history_length < 1) {
    fail("QuantizedLinear: history_length ", options.history_length, ", must be at least 1");
  }
}

QuantizedLinear QuantizedLinear::from_linear(std::shared_ptr<nn::Linear> linear, const Format& format,
                                             const QuantizeOptions& options) {
  if (!linear) fail("QuantizedLinear: the Linear is null");
  if (!options.skip_patterns.empty()) fail("QuantizedLinear: skip_patterns are for quantize_model");
  check_quantize_options(format, options);
  const auto quantizer = [&, device = linear->weight().device()](const std::optional<Format>& role_format) {
    return Quantizer{role_format,
                     AmaxHistory(options.history_length, device),
                     options.scaling,
                     {options.rounding, options.overflow, options.ste}};
  };
  return {std::move(linear),
          {quantizer(format), quantizer(options.input_format), quantizer(options.grad_format),
           options.native_fp8}};
}

QuantizedLinear QuantizedLinear::from_linear(nn::Linear linear, const Format& format,
                                             const QuantizeOptions& options) {
  return from_linear(std::make_shared<nn::Linear>(std::move(linear)), format, options);
}

QuantizedLinear::QuantizedLinear(std::shared_ptr<nn::Linear> linear, LinearQuantizers quantizers)
    : linear_(std::move(linear)),
      quantizers_(std::move(quantizers)),
      kept_(std::make_shared<detail::KeptCodes>()) {
  train(linear_->training());
}

QuantizedLinear::QuantizedLinear(const QuantizedLinear& other)
    : ModuleOf(other),
      linear_(std::make_shared<nn::Linear>(other.linear())),
      quantizers_(other.quantizers_),
      kept_(std::make_shared<detail::KeptCodes>()) {}

const std::shared_ptr<nn::Linear>& QuantizedLinear::linear_ptr() const {
  if (!linear_) fail("quantized_linear: the layer was moved from");
  return linear_;
}

void QuantizedLinear::reset_histories() {
  for (const SavedHistory& saved : saved_histories) (quantizers_.*saved.role).history.reset();
}

// Null where the layer computes with the weight itself.
std::shared_ptr<const detail::WeightCodes> QuantizedLinear::codes_for(const Tensor& x) {
  if (training()) {
    kept_->drop();
    return nullptr;
  }
  const bool in_bf16 = input_format() && detail::has_bf16(x.device());
  if (Tape::current() || x.dtype() != DType::f32 || quantizers_.native_fp8 || in_bf16) return nullptr;
  // Replays of a captured step do not come by here, to look whether the codes are still the weight's.
  if (altgrad::detail::Graph::recording()) return nullptr;
  return kept_->of(weight(), quantizers_.weight);
}

Tensor QuantizedLinear::forward(const Tensor& x) {
  altgrad::detail::check_linear("quantized_linear", x, weight(), bias());
  if (const auto codes = codes_for(x))
    return detail::coded_linear("quantized_linear", x, *codes, bias(), quantizers_.input);
  return quantized_linear(x, weight(), bias(), quantizers_, training());
}

void QuantizedLinear::visit(nn::Visitor& v) {
  linear_ptr()->visit(v);
  for (const SavedHistory& saved : saved_histories)
    (quantizers_.*saved.role).history.visit(v, saved.values, saved.counts);
}

void QuantizedLinear::adapt_state(StateDict& part, const nn::LoadOptions& options) const {
  const bool other_weight = part.contains("weight");
  for (const SavedHistory& saved : saved_histories) {
    if (other_weight || part.contains(saved.values) || part.contains(saved.counts))
      (quantizers_.*saved.role).history.adapt_state(part, saved.values, saved.counts, options);
  }
}

std::string QuantizedLinear::extra_repr() const {
  std::string text =
      concat("in_features=", linear().in_features(), ", out_features=", linear().out_features(),
             ", format=", format().name, ", quantize_input=", input_format() ? "true" : "false");
  if (input_format()) text += concat(", input_format=", input_format()->name);
  if (grad_format()) text += concat(", grad_format=", grad_format()->name);
  if (quantizers_.weight.scaling != Scaling::window) text += concat(", scaling=", quantizers_.weight.scaling);
  if (quantizers_.native_fp8) text += ", native_fp8=true";
  return text;
}

}  // namespace altgrad::fp8
