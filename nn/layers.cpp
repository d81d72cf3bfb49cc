// What the layers hold and how it starts; what is a single line stands in the header.
#include <altgrad/nn/init.h>
#include <altgrad/nn/layers.h>

#include <cmath>

namespace altgrad::nn {
namespace {

// A parameter still to be initialised. All sizes must be positive.
Tensor parameter_of(const char* layer, const Shape& shape) {
  for (int64_t size : shape) {
    if (size < 1) fail(layer, ": sizes must be positive, got ", shape);
  }
  return Tensor::empty(shape).requires_grad(true);
}

Tensor full_parameter(const char* layer, int64_t n, double value) {
  Tensor t = parameter_of(layer, {n});
  t.fill_(value);
  return t;
}

double checked_eps(const char* layer, double eps) {
  if (!(eps >= 0 && std::isfinite(eps))) fail(layer, ": eps must be finite and not negative, got ", eps);
  return eps;
}

const char* name_of(bool flag) { return flag ? "true" : "false"; }

}  // namespace

Linear::Linear(int64_t in_features, int64_t out_features, LinearOptions options)
    : weight_(parameter_of("Linear", {out_features, in_features})) {
  const double bound = 1 / std::sqrt(double(in_features));
  init::uniform_(weight_, -bound, bound);
  if (options.bias) {
    bias_ = parameter_of("Linear", {out_features});
    init::uniform_(*bias_, -bound, bound);
  }
}

Linear::Linear(Tensor weight, std::optional<Tensor> bias)
    : weight_(std::move(weight)), bias_(std::move(bias)) {
  if (!weight_.defined() || (bias_ && !bias_->defined())) fail("Linear: the weight or bias is undefined");
  if (weight_.dim() != 2) fail("Linear: weight must be (out, in), got ", weight_.shape());
  if (bias_ && bias_->shape() != Shape{weight_.size(0)}) {
    fail("Linear: bias ", bias_->shape(), " does not match weight ", weight_.shape());
  }
}

std::string Linear::extra_repr() const {
  return concat("in_features=", in_features(), ", out_features=", out_features(),
                ", bias=", name_of(bias_.has_value()));
}

Embedding::Embedding(int64_t num_embeddings, int64_t dim)
    : weight_(parameter_of("Embedding", {num_embeddings, dim})) {
  init::normal_(weight_, 0, 1);
}

LayerNorm::LayerNorm(int64_t n, NormOptions options)
    : weight_(full_parameter("LayerNorm", n, 1)), eps_(checked_eps("LayerNorm", options.eps)) {
  if (options.bias) bias_ = full_parameter("LayerNorm", n, 0);
}

std::string LayerNorm::extra_repr() const {
  return concat(weight_.size(0), ", eps=", eps_, ", bias=", name_of(bias_.has_value()));
}

RMSNorm::RMSNorm(int64_t n, NormOptions options)
    : weight_(full_parameter("RMSNorm", n, 1)), eps_(checked_eps("RMSNorm", options.eps)) {}

Dropout::Dropout(double p) : p_(p) {
  if (!(p >= 0 && p < 1)) fail("Dropout: p must be in [0, 1), got ", p);
}

}  // namespace altgrad::nn
