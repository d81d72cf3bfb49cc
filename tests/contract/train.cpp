#include <altgrad/altgrad.h>
namespace ag = altgrad;

int main() {
  ag::manual_seed(1337);
  ag::models::CharDataset data("input.txt", /*block_size=*/64, /*val_fraction=*/0.1);
  ag::models::GPT model({.n_layer = 4, .n_head = 4, .n_embd = 128, .block_size = 64,
                         .vocab_size = data.vocab_size()});
  ag::fp8::quantize_model(model, ag::fp8::E4M3, {.skip_patterns = {"lm_head"}});

  ag::optim::AdamW opt(model.parameters(), {.lr = 1e-3, .betas = {0.9, 0.99}, .weight_decay = 0.1});
  for (int step = 0; step < 2000; ++step) {
    auto [x, y] = data.batch("train", /*batch_size=*/12);  // (12, 64) int64 each
    ag::Tape tape;                                         // records while it is in scope
    ag::Tensor loss = model.loss(x, y);
    tape.backward(loss);                                   // gradients land in each parameter's grad()
    ag::nn::clip_grad_norm(model.parameters(), 1.0);
    opt.step();
    opt.zero_grad();
  }
  std::puts(data.decode(model.generate(data.encode("\n"), 200, {.temperature = 0.8})).c_str());
}
