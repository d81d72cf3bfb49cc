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

// f32; E4M3 weights; or E4M3 weights and inputs and E5M2 gradients. The tied head stays as it is.
constexpr const char* modes[] = {"f32", "weights", "full"};

// A model in training, on a batch of random tokens.
class Training {
 public:
  Training(const Size& s, const std::string& mode)
      : model_({.n_layer = s.layers,
                .n_head = s.heads,
                .n_embd = s.channels,
                .block_size = s.length,
                .vocab_size = s.vocabulary}),
        opt_(model_.parameters(), {.lr = 1e-3, .betas = {0.9, 0.95}, .weight_decay = 0.1}),
        x_(altgrad::Tensor::randint(s.vocabulary, {s.batch, s.length})),
        y_(altgrad::Tensor::randint(s.vocabulary, {s.batch, s.length})) {
    using namespace altgrad::fp8;
    if (mode == "weights") quantize_model(model_, E4M3, {.skip_patterns = {"lm_head"}});
    if (mode == "full") {
      quantize_model(model_, E4M3, {.skip_patterns = {"lm_head"}, .input_format = E4M3, .grad_format = E5M2});
    }
  }
  void step() {
    altgrad::Tape tape;
    tape.backward(model_.loss(x_, y_));
    opt_.step();
    opt_.zero_grad();
  }

 private:
  altgrad::models::GPT model_;
  altgrad::optim::AdamW opt_;
  altgrad::Tensor x_, y_;
};

}  // namespace bench
