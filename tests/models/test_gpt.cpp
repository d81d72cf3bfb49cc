// GPT against a slow GPT in plain loops of doubles, and by its properties: names, ties, initial state,
// causality, gradients, dropout.
#include "catch.h"
#include "errors.h"
#include "slow_gpt.h"

#include <altgrad/autograd/gradcheck.h>
#include <altgrad/nn/safetensors.h>
#include <altgrad/nn/surgery.h>

#include <algorithm>
#include <filesystem>
#include <set>

using namespace gpt_tests;

namespace {

double largest_difference(GPT& model, const Tensor& ids) {
  const SlowGPT slow{model};
  const auto fast = values(model(ids));
  const Tensor all_ids = host(ids);
  const int64_t t = ids.size(1), v = model.config().vocab_size;
  double worst = 0;
  for (int64_t b = 0; b < ids.size(0); ++b) {
    const Rows expected = slow.logits(all_ids.data<int64_t>().subspan(size_t(b * t), size_t(t)));
    for (int64_t i = 0; i < t * v; ++i) {
      worst = std::max(worst, std::abs(expected[size_t(i / v)][size_t(i % v)] - fast[size_t(b * t * v + i)]));
    }
  }
  return worst;
}

}  // namespace

TEST_CASE("GPT has nanoGPT's parameter names, in its order", "[gpt]") {
  const GPT model =
      on_device(GPT({.n_layer = 1, .n_head = 2, .n_embd = 8, .block_size = 4, .vocab_size = 5}));
  std::vector<std::string> names;
  for (const auto& [name, p] : model.named_parameters()) names.push_back(name);
  CHECK(names == std::vector<std::string>{
                     "transformer.wte.weight", "transformer.wpe.weight", "transformer.h.0.ln_1.weight",
                     "transformer.h.0.ln_1.bias", "transformer.h.0.attn.c_attn.weight",
                     "transformer.h.0.attn.c_attn.bias", "transformer.h.0.attn.c_proj.weight",
                     "transformer.h.0.attn.c_proj.bias", "transformer.h.0.ln_2.weight",
                     "transformer.h.0.ln_2.bias", "transformer.h.0.mlp.c_fc.weight",
                     "transformer.h.0.mlp.c_fc.bias", "transformer.h.0.mlp.c_proj.weight",
                     "transformer.h.0.mlp.c_proj.bias", "transformer.ln_f.weight", "transformer.ln_f.bias"});
}

TEST_CASE("GPT has nanoGPT's number of parameters", "[gpt]") {
  const auto expected = [](const GPTConfig& c) {
    const int64_t n = c.n_embd,
                  biases = c.bias ? 11 * n : 0;  // c_attn 3, c_proj 1, c_fc 4, c_proj 1, two norms
    return (c.vocab_size + c.block_size) * n + c.n_layer * (12 * n * n + 2 * n + biases) + n +
           (c.bias ? n : 0);
  };
  // The formula against the published size of GPT-2: 124,439,808.
  CHECK(expected({.vocab_size = 50257}) == 124439808);
  for (const bool bias : {false, true}) {
    const GPTConfig c = with_bias(small, bias);
    CHECK(GPT(c).num_parameters() == expected(c));
  }
}

TEST_CASE("the head of GPT is tied to the token embedding, also in a clone", "[gpt]") {
  GPT model = on_device(GPT(small));
  const auto tied = [](GPT& m) {
    return m.parameter("transformer.wte.weight").is(m.parameter("lm_head.weight"));
  };
  CHECK(tied(model));
  GPT copy = nn::clone(model);
  CHECK(tied(copy));
  CHECK(!copy.parameter("lm_head.weight").is(model.parameter("lm_head.weight")));
  const Tensor ids = here::randint(11, {1, 8});
  const auto before = values(model(ids));
  CHECK(values(copy(ids)) == before);
  copy.parameter("lm_head.weight").fill_(0);
  CHECK(values(model(ids)) == before);
  CHECK(values(copy(ids)) == std::vector<double>(88, 0.0));
}

TEST_CASE("GPT starts as GPT-2 does", "[gpt]") {
  manual_seed(3);
  GPT model = on_device(GPT({.n_layer = 8, .n_head = 4, .n_embd = 64, .block_size = 64, .vocab_size = 200}));
  for (auto& [name, p] : model.named_parameters()) {
    INFO(name);
    const auto x = values(p);
    if (p.dim() == 1) {
      const double constant = name.ends_with("bias") ? 0 : 1;
      CHECK(std::ranges::all_of(x, [&](double v) { return v == constant; }));
      continue;
    }
    double mean = 0, square = 0;
    for (double v : x) mean += v, square += v * v;
    const double n = double(x.size()), std = name.ends_with("c_proj.weight") ? 0.02 / 4 : 0.02;
    // Within five standard errors of a normal distribution's mean and deviation.
    CHECK(std::abs(mean / n) < 5 * std / std::sqrt(n));
    CHECK(std::abs(std::sqrt(square / n) / std - 1) < 5 / std::sqrt(2 * n));
  }
  // All tokens are about equally likely.
  const Tensor ids = here::randint(200, {4, 64}), targets = here::randint(200, {4, 64});
  CHECK(model.loss(ids, targets).item<double>() == Approx(std::log(200.0)).margin(0.1));
}

TEST_CASE("GPT computes what a slow one in plain loops does", "[gpt]") {
  manual_seed(4);
  for (const auto& [bias, gelu] : {std::pair(false, Gelu::erf), {true, Gelu::erf}, {true, Gelu::tanh}}) {
    GPTConfig config = with_bias(small, bias);
    config.gelu = gelu;
    GPT model = on_device(GPT(config));
    randomize(model);
    const Tensor ids = here::randint(11, {3, 8});
    const Tensor few = here::randint(11, {2, 5});  // fewer tokens than block_size
    CHECK(largest_difference(model, ids) < 2e-5);
    model.to(DType::f64);
    CHECK(largest_difference(model, ids) < 1e-12);
    CHECK(largest_difference(model, few) < 1e-12);
  }
}

TEST_CASE("the loss of GPT is the mean cross-entropy of its logits", "[gpt]") {
  manual_seed(5);
  GPT model = on_device(GPT(small));
  randomize(model);
  model.to(DType::f64);
  const Tensor ids = here::randint(11, {2, 8}), targets = here::randint(11, {2, 8});
  const auto logits = values(model(ids));
  double sum = 0;
  for (size_t row = 0; row < 16; ++row) {
    double total = 0;
    for (size_t v = 0; v < 11; ++v) total += std::exp(logits[row * 11 + v]);
    sum += std::log(total) - logits[row * 11 + size_t(values<int64_t>(targets)[row])];
  }
  CHECK(model.loss(ids, targets).item<double>() == Approx(sum / 16).epsilon(1e-12));
}

TEST_CASE("a later token leaves the logits of earlier ones as they are, to the bit", "[gpt]") {
  manual_seed(6);
  GPT model = on_device(GPT(small));
  randomize(model);
  const Tensor ids = here::randint(10, {1, 8});
  const auto before = values(model(ids));
  for (size_t changed = 1; changed < 8; ++changed) {
    std::vector<int64_t> other = values<int64_t>(ids);
    other[changed] += 1;
    const auto after = values(model(here::from(other, {1, 8})));
    CHECK(std::equal(before.begin(), before.begin() + std::ptrdiff_t(changed) * 11, after.begin()));
    CHECK(!std::equal(before.begin() + std::ptrdiff_t(changed) * 11, before.end(),
                      after.begin() + std::ptrdiff_t(changed) * 11));
  }
}

TEST_CASE("the gradient of a whole GPT is right, over all parameters at once", "[gpt]") {
  manual_seed(7);
  for (const bool bias : {false, true}) {
    GPT model = on_device(GPT(with_bias(small, bias)));
    randomize(model);
    model.to(DType::f64);
    const Tensor ids = here::randint(11, {2, 8}), targets = here::randint(11, {2, 8});
    const auto check = gradcheck_directional([&] { return model.loss(ids, targets); }, model.parameters(),
                                             {.tolerance = 1e-7});
    INFO(check.message);
    CHECK(check.ok);
  }
}

TEST_CASE("every leaf that a GPT's tape saw is a named parameter, and every parameter gets a gradient",
          "[gpt]") {
  GPT model = on_device(GPT(small));
  Tape tape;
  const Tensor loss = model.loss(here::randint(11, {2, 8}), here::randint(11, {2, 8}));
  std::set<void*> named;
  for (const auto& [name, p] : model.named_parameters()) named.insert(p.raw());
  std::set<void*> seen;
  for (const Tensor& leaf : tape.leaves()) seen.insert(leaf.raw());
  CHECK(seen == named);
  tape.backward(loss);
  for (const auto& [name, p] : model.named_parameters()) {
    INFO(name);
    CHECK(p.has_grad());
  }
}

TEST_CASE("GPT learns a small batch by heart, without asking the system for memory", "[gpt]") {
  manual_seed(8);
  GPT model = on_device(GPT({.n_layer = 2, .n_head = 2, .n_embd = 32, .block_size = 8, .vocab_size = 11}));
  const Tensor ids = here::randint(11, {4, 8}), targets = here::randint(11, {4, 8});
  optim::AdamW opt(model.decay_groups(0.0), {.lr = 3e-3, .betas = {0.9, 0.99}});
  double loss_value = 0;
  int64_t allocations = 0;
  for (int step = 0; step < 150; ++step) {
    if (step == 3) allocations = memory_stats(device()).system_allocations;
    Tape tape;
    const Tensor loss = model.loss(ids, targets);
    tape.backward(loss);
    opt.step();
    opt.zero_grad();
    loss_value = loss.item<double>();
  }
  CHECK(loss_value < 0.1);
  CHECK(memory_stats(device()).system_allocations == allocations);
}

TEST_CASE("dropout acts on a GPT in training only", "[gpt]") {
  manual_seed(10);
  GPTConfig config = small;
  config.dropout = 0.5;
  GPT model = on_device(GPT(config)), plain = on_device(GPT(small));
  plain.load_state_dict(model.state_dict());
  const Tensor ids = here::randint(11, {2, 8});
  CHECK(values(model(ids)) != values(model(ids)));
  model.eval();
  CHECK(values(model(ids)) == values(plain(ids)));
  // On the embeddings, and on both branches of the block.
  for (const char* name :
       {"transformer.drop", "transformer.h.0.attn.resid_dropout", "transformer.h.1.mlp.dropout"}) {
    INFO(name);
    model.module(name).train();
    CHECK(values(model(ids)) != values(plain(ids)));
    model.eval();
  }
}

TEST_CASE("the state of a GPT survives a file", "[gpt]") {
  manual_seed(11);
  GPT model = on_device(GPT(small)), other = on_device(GPT(small));
  randomize(model);
  const Tensor ids = here::randint(11, {2, 8});
  REQUIRE(values(other(ids)) != values(model(ids)));
  const auto path = std::filesystem::temp_directory_path() / "altgrad_test_gpt.safetensors";
  save_safetensors(path.string(), model.state_dict());
  other.load_state_dict(load_safetensors(path.string()));
  std::filesystem::remove(path);
  CHECK(values(other(ids)) == values(model(ids)));
}

TEST_CASE("matrices decay, biases and norms do not, and each parameter is in one group", "[gpt]") {
  GPT model = on_device(GPT(small));
  const auto groups = model.decay_groups(0.1);
  REQUIRE(groups.size() == 2);
  CHECK(groups[0].weight_decay == 0.1);
  CHECK(groups[1].weight_decay == 0.0);
  for (const Tensor& p : groups[0].params) CHECK(p.dim() == 2);
  for (const Tensor& p : groups[1].params) CHECK(p.dim() == 1);
  CHECK(groups[0].params.size() == 2 + 2 * 4);  // wte (and the head), wpe, four in each block
  CHECK(groups[0].params.size() + groups[1].params.size() == model.parameters().size());
}

TEST_CASE("GPT says what is wrong with its arguments", "[gpt]") {
  const auto refuses = [](GPTConfig config, const char* text) {
    return throws([&] { GPT model(config); }, {"GPT", text});
  };
  CHECK(refuses({.n_head = 5, .n_embd = 16}, "n_embd 16 is not a multiple of n_head 5"));
  CHECK(refuses({.n_layer = 0}, "n_layer 0"));
  CHECK(refuses({.n_head = 0}, "n_head 0"));
  CHECK(refuses({.n_embd = -12}, "n_embd -12"));
  const GPTConfig vast{.n_head = 1, .n_embd = INT64_MAX / 3};  // 3 n_embd and 4 n_embd are no integers
  CHECK(refuses(vast, "n_embd 3074457345618258602 is too large"));
  CHECK(throws([&] { models::CausalSelfAttention attention(vast); }, {"n_embd", "too large"}));
  CHECK(throws([&] { models::MLP mlp(vast); }, {"n_embd", "too large"}));
  CHECK(refuses({.block_size = 0}, "block_size 0"));
  CHECK(refuses({.vocab_size = 0}, "vocab_size 0"));
  CHECK(refuses({.dropout = 1.0}, "dropout"));
  CHECK(refuses({.dropout = NAN}, "dropout"));

  GPT model = on_device(GPT(small));
  const auto ids = [](Shape shape) { return here::zeros(shape, {.dtype = DType::i64}); };
  CHECK(throws([&] { model(ids({1, 9})); }, {"GPT", "(1, 9)", "block_size 8"}));
  CHECK(throws([&] { model(ids({8})); }, {"GPT", "(8)"}));
  CHECK(throws([&] { model(ids({2, 0})); }, {"GPT", "(2, 0)"}));
  CHECK(throws([&] { model(here::zeros({1, 8})); }, {"f32"}));
  CHECK(throws(
      [&] {
        model(here::full({1, 8}, 11, {.dtype = DType::i64})), synchronize(device());
      },
      {"embedding", "11"}));
  CHECK(throws([&] { model.loss(ids({2, 8}), ids({2, 7})); }, {"GPT", "(2, 8)", "(2, 7)"}));
  CHECK(throws(
      [&] {
        model.loss(ids({1, 8}), here::full({1, 8}, 11, {.dtype = DType::i64}));
        synchronize(device());
      },
      {"cross_entropy", "11"}));
}
