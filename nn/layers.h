// The layers. Each is one op with its parameters. Constructors throw std::invalid_argument unless all sizes
// are positive and all settings finite.
#pragma once

#include <altgrad/autograd/ops.h>
#include <altgrad/nn/module.h>

ALTGRAD_API_BEGIN
namespace altgrad::nn {

struct LinearOptions {
  bool bias = true;
};

/// y = x W^T + b: x (..., in) -> (..., out). W and b start uniform in +-1/sqrt(in), as in PyTorch.
class Linear final : public ModuleOf<Linear, Layer> {
 public:
  Linear(int64_t in_features, int64_t out_features, LinearOptions options = {});
  /// On existing tensors (shared, so this is how weights are tied), which stay frozen or trainable as they
  /// are: weight (out, in), bias (out).
  explicit Linear(Tensor weight, std::optional<Tensor> bias = {});

  const Tensor& weight() const { return weight_; }
  const std::optional<Tensor>& bias() const { return bias_; }
  int64_t in_features() const { return weight_.size(1); }
  int64_t out_features() const { return weight_.size(0); }

  Tensor forward(const Tensor& x) override { return linear(x, weight_, bias_); }
  void visit(Visitor& v) override {
    v("weight", weight_);
    v("bias", bias_);
  }
  std::string extra_repr() const override;  ///< in_features=64, out_features=192, bias=true

 private:
  Tensor weight_;
  std::optional<Tensor> bias_;
};

/// ids (...) i64 -> (..., dim). Weight (num_embeddings, dim), normal(0, 1).
class Embedding final : public ModuleOf<Embedding, Layer> {
 public:
  Embedding(int64_t num_embeddings, int64_t dim);
  const Tensor& weight() const { return weight_; }
  Tensor forward(const Tensor& ids) override { return embedding(ids, weight_); }
  void visit(Visitor& v) override { v("weight", weight_); }
  std::string extra_repr() const override { return concat(weight_.size(0), ", ", weight_.size(1)); }

 private:
  Tensor weight_;
};

struct NormOptions {
  double eps = 1e-5;
  bool bias = true;  ///< LayerNorm only
};

class LayerNorm final : public ModuleOf<LayerNorm, Layer> {
 public:
  explicit LayerNorm(int64_t n, NormOptions options = {});
  Tensor forward(const Tensor& x) override { return layer_norm(x, weight_, bias_, eps_); }
  std::pair<Tensor, Tensor> forward_sum(const Tensor& x, const Tensor& y) override {
    return add_layer_norm(x, y, weight_, bias_, eps_);
  }
  void visit(Visitor& v) override {
    v("weight", weight_);
    v("bias", bias_);
  }
  std::string extra_repr() const override;

 private:
  Tensor weight_;
  std::optional<Tensor> bias_;
  double eps_;
};

class RMSNorm final : public ModuleOf<RMSNorm, Layer> {
 public:
  explicit RMSNorm(int64_t n, NormOptions options = {});
  Tensor forward(const Tensor& x) override { return rms_norm(x, weight_, eps_); }
  void visit(Visitor& v) override { v("weight", weight_); }
  std::string extra_repr() const override { return concat(weight_.size(0), ", eps=", eps_); }

 private:
  Tensor weight_;
  double eps_;
};

/// Draws its mask from default_generator(); does nothing in eval mode. Throws std::invalid_argument unless 0
/// <= p < 1.
class Dropout final : public ModuleOf<Dropout, Layer> {
 public:
  explicit Dropout(double p = 0.5);
  Tensor forward(const Tensor& x) override { return training() && p_ > 0 ? dropout(x, p_) : x; }
  std::string extra_repr() const override { return concat("p=", p_); }

 private:
  double p_;
};

class ReLU final : public ModuleOf<ReLU, Layer> {
 public:
  Tensor forward(const Tensor& x) override { return relu(x); }
};
class GELU final : public ModuleOf<GELU, Layer> {
 public:
  explicit GELU(Gelu form = Gelu::erf) : form_(form) {}
  Gelu form() const { return form_; }
  Tensor forward(const Tensor& x) override { return gelu(x, form_); }
  std::string extra_repr() const override {
    return form_ == Gelu::tanh ? "approximate=tanh" : "approximate=none";
  }

 private:
  Gelu form_;
};
class SiLU final : public ModuleOf<SiLU, Layer> {
 public:
  Tensor forward(const Tensor& x) override { return silu(x); }
};
class Tanh final : public ModuleOf<Tanh, Layer> {
 public:
  Tensor forward(const Tensor& x) override { return tanh(x); }
};
class Sigmoid final : public ModuleOf<Sigmoid, Layer> {
 public:
  Tensor forward(const Tensor& x) override { return sigmoid(x); }
};

}  // namespace altgrad::nn
ALTGRAD_API_END
