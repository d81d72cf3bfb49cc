// The layer is data alone: codes and a scale, beside the rule for inputs.
#include <altgrad/fp8/coded_linear.h>

#include <altgrad/autograd/tape.h>
#include <altgrad/fp8/internal/weight_codes.h>
#include <altgrad/nn/surgery.h>

namespace altgrad::fp8 {

CodedLinear::CodedLinear(const QuantizedLinear& layer)
    : format_(layer.format()), bias_(layer.bias()), input_(layer.quantizers_.input) {
  Quantizer quantizer = layer.quantizers_.weight;
  std::optional<detail::WeightCodes> codes = detail::weight_codes(layer.weight(), quantizer);
  if (!codes) {
    fail("CodedLinear: a weight of ", layer.weight().dtype(), " in ", format_.name, ", rounding ",
         quantizer.cast.rounding == Rounding::stochastic ? "stochastic" : "as always",
         ", cannot be had in codes of a byte: it must be f32 and finite, the format have at most 8 bits and "
         "subnormals");
  }
  panels_ = std::move(codes->panels), scale_ = std::move(codes->scale);
  rows_ = codes->rows, columns_ = codes->columns;
  train(false);
}

int64_t CodedLinear::in_features() const { return columns_; }
int64_t CodedLinear::out_features() const { return rows_; }

detail::WeightCodes CodedLinear::codes() const {
  if (!panels_.defined()) fail("coded_linear: the layer was moved from");
  return {panels_, scale_, format_, rows_, columns_};
}

Tensor CodedLinear::weight() const { return detail::decoded(codes()); }
float CodedLinear::scale() const { return codes().scale.item<float>(); }

Tensor CodedLinear::forward(const Tensor& x) {
  const detail::WeightCodes weight = codes();
  if (training()) fail("coded_linear: the layer has no weight to train, in training mode; see drop_masters");
  if (Tape::current() && x.defined() && (x.requires_grad() || x.is_recorded()))
    fail("coded_linear: x ", x.shape(), " needs a gradient, which the layer has none of; see drop_masters");
  return detail::coded_linear("coded_linear", x, weight, bias_, input_);
}

void CodedLinear::visit(nn::Visitor& v) {
  v.buffer("weight_panels", panels_);
  v.buffer("weight_scale", scale_);
  v("bias", bias_);
  input_.history.visit(v, "_input_amax", "_input_amax_counts");
}

std::string CodedLinear::extra_repr() const {
  return concat("in_features=", columns_, ", out_features=", rows_, ", format=", format_.name,
                ", quantize_input=", input_.format ? "true" : "false");
}

std::vector<std::string> drop_masters(nn::Module& root) {
  if (dynamic_cast<QuantizedLinear*>(&root))
    fail(
        "drop_masters: the model itself is a QuantizedLinear, which has no place to be replaced in; make a "
        "CodedLinear of it");
  std::vector<std::string> replaced;
  nn::rewrite(root, [&](const std::string& path, const std::shared_ptr<nn::Module>& module) {
    const auto quantized = std::dynamic_pointer_cast<QuantizedLinear>(module);
    if (!quantized) return module;
    replaced.push_back(path);
    try {
      return std::shared_ptr<nn::Module>(std::make_shared<CodedLinear>(*quantized));
    } catch (const std::invalid_argument& e) {
      fail("drop_masters: ", path, ": ", e.what());
    }
  });
  if (replaced.empty()) fail("drop_masters: the model has no QuantizedLinear; see quantize_model");
  return replaced;
}

}  // namespace altgrad::fp8
