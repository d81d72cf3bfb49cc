// Surgery on the GPT: ties, the layers that are replaced, training, checkpoints.
#include "catch.h"
#include "errors.h"
#include "fp8/fp8_reference.h"

#include <altgrad/autograd/ops.h>
#include <altgrad/fp8/surgery.h>
#include <altgrad/models/gpt.h>
#include <altgrad/nn/surgery.h>

#include <algorithm>

using namespace altgrad;
using namespace altgrad::fp8;
using Names = std::vector<std::string>;

namespace {

models::GPT small_gpt() {
  manual_seed(31);
  models::GPT model({.n_layer = 2, .n_head = 2, .n_embd = 16, .block_size = 12, .vocab_size = 23});
  model.to(device());
  return model;
}
bool tied(const models::GPT& model) {
  return model.parameter("transformer.wte.weight").is(model.parameter("lm_head.weight"));
}
bool is_quantized(const models::GPT& model, const std::string& path) {
  return dynamic_cast<QuantizedLinear*>(&model.module(path)) != nullptr;
}

// Losses of a few steps on one batch.
std::vector<double> train(models::GPT& model, int steps, double lr = 1e-2) {
  manual_seed(32);
  const Tensor ids = here::randint(23, {4, 12}), targets = here::randint(23, {4, 12});
  optim::AdamW opt(model.parameters(), {.lr = lr});
  std::vector<double> losses;
  for (int step = 0; step < steps; ++step) {
    Tape tape;
    const Tensor loss = model.loss(ids, targets);
    tape.backward(loss);
    opt.step();
    opt.zero_grad();
    losses.push_back(loss.item<double>());
  }
  return losses;
}

}  // namespace

TEST_CASE("GPT: wte and lm_head are tied before surgery", "[fp8]") { REQUIRE(tied(small_gpt())); }

TEST_CASE("GPT: tied after surgery with lm_head skipped", "[fp8]") {
  models::GPT model = small_gpt();
  REQUIRE(quantize_model(model, E4M3, {.skip_patterns = {"lm_head"}}).skipped == Names{"lm_head"});
  REQUIRE_FALSE(is_quantized(model, "lm_head"));
  REQUIRE(tied(model));
  train(model, 2);
  REQUIRE(tied(model));
}

TEST_CASE("GPT: tied after surgery with lm_head quantized", "[fp8]") {
  models::GPT model = small_gpt();
  quantize_model(model, E4M3);
  REQUIRE(is_quantized(model, "lm_head"));
  REQUIRE(tied(model));
  train(model, 2);
  REQUIRE(tied(model));
  const models::GPT copy = nn::clone(model);
  REQUIRE(is_quantized(copy, "lm_head"));
  REQUIRE(tied(copy));
  REQUIRE_FALSE(copy.parameter("lm_head.weight").is(model.parameter("lm_head.weight")));
  dequantize_model(model);
  REQUIRE(tied(model));
}

TEST_CASE("GPT: c_attn, c_proj, c_fc replaced", "[fp8]") {
  models::GPT model = small_gpt();
  const SurgeryReport report = quantize_model(model, E5M2, {.skip_patterns = {"lm_head"}});
  Names expected;
  for (const char* block : {"transformer.h.0.", "transformer.h.1."}) {
    for (const char* layer : {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}) {
      expected.push_back(std::string(block) + layer);
      REQUIRE(is_quantized(model, expected.back()));
    }
  }
  REQUIRE(report.replaced == expected);
}

TEST_CASE("GPT: skip patterns reach parts of blocks", "[fp8]") {
  models::GPT model = small_gpt();
  const SurgeryReport report =
      quantize_model(model, E4M3, {.skip_patterns = {"attn.c_proj", "h.1", "lm_head"}});
  REQUIRE(report.replaced ==
          Names{"transformer.h.0.attn.c_attn", "transformer.h.0.mlp.c_fc", "transformer.h.0.mlp.c_proj"});
  models::GPT other = small_gpt();
  REQUIRE(throws([&] { quantize_model(other, E4M3, {.skip_patterns = {"c_atn"}}); },
                 {"c_atn", "transformer.h.1.mlp.c_proj", "lm_head"}));
  REQUIRE(quantize_model(other, E4M3).replaced.size() == 9);
}

TEST_CASE("GPT: surgery keeps the parameters, their order and their names", "[fp8]") {
  models::GPT model = small_gpt();
  const auto before = model.named_parameters();
  quantize_model(model, E4M3);
  const auto after = model.named_parameters();
  REQUIRE(after.size() == before.size());
  for (size_t i = 0; i < before.size(); ++i) {
    REQUIRE(after[i].first == before[i].first);
    REQUIRE(after[i].second.is(before[i].second));
  }
  dequantize_model(model);
  REQUIRE(model.named_buffers().empty());
}

TEST_CASE("GPT: every leaf that the tape saw is among the parameters after surgery", "[fp8]") {
  models::GPT model = small_gpt();
  quantize_model(model, E4M3, {.input_format = E4M3, .grad_format = E5M2});
  Tape tape;
  const Tensor loss = model.loss(here::randint(23, {2, 12}), here::randint(23, {2, 12}));
  const auto parameters = model.parameters();
  const auto leaves = tape.leaves();
  REQUIRE(leaves.size() == parameters.size());
  for (const Tensor& leaf : leaves) {
    REQUIRE(std::any_of(parameters.begin(), parameters.end(), [&](const Tensor& p) { return p.is(leaf); }));
  }
}

TEST_CASE("GPT: a training run after surgery lowers the loss", "[fp8]") {
  for (const bool everything : {false, true}) {
    models::GPT model = small_gpt();
    QuantizeOptions options{.skip_patterns = {"lm_head"}};
    if (everything)
      options.input_format = E4M3, options.grad_format = E5M2, options.scaling = Scaling::delayed;
    quantize_model(model, E4M3, options);
    const std::vector<double> losses = train(model, 40);
    INFO(losses.front() << " -> " << losses.back());
    REQUIRE(losses.back() < 0.5 * losses.front());
  }
}

TEST_CASE("GPT: quantized training follows plain training, but not to the bit", "[fp8]") {
  models::GPT plain = small_gpt(), model = nn::clone(plain);
  quantize_model(model, E4M3, {.input_format = E4M3});
  const std::vector<double> a = train(plain, 10, 1e-3), b = train(model, 10, 1e-3);
  REQUIRE(a != b);
  for (size_t i = 0; i < a.size(); ++i) REQUIRE(b[i] == Approx(a[i]).epsilon(0.02));
}

TEST_CASE("GPT: the same seed gives the same losses, with stochastic rounding too", "[fp8]") {
  std::vector<double> losses[2];
  for (auto& run : losses) {
    models::GPT model = small_gpt();
    quantize_model(model, E4M3,
                   {.input_format = E4M3, .grad_format = E5M2, .rounding = Rounding::stochastic});
    run = train(model, 5);
  }
  REQUIRE(losses[0] == losses[1]);
}

TEST_CASE("GPT: generating changes no history", "[fp8]") {
  models::GPT model = small_gpt();
  quantize_model(model, E4M3, {.input_format = E4M3});
  train(model, 2);
  StateDict before;
  for (auto& [name, tensor] : model.state_dict()) before[name] = tensor.clone();
  model.generate(here::zeros({1}, {.dtype = DType::i64}), 5);
  for (auto& [name, tensor] : model.state_dict()) {
    INFO(name);
    REQUIRE(same_bits(tensor, before[name]));
  }
}

TEST_CASE("GPT: state_dicts load before and after surgery, histories with them", "[fp8]") {
  models::GPT model = small_gpt(), plain = small_gpt(), other = small_gpt();
  quantize_model(model, E4M3, {.input_format = E4M3});
  quantize_model(other, E4M3, {.input_format = E4M3});
  train(model, 3);
  plain.load_state_dict(model.state_dict());
  REQUIRE(same_bits(plain.parameter("lm_head.weight"), model.parameter("lm_head.weight")));
  other.load_state_dict(model.state_dict());
  model.eval();
  other.eval();
  const Tensor ids = here::randint(23, {2, 12});
  REQUIRE(same_bits(other.forward(ids), model.forward(ids)));
  REQUIRE_FALSE(same_bits(plain.forward(ids), model.forward(ids)));
  other.load_state_dict(plain.state_dict());  // without histories
}
