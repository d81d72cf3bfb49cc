// GPT against a slow GPT in plain loops of doubles, and by its properties: names, ties, initial state, causality,
// gradients, sampling.
#include "catch.h"
#include "errors.h"

#include <altgrad/autograd/gradcheck.h>
#include <altgrad/models/gpt.h>
#include <altgrad/nn/safetensors.h>
#include <altgrad/nn/surgery.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

using namespace altgrad;
using models::GPT;
using models::GPTConfig;

namespace {

constexpr GPTConfig small = {.n_layer = 2, .n_head = 2, .n_embd = 16, .block_size = 8, .vocab_size = 11};

GPTConfig with_bias(GPTConfig c, bool bias) {
  c.bias = bias;
  return c;
}

// nn/ initialises norms and biases to constants; random ones make mistakes with them show.
void randomize(GPT& model) {
  for (auto& [name, p] : model.named_parameters()) {
    if (p.dim() == 1)
      p.copy_(Tensor::randn(p.shape(), p.options()) * 0.3 + (name.ends_with("weight") ? 1.0 : 0.0));
    if (p.dim() == 2) p.copy_(Tensor::randn(p.shape(), p.options()) * 0.2);
  }
}

std::vector<double> values(const Tensor& x) {
  const auto wide = x.to(DType::f64);
  return {wide.data<double>().begin(), wide.data<double>().end()};
}

// ---- The slow GPT: one sequence, one row of features a token ----

using Rows = std::vector<std::vector<double>>;

struct SlowGPT {
  const GPT& model;

  std::vector<double> get(const std::string& name) const {
    for (const auto& [known, p] : model.named_parameters()) {
      if (known == name) return values(p);
    }
    return {};
  }
  Rows linear(const Rows& x, const std::string& name) const {
    const auto w = get(name + ".weight"), b = get(name + ".bias");
    const size_t in = x[0].size(), out = w.size() / in;
    Rows y(x.size(), std::vector<double>(out));
    for (size_t t = 0; t < x.size(); ++t) {
      for (size_t o = 0; o < out; ++o) {
        double sum = b.empty() ? 0 : b[o];
        for (size_t i = 0; i < in; ++i) sum += x[t][i] * w[o * in + i];
        y[t][o] = sum;
      }
    }
    return y;
  }
  Rows norm(const Rows& x, const std::string& name) const {
    const auto w = get(name + ".weight"), b = get(name + ".bias");
    Rows y = x;
    for (auto& row : y) {
      double mean = 0, var = 0;
      for (double v : row) mean += v / double(row.size());
      for (double v : row) var += (v - mean) * (v - mean) / double(row.size());
      for (size_t i = 0; i < row.size(); ++i) {
        row[i] = (row[i] - mean) / std::sqrt(var + 1e-5) * w[i] + (b.empty() ? 0 : b[i]);
      }
    }
    return y;
  }
  Rows attention(const Rows& qkv, size_t heads) const {
    const size_t c = qkv[0].size() / 3, d = c / heads;
    Rows y(qkv.size(), std::vector<double>(c, 0.0));
    for (size_t h = 0; h < heads; ++h) {
      for (size_t t = 0; t < qkv.size(); ++t) {
        std::vector<double> p(t + 1);
        double sum = 0;
        for (size_t s = 0; s <= t; ++s) {
          double dot = 0;
          for (size_t i = 0; i < d; ++i) dot += qkv[t][h * d + i] * qkv[s][c + h * d + i];
          sum += p[s] = std::exp(dot / std::sqrt(double(d)));
        }
        for (size_t s = 0; s <= t; ++s) {
          for (size_t i = 0; i < d; ++i) y[t][h * d + i] += p[s] / sum * qkv[s][2 * c + h * d + i];
        }
      }
    }
    return y;
  }
  static void accumulate(Rows& x, const Rows& y) {
    for (size_t t = 0; t < x.size(); ++t) {
      for (size_t i = 0; i < x[t].size(); ++i) x[t][i] += y[t][i];
    }
  }
  Rows logits(std::span<const int64_t> ids) const {
    const GPTConfig& config = model.config();
    const size_t c = size_t(config.n_embd);
    const auto wte = get("transformer.wte.weight"), wpe = get("transformer.wpe.weight");
    Rows x(ids.size(), std::vector<double>(c));
    for (size_t t = 0; t < ids.size(); ++t) {
      for (size_t i = 0; i < c; ++i) x[t][i] = wte[size_t(ids[t]) * c + i] + wpe[t * c + i];
    }
    for (int64_t layer = 0; layer < config.n_layer; ++layer) {
      const std::string h = "transformer.h." + std::to_string(layer) + ".";
      const Rows qkv = linear(norm(x, h + "ln_1"), h + "attn.c_attn");
      accumulate(x, linear(attention(qkv, size_t(config.n_head)), h + "attn.c_proj"));
      Rows hidden = linear(norm(x, h + "ln_2"), h + "mlp.c_fc");
      for (auto& row : hidden) {
        for (double& v : row) v = 0.5 * v * (1 + std::erf(v / std::sqrt(2.0)));
      }
      accumulate(x, linear(hidden, h + "mlp.c_proj"));
    }
    // The head is tied: its weight is wte.
    x = norm(x, "transformer.ln_f");
    Rows y(x.size(), std::vector<double>(size_t(config.vocab_size), 0.0));
    for (size_t t = 0; t < x.size(); ++t) {
      for (size_t v = 0; v < y[t].size(); ++v) {
        for (size_t i = 0; i < c; ++i) y[t][v] += x[t][i] * wte[v * c + i];
      }
    }
    return y;
  }
};

double largest_difference(GPT& model, const Tensor& ids) {
  const SlowGPT slow{model};
  const auto fast = values(model(ids));
  const int64_t t = ids.size(1), v = model.config().vocab_size;
  double worst = 0;
  for (int64_t b = 0; b < ids.size(0); ++b) {
    const Rows expected = slow.logits(ids.data<int64_t>().subspan(size_t(b * t), size_t(t)));
    for (int64_t i = 0; i < t * v; ++i) {
      worst = std::max(worst, std::abs(expected[size_t(i / v)][size_t(i % v)] - fast[size_t(b * t * v + i)]));
    }
  }
  return worst;
}

}  // namespace

TEST_CASE("GPT has nanoGPT's parameter names, in its order", "[gpt]") {
  const GPT model({.n_layer = 1, .n_head = 2, .n_embd = 8, .block_size = 4, .vocab_size = 5});
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
  GPT model(small);
  const auto tied = [](GPT& m) {
    return m.parameter("transformer.wte.weight").is(m.parameter("lm_head.weight"));
  };
  CHECK(tied(model));
  GPT copy = nn::clone(model);
  CHECK(tied(copy));
  CHECK(!copy.parameter("lm_head.weight").is(model.parameter("lm_head.weight")));
  const Tensor ids = Tensor::randint(11, {1, 8});
  const auto before = values(model(ids));
  CHECK(values(copy(ids)) == before);
  copy.parameter("lm_head.weight").fill_(0);
  CHECK(values(model(ids)) == before);
  CHECK(values(copy(ids)) == std::vector<double>(88, 0.0));
}

TEST_CASE("GPT starts as GPT-2 does", "[gpt]") {
  manual_seed(3);
  GPT model({.n_layer = 8, .n_head = 4, .n_embd = 64, .block_size = 64, .vocab_size = 200});
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
  const Tensor ids = Tensor::randint(200, {4, 64}), targets = Tensor::randint(200, {4, 64});
  CHECK(model.loss(ids, targets).item<double>() == Approx(std::log(200.0)).margin(0.1));
}

TEST_CASE("GPT computes what a slow one in plain loops does", "[gpt]") {
  manual_seed(4);
  for (const bool bias : {false, true}) {
    GPT model(with_bias(small, bias));
    randomize(model);
    const Tensor ids = Tensor::randint(11, {3, 8});
    const Tensor few = Tensor::randint(11, {2, 5});  // fewer tokens than block_size
    CHECK(largest_difference(model, ids) < 2e-5);
    model.to(DType::f64);
    CHECK(largest_difference(model, ids) < 1e-12);
    CHECK(largest_difference(model, few) < 1e-12);
  }
}

TEST_CASE("the loss of GPT is the mean cross-entropy of its logits", "[gpt]") {
  manual_seed(5);
  GPT model(small);
  randomize(model);
  model.to(DType::f64);
  const Tensor ids = Tensor::randint(11, {2, 8}), targets = Tensor::randint(11, {2, 8});
  const auto logits = values(model(ids));
  double sum = 0;
  for (size_t row = 0; row < 16; ++row) {
    double total = 0;
    for (size_t v = 0; v < 11; ++v) total += std::exp(logits[row * 11 + v]);
    sum += std::log(total) - logits[row * 11 + size_t(targets.data<int64_t>()[row])];
  }
  CHECK(model.loss(ids, targets).item<double>() == Approx(sum / 16).epsilon(1e-12));
}

TEST_CASE("a later token leaves the logits of earlier ones as they are, to the bit", "[gpt]") {
  manual_seed(6);
  GPT model(small);
  randomize(model);
  const Tensor ids = Tensor::randint(10, {1, 8});
  const auto before = values(model(ids));
  for (size_t changed = 1; changed < 8; ++changed) {
    const Tensor other = ids.clone();
    other.data<int64_t>()[changed] += 1;
    const auto after = values(model(other));
    CHECK(std::equal(before.begin(), before.begin() + std::ptrdiff_t(changed) * 11, after.begin()));
    CHECK(!std::equal(before.begin() + std::ptrdiff_t(changed) * 11, before.end(),
                      after.begin() + std::ptrdiff_t(changed) * 11));
  }
}

TEST_CASE("the gradient of a whole GPT is right, over all parameters at once", "[gpt]") {
  manual_seed(7);
  for (const bool bias : {false, true}) {
    GPT model(with_bias(small, bias));
    randomize(model);
    model.to(DType::f64);
    const Tensor ids = Tensor::randint(11, {2, 8}), targets = Tensor::randint(11, {2, 8});
    const auto check = gradcheck_directional([&] { return model.loss(ids, targets); }, model.parameters(),
                                             {.tolerance = 1e-7});
    INFO(check.message);
    CHECK(check.ok);
  }
}

TEST_CASE("every leaf that a GPT's tape saw is a named parameter, and every parameter gets a gradient",
          "[gpt]") {
  GPT model(small);
  Tape tape;
  const Tensor loss = model.loss(Tensor::randint(11, {2, 8}), Tensor::randint(11, {2, 8}));
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
  GPT model({.n_layer = 2, .n_head = 2, .n_embd = 32, .block_size = 8, .vocab_size = 11});
  const Tensor ids = Tensor::randint(11, {4, 8}), targets = Tensor::randint(11, {4, 8});
  optim::AdamW opt(model.decay_groups(0.0), {.lr = 3e-3, .betas = {0.9, 0.99}});
  double loss_value = 0;
  int64_t allocations = 0;
  for (int step = 0; step < 150; ++step) {
    if (step == 3) allocations = memory_stats().system_allocations;
    Tape tape;
    const Tensor loss = model.loss(ids, targets);
    tape.backward(loss);
    opt.step();
    opt.zero_grad();
    loss_value = loss.item<double>();
  }
  CHECK(loss_value < 0.1);
  CHECK(memory_stats().system_allocations == allocations);
}

TEST_CASE("generate continues a prompt", "[gpt]") {
  manual_seed(9);
  GPT model(small);
  randomize(model);
  const Tensor prompt = Tensor::from({3, 1, 4}, {3});

  SECTION("in its shape, with the prompt in front") {
    const Tensor one = model.generate(prompt, 20);  // past block_size
    REQUIRE(one.shape() == Shape{23});
    CHECK(std::ranges::equal(one.data<int64_t>().first(3), prompt.data<int64_t>()));
    CHECK(std::ranges::all_of(one.data<int64_t>(), [](int64_t id) { return id >= 0 && id < 11; }));
    const Tensor rows = model.generate(Tensor::from({1, 2, 3, 4}, {2, 2}), 5);
    REQUIRE(rows.shape() == Shape{2, 7});
    CHECK(rows.data<int64_t>()[7] == 3);
    CHECK(values(model.generate(prompt, 0)) == values(prompt));
    CHECK(model.generate(Tensor::zeros({12}, {.dtype = DType::i64}), 2).shape() ==
          Shape{14});  // a long prompt
  }
  SECTION("the same from the same generator, and without touching another") {
    Generator a(1), b(1), c(2);
    const auto state = default_generator().state();
    const auto first = values(model.generate(prompt, 30, {.generator = &a}));
    CHECK(values(model.generate(prompt, 30, {.generator = &b})) == first);
    CHECK(values(model.generate(prompt, 30, {.generator = &c})) != first);
    CHECK(default_generator().state() == state);
    const auto drawn = values(model.generate(prompt, 30));
    CHECK(default_generator().state() != state);
    default_generator().set_state(state);
    CHECK(values(model.generate(prompt, 30)) == drawn);
  }
  SECTION(
      "greedily where temperature is 0 or top_k is 1, each token the likeliest after the last block_size") {
    const SlowGPT slow{model};
    for (int64_t first = 0; first < 11; ++first) {
      std::vector<int64_t> expected = {first, 1, 4};
      const Tensor start = Tensor::from(expected, {3});
      while (expected.size() < 15) {
        const size_t length = std::min<size_t>(expected.size(), 8);
        const auto last = slow.logits(std::span(expected).last(length)).back();
        expected.push_back(std::ranges::max_element(last) - last.begin());
      }
      const Tensor greedy = model.generate(start, 12, {.temperature = 0});
      CHECK(std::ranges::equal(greedy.data<int64_t>(), expected));
      const Tensor top1 = model.generate(start, 12, {.temperature = 5, .top_k = 1});
      CHECK(std::ranges::equal(top1.data<int64_t>(), expected));
    }
  }
  SECTION("with the frequencies of the softmax, restricted to top_k and sharpened by temperature") {
    const auto logits = SlowGPT{model}.logits(prompt.data<int64_t>()).back();
    const int64_t draws = 4000;
    const Tensor prompts = expand(prompt.to(DType::f64), {draws, 3}).to(DType::i64);
    for (const bool restricted : {false, true}) {
      const double temperature = 2;
      const auto k = restricted ? std::optional<int64_t>(4) : std::nullopt;
      auto sorted = logits;
      std::ranges::sort(sorted, std::greater());
      std::vector<double> p;
      for (double l : logits) p.push_back(k && l < sorted[3] ? 0 : std::exp(l / temperature));
      double total = 0;
      for (double x : p) total += x;
      const Tensor out = model.generate(prompts, 1, {.temperature = temperature, .top_k = k});
      std::vector<double> counts(11);
      for (int64_t r = 0; r < draws; ++r) counts[size_t(out.data<int64_t>()[size_t(r * 4 + 3)])] += 1;
      for (size_t v = 0; v < 11; ++v) {
        const double q = p[v] / total;  // five standard errors of a binomial
        CHECK(std::abs(counts[v] / draws - q) <= 5 * std::sqrt(q * (1 - q) / draws));
      }
    }
  }
  SECTION("but not from bad arguments") {
    const auto refuses = [&](const Tensor& ids, int64_t n, models::GenerateOptions options,
                             const char* text) {
      return throws([&] { model.generate(ids, n, options); }, {"generate", text});
    };
    CHECK(refuses(prompt, 1, {.temperature = -1}, "-1"));
    CHECK(refuses(prompt, 1, {.temperature = NAN}, "nan"));
    CHECK(refuses(prompt, 1, {.top_k = 0}, "top_k"));
    CHECK(refuses(prompt, -1, {}, "-1"));
    CHECK(refuses(Tensor::zeros({0}, {.dtype = DType::i64}), 1, {}, "(0)"));
    CHECK(refuses(Tensor::zeros({3}), 1, {}, "f32"));
    CHECK(refuses(Tensor::zeros({1, 1, 1}, {.dtype = DType::i64}), 1, {}, "(1, 1, 1)"));
    CHECK(throws([&] { model.generate(Tensor::from({99}, {1}), 1); }, {"99", "11"}));
  }
}

TEST_CASE("generate does not drop out or record, and restores the mode of every module", "[gpt]") {
  manual_seed(12);
  GPTConfig config = small;
  config.dropout = 0.5;
  GPT model(config);
  randomize(model);
  GPT plain(small);
  plain.load_state_dict(model.state_dict());
  model.module("transformer.h.1").eval();
  Tape tape;
  Generator a(1), b(1);
  const Tensor prompt = Tensor::from({1}, {1});
  CHECK(values(model.generate(prompt, 30, {.generator = &a})) ==
        values(plain.generate(prompt, 30, {.generator = &b})));
  CHECK(tape.num_ops() == 0);
  CHECK_THROWS(model.generate(Tensor::from({99}, {1}), 3));
  CHECK(model.training());
  for (const auto& [name, module] : model.named_modules()) {
    INFO(name);
    CHECK(module->training() == !name.starts_with("transformer.h.1"));
  }
}

TEST_CASE("dropout acts on a GPT in training only", "[gpt]") {
  manual_seed(10);
  GPTConfig config = small;
  config.dropout = 0.5;
  GPT model(config), plain(small);
  plain.load_state_dict(model.state_dict());
  const Tensor ids = Tensor::randint(11, {2, 8});
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
  GPT model(small), other(small);
  randomize(model);
  const Tensor ids = Tensor::randint(11, {2, 8});
  REQUIRE(values(other(ids)) != values(model(ids)));
  const auto path = std::filesystem::temp_directory_path() / "altgrad_test_gpt.safetensors";
  save_safetensors(path.string(), model.state_dict());
  other.load_state_dict(load_safetensors(path.string()));
  std::filesystem::remove(path);
  CHECK(values(other(ids)) == values(model(ids)));
}

TEST_CASE("matrices decay, biases and norms do not, and each parameter is in one group", "[gpt]") {
  GPT model(small);
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
  CHECK(refuses({.block_size = 0}, "block_size 0"));
  CHECK(refuses({.vocab_size = 0}, "vocab_size 0"));
  CHECK(refuses({.dropout = 1.0}, "dropout"));
  CHECK(refuses({.dropout = NAN}, "dropout"));

  GPT model(small);
  const auto ids = [](Shape shape) { return Tensor::zeros(shape, {.dtype = DType::i64}); };
  CHECK(throws([&] { model(ids({1, 9})); }, {"GPT", "(1, 9)", "block_size 8"}));
  CHECK(throws([&] { model(ids({8})); }, {"GPT", "(8)"}));
  CHECK(throws([&] { model(ids({2, 0})); }, {"GPT", "(2, 0)"}));
  CHECK(throws([&] { model(Tensor::zeros({1, 8})); }, {"f32"}));
  CHECK(throws([&] { model(Tensor::full({1, 8}, 11, {.dtype = DType::i64})); }, {"embedding", "11"}));
  CHECK(throws([&] { model.loss(ids({2, 8}), ids({2, 7})); }, {"GPT", "(2, 8)", "(2, 7)"}));
  CHECK(throws(
      [&] {
        model.loss(ids({1, 8}), Tensor::full({1, 8}, 11, {.dtype = DType::i64}));
      },
      {"cross_entropy", "11"}));
}
