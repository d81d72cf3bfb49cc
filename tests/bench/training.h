// What the benchmark trains: three GPTs, each in three modes.
#pragma once

#include <altgrad/altgrad.h>

#include <string>

namespace bench {

struct Size {
  const char* name;
  int64_t layers, heads, channels, length, batch, vocabulary;

  int64_t tokens() const { return batch * length; }
  // 6 operations a parameter of a matrix and token, and attention over the full length x length.
  double operations() const {
    const double matrices = double(12 * layers * channels * channels + vocabulary * channels);
    return 6 * matrices * double(tokens()) + 12.0 * double(layers * tokens() * length * channels);
  }
};
constexpr Size sizes[] = {
    {"tiny", 4, 4, 128, 64, 12, 65}, {"baby", 6, 6, 384, 256, 8, 65}, {"gpt2", 12, 12, 768, 256, 2, 50257}};
// What fills a GPU.
constexpr Size device_sizes[] = {
    sizes[0], {"baby64", 6, 6, 384, 256, 64, 65}, {"gpt2_1k", 12, 12, 768, 1024, 16, 50304}};

// f32; E4M3 weights; or E4M3 weights and inputs and E5M2 gradients. The tied head stays as it is.
constexpr const char* modes[] = {"f32", "weights", "full"};
// The same with activations in bf16, with GPT-2's own form of gelu, and on FP8 tensor cores.
constexpr const char* device_modes[] = {"bf16", "bf16 tanh", "bf16 weights", "bf16 full", "bf16 native"};

// A model in training, on a batch of random tokens.
class Training {
 public:
  Training(const Size& s, const std::string& mode, altgrad::Device device = altgrad::Device::cpu())
      : model_({.n_layer = s.layers,
                .n_head = s.heads,
                .n_embd = s.channels,
                .block_size = s.length,
                .vocab_size = s.vocabulary,
                .activations = mode.starts_with("bf16") ? std::optional(altgrad::DType::bf16) : std::nullopt,
                .gelu = mode.ends_with("tanh") ? altgrad::Gelu::tanh : altgrad::Gelu::erf}),
        opt_(model_.parameters(), {.lr = 1e-3, .betas = {0.9, 0.95}, .weight_decay = 0.1}),
        x_(altgrad::Tensor::randint(s.vocabulary, {s.batch, s.length})),
        y_(altgrad::Tensor::randint(s.vocabulary, {s.batch, s.length})),
        step_(device, [this](const altgrad::Tensor& x, const altgrad::Tensor& y) { return eager(x, y); }) {
    using namespace altgrad::fp8;
    if (mode.ends_with("weights")) quantize_model(model_, E4M3, {.skip_patterns = {"lm_head"}});
    model_.to(device);
    if (mode.ends_with("full") || mode.ends_with("native")) {
      quantize_model(model_, E4M3,
                     {.skip_patterns = {"lm_head"},
                      .input_format = E4M3,
                      .grad_format = E5M2,
                      .native_fp8 = mode.ends_with("native")});
    }
  }
  Training(const Training&) = delete;
  Training& operator=(const Training&) = delete;
  void step() { step_(x_, y_); }

 private:
  altgrad::Tensor eager(const altgrad::Tensor& x, const altgrad::Tensor& y) {
    altgrad::Tape tape;
    const altgrad::Tensor loss = model_.loss(x, y);
    tape.backward(loss);
    opt_.step();
    opt_.zero_grad();
    return loss;
  }

  altgrad::models::GPT model_;
  altgrad::optim::AdamW opt_;
  altgrad::Tensor x_, y_;  // on the host, as batches are
  altgrad::optim::CapturedStep step_;
};

}  // namespace bench
