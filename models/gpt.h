// GPT in nanoGPT's shape and with its names (Karpathy, https://github.com/karpathy/nanoGPT, model.py), which
// are those of GPT-2 checkpoints. Sizes: B batch, T tokens, C n_embd, V vocab_size. The one difference:
// attention is fused and never holds its probabilities, so dropout applies to the embeddings and to both
// residual branches of each block, but not inside the attention's softmax.
#pragma once

#include <altgrad/models/generate.h>
#include <altgrad/nn/containers.h>
#include <altgrad/nn/optim/optimizer.h>

ALTGRAD_API_BEGIN
namespace altgrad::models {

struct GPTConfig {
  int64_t n_layer = 12;
  int64_t n_head = 12;
  int64_t n_embd = 768;
  int64_t block_size = 1024;   ///< the longest sequence
  int64_t vocab_size = 50304;  ///< GPT-2's 50257, rounded up to a multiple of 64
  double dropout = 0;
  bool bias = true;  ///< in the linear layers and layer norms, as in GPT-2
  /// Of what flows from layer to layer: bf16, on a GPU, beside parameters of f32; empty: the parameters' dtype.
  std::optional<DType> activations = {};
  /// In the MLPs: nanoGPT's erf form; GPT-2 was trained with the tanh form (transformers' gelu_new).
  Gelu gelu = Gelu::erf;
};

/// x (B, T, C) -> (B, T, C)
struct CausalSelfAttention final : nn::ModuleOf<CausalSelfAttention, nn::Layer> {
  nn::Slot<nn::Layer> c_attn, c_proj, resid_dropout;
  int64_t n_head;
  explicit CausalSelfAttention(const GPTConfig& config);
  Tensor forward(const Tensor& x) override;
  void visit(nn::Visitor& v) override;
  std::string extra_repr() const override { return concat("n_head=", n_head); }
};

/// x (..., C) -> (..., C), with 4 C hidden features
struct MLP final : nn::ModuleOf<MLP, nn::Layer> {
  nn::Slot<nn::Layer> c_fc, gelu, c_proj, dropout;
  explicit MLP(const GPTConfig& config);
  Tensor forward(const Tensor& x) override;
  void visit(nn::Visitor& v) override;
};

/// x (B, T, C) -> (B, T, C)
struct Block final : nn::ModuleOf<Block, nn::Layer> {
  nn::Slot<nn::Layer> ln_1, attn, ln_2, mlp;
  explicit Block(const GPTConfig& config);
  Tensor forward(const Tensor& x) override;
  void visit(nn::Visitor& v) override;
};

/// ids (B, T) i64 -> (B, T, C)
struct Transformer final : nn::ModuleOf<Transformer, nn::Layer> {
  nn::Slot<nn::Embedding> wte, wpe;  ///< tokens, positions
  nn::Slot<nn::Layer> drop;
  nn::Slot<nn::ModuleList> h;
  nn::Slot<nn::Layer> ln_f;
  std::optional<DType> activations;  ///< GPTConfig's
  explicit Transformer(const GPTConfig& config);
  Tensor forward(const Tensor& ids) override;
  void visit(nn::Visitor& v) override;
};

class GPT final : public nn::ModuleOf<GPT, nn::Layer> {
 public:
  nn::Slot<Transformer> transformer;
  nn::Slot<nn::Layer> lm_head;  ///< shares transformer.wte.weight, no bias

  /// Initialised as GPT-2: weights normal(0, 0.02), those that end a residual branch (c_proj) normal(0, 0.02 /
  /// sqrt(2 n_layer)), biases 0, norms 1. Throws std::invalid_argument where a size is not positive, n_head
  /// does not divide n_embd, or dropout is not in [0, 1).
  explicit GPT(const GPTConfig& config);

  const GPTConfig& config() const { return config_; }

  /// ids (B, T) i64 in [0, V) -> logits (B, T, V). Throws std::invalid_argument on another shape, T >
  /// block_size or an id out of range.
  Tensor forward(const Tensor& ids) override { return lm_head(transformer(ids)); }
  /// The mean cross-entropy of the logits with targets (B, T), in nats, shape (); a target of -100 is left out.
  Tensor loss(const Tensor& ids, const Tensor& targets);

  /// Appends at most n sampled tokens to ids, (T) or (B, T), as many as the row that ends last has drawn; gives (T + m) or
  /// (B, T + m). Each token sees the last block_size before it, once there are more an eighth of them less at times: the
  /// window moves on by eighths, and what stays in it is computed anew, as positions start at 0 again. Runs in eval mode,
  /// unrecorded, and restores every module's mode. Several threads may generate from one model that is in eval mode, each
  /// with a generator of its own. Throws std::invalid_argument on an empty prompt, n < 0, options out of their ranges.
  Tensor generate(const Tensor& ids, int64_t n, const GenerateOptions& options = {});

  /// For an optimizer: matrices decay by weight_decay, biases and norms not at all.
  std::vector<optim::ParamGroup> decay_groups(double weight_decay) const;

  void visit(nn::Visitor& v) override;

 private:
  GPTConfig config_;
};

}  // namespace altgrad::models
ALTGRAD_API_END
