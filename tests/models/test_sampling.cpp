// Probabilities of the next token, and greedy tokens, against transformers' (tests/interop), and how rows end.
#include <altgrad/nn/safetensors.h>

#include <algorithm>
#include <numeric>

#include "catch.h"
#include "errors.h"
#include "slow_gpt.h"

using namespace gpt_tests;
using models::GenerateOptions;
using models::next_token_probabilities;

namespace {

const std::string interop = std::string(ALTGRAD_SOURCE_DIR) + "/tests/interop/";

StateDict expected() { return load_safetensors(interop + "expected.safetensors"); }

// The model of transformers that the expected numbers are of. Its Conv1D layers hold (in, out).
GPT theirs() {
  GPT model(
      {.n_layer = 2, .n_head = 2, .n_embd = 32, .block_size = 64, .vocab_size = 61, .gelu = Gelu::tanh});
  StateDict state;
  for (const auto& [name, tensor] : load_safetensors(interop + "gpt2/model.safetensors")) {
    const bool conv = tensor.dim() == 2 && name.find(".h.") != name.npos;
    state[name] = conv ? tensor.transpose() : tensor;
  }
  model.load_state_dict(state);
  model.to(DType::f64);
  return on_device(std::move(model));
}

std::vector<double> softmax_of(std::vector<double> x) {
  double total = 0;
  for (double& v : x) total += v = std::exp(v);
  for (double& v : x) v /= total;
  return x;
}
double distance(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

}  // namespace

TEST_CASE("probabilities after each filter, and after all, are those of transformers", "[sampling]") {
  const StateDict numbers = expected();
  const GenerateOptions filters[] = {
      {},
      {.temperature = 0.7},
      {.top_k = 7},
      {.top_p = 0.9},
      {.top_p = 0.05},
      {.min_p = 0.1},
      {.repetition_penalty = 1.3},
      {.temperature = 0.7, .top_k = 20, .top_p = 0.9, .repetition_penalty = 1.3},
      {.temperature = 1.5, .top_k = 20, .top_p = 0.05, .repetition_penalty = 1.3},
      {.temperature = 1.5, .top_k = 20, .top_p = 0.9, .min_p = 0.1, .repetition_penalty = 1.3}};
  const std::vector<double> logits = values(numbers.at("logits")), p = values(numbers.at("probabilities"));
  const std::vector<int64_t> ids = values<int64_t>(numbers.at("ids"));
  const size_t T = 12, V = 61;
  REQUIRE(p.size() == std::size(filters) * 2 * V);
  for (size_t f = 0; f < std::size(filters); ++f) {
    for (size_t r = 0; r < 2; ++r) {
      CAPTURE(f, r);
      const std::vector<double> found = next_token_probabilities(
          std::span(logits).subspan((r * T + T - 1) * V, V), std::span(ids).subspan(r * T, T), filters[f]);
      CHECK(distance(found, {p.begin() + int64_t((f * 2 + r) * V),
                             p.begin() + int64_t((f * 2 + r + 1) * V)}) <= 1e-12);
    }
  }
}

TEST_CASE("greedy tokens are those of transformers, with a penalty too", "[sampling]") {
  GPT model = theirs();
  const StateDict numbers = expected();
  const Tensor prompt = on_device(numbers.at("ids").narrow(0, 0, 1).reshape({12}));
  for (const auto& [name, penalty] : {std::pair{"greedy", 1.0}, std::pair{"greedy_penalty", 1.3}}) {
    CAPTURE(name);
    const Tensor found = model.generate(prompt, 34, {.temperature = 0, .repetition_penalty = penalty});
    CHECK(values<int64_t>(found.narrow(0, 12, 34)) == values<int64_t>(numbers.at(name)));
  }
}

TEST_CASE("filters at their ends, and where logits are equal", "[sampling]") {
  const std::vector<double> logits = {1, 3, 2, 3, -INFINITY}, all = softmax_of(logits);
  const std::vector<int64_t> seen = {1, 1, 4};
  const auto p = [&](const GenerateOptions& options) {
    return next_token_probabilities(logits, seen, options);
  };
  const std::vector<double> first = {0, 1, 0, 0, 0};
  CHECK(distance(p({}), all) <= 1e-15);
  CHECK(p({.top_p = 1}) == p({}));
  CHECK(p({.top_p = 0}) == first);
  CHECK(p({.top_k = 1}) == first);
  CHECK(p({.temperature = 0}) == first);
  CHECK(p({.top_k = 5}) == p({}));
  CHECK(p({.top_k = 100}) == p({}));
  CHECK(p({.min_p = 1}) == std::vector<double>{0, 0.5, 0, 0.5, 0});
  // Half of what top_k left, not of all: 3 and 3 are e / (2 e + 1) each.
  CHECK(p({.top_k = 3, .top_p = 0.5}) == std::vector<double>{0, 0.5, 0, 0.5, 0});
  // Each token once, however often it was seen; the penalty of a logit of 0 is none.
  const std::vector<double> penalized = next_token_probabilities(
      std::vector<double>{-1, 0, 2}, std::vector<int64_t>{0, 0, 1, 2}, {.repetition_penalty = 2});
  CHECK(distance(penalized, softmax_of({-2, 0, 1})) <= 1e-15);
  CHECK(p({.temperature = 0, .repetition_penalty = 1.1}) == std::vector<double>{0, 0, 0, 1, 0});
}

TEST_CASE("options out of their ranges are refused before anything is drawn", "[sampling]") {
  manual_seed(51);
  GPT model = on_device(GPT(small));
  const Tensor prompt = here::from({3, 1}, {2});
  const auto state = default_generator().state();
  const auto refuses = [&](const GenerateOptions& options, std::initializer_list<std::string> text) {
    return throws([&] { model.generate(prompt, 3, options); }, text) &&
           throws(
               [&] {
                 next_token_probabilities(std::vector<double>{1, 2}, {}, options);
               },
               text);
  };
  CHECK(refuses({.top_p = NAN}, {"top_p", "nan"}));
  CHECK(refuses({.top_p = -0.1}, {"top_p", "-0.1"}));
  CHECK(refuses({.top_p = 1.5}, {"top_p", "1.5"}));
  CHECK(refuses({.min_p = NAN}, {"min_p", "nan"}));
  CHECK(refuses({.min_p = 2}, {"min_p", "2"}));
  CHECK(refuses({.repetition_penalty = 0}, {"repetition_penalty", "0"}));
  CHECK(refuses({.repetition_penalty = -1}, {"repetition_penalty", "-1"}));
  CHECK(refuses({.repetition_penalty = INFINITY}, {"repetition_penalty", "inf"}));
  CHECK(throws(
      [&] {
        next_token_probabilities(std::vector<double>{1, 2, 5}, std::vector<int64_t>{2},
                                 {.repetition_penalty = 1e-308});
      },
      {"repetition_penalty", "infinite"}));
  CHECK(throws(
      [&] {
        model.generate(here::from({5, 5, 1, 5}, {2, 2}), 1, {.pad = 5});
      },
      {"generate", "row 0", "empty"}));
  CHECK(throws([&] { model.generate(here::from({5}, {1}), 1, {.pad = 5}); }, {"generate", "row 0", "empty"}));
  CHECK(throws(
      [] {
        next_token_probabilities(std::vector<double>{1, 2}, std::vector<int64_t>{2}, {});
      },
      {"2"}));
  for (const double bad : {NAN, INFINITY}) {
    CHECK(throws<std::runtime_error>(
        [&] {
          next_token_probabilities(std::vector<double>{1, bad}, {}, {});
        },
        {"logit"}));
  }
  CHECK(throws<std::runtime_error>([&] { next_token_probabilities(std::vector<double>{-INFINITY}, {}, {}); },
                                   {"logit"}));
  CHECK(default_generator().state() == state);
}

TEST_CASE("rows of different lengths, padded on the left, are continued as they are alone", "[sampling]") {
  manual_seed(52);
  GPTConfig config = small;
  config.block_size = 16;
  GPT model = on_device(GPT(config));
  randomize(model);
  const int64_t pad = 10, n = 40;  // past block_size, at other times in each row
  const std::vector<std::vector<int64_t>> prompts = {
      {1, 2, 3, 4, 5}, {7}, {3, 3, 9}, {0, 1, 0}, std::vector<int64_t>(18, 4)};
  std::vector<int64_t> ids;
  for (const auto& prompt : prompts) {
    ids.insert(ids.end(), 18 - prompt.size(), pad);
    ids.insert(ids.end(), prompt.begin(), prompt.end());
  }
  const Tensor batch = here::from(ids, {5, 18});
  for (const bool use_cache : {true, false}) {
    for (const double penalty : {1.0, 1.5}) {  // which must not see the padding
      const Tensor together = model.generate(
          batch, n, {.temperature = 0, .repetition_penalty = penalty, .pad = pad, .use_cache = use_cache});
      REQUIRE(together.shape() == Shape{5, 18 + n});
      for (int64_t r = 0; r < 5; ++r) {
        CAPTURE(use_cache, penalty, r);
        const auto& prompt = prompts[size_t(r)];
        const Tensor alone = model.generate(here::from(prompt, {int64_t(prompt.size())}), n,
                                            {.temperature = 0, .repetition_penalty = penalty});
        const std::vector<int64_t> row = values<int64_t>(together.narrow(0, r, 1)),
                                   single = values<int64_t>(alone);
        CHECK(std::ranges::equal(std::span(row).last(single.size()), single));
        CHECK(std::ranges::count(std::span(row).first(18 - prompt.size()), pad) ==
              int64_t(18 - prompt.size()));
      }
    }
  }
}

TEST_CASE("rows end by a stop token, or where they are told to, and are filled up", "[sampling]") {
  manual_seed(53);
  GPT model = on_device(GPT(small));
  randomize(model);
  const Tensor prompts = here::from({1, 2, 3, 4, 5, 6}, {3, 2});
  const std::vector<int64_t> free = values<int64_t>(model.generate(prompts, 12, {.temperature = 0}));
  const auto drawn = [&](int64_t r, int64_t t) { return free[size_t(r * 14 + 2 + t)]; };
  const int64_t stop = drawn(1, 2);
  std::vector<int64_t> lengths;
  for (int64_t r = 0; r < 3; ++r) {
    int64_t t = 0;
    while (t < 12 && drawn(r, t) != stop) ++t;
    lengths.push_back(std::min<int64_t>(12, t + 1));
  }
  const int64_t longest = std::ranges::max(lengths);
  std::vector<std::pair<int64_t, int64_t>> told;
  const Tensor out = model.generate(
      prompts, 12,
      {.temperature = 0, .stop = {99, stop}, .pad = 0, .on_token = [&](int64_t row, int64_t token) {
         told.emplace_back(row, token);
         return true;
       }});
  REQUIRE(out.shape() == Shape{3, 2 + longest});
  const std::vector<int64_t> ids = values<int64_t>(out);
  std::vector<std::pair<int64_t, int64_t>> expected_calls;
  for (int64_t t = 0; t < longest; ++t) {
    for (int64_t r = 0; r < 3; ++r) {
      CHECK(ids[size_t(r * (2 + longest) + 2 + t)] == (t < lengths[size_t(r)] ? drawn(r, t) : 0));
      if (t < lengths[size_t(r)]) expected_calls.emplace_back(r, drawn(r, t));
    }
  }
  CHECK(told == expected_calls);

  // false ends the row that was told; without padding its last token fills it up.
  const Tensor ended = model.generate(
      prompts, 12, {.temperature = 0, .on_token = [](int64_t row, int64_t) { return row != 0; }});
  REQUIRE(ended.shape() == Shape{3, 14});
  const std::vector<int64_t> rows = values<int64_t>(ended);
  CHECK(std::ranges::count(std::span(rows).subspan(2, 12), drawn(0, 0)) == 12);
  CHECK(std::ranges::equal(std::span(rows).last(28), std::span(free).last(28)));
  CHECK(model.generate(prompts, 12, {.on_token = [](int64_t, int64_t) { return false; }}).shape() ==
        Shape{3, 3});
}

TEST_CASE("a callback that throws leaves the model as it was", "[sampling]") {
  manual_seed(54);
  GPT model = on_device(GPT(small));
  model.module("transformer.h.1").eval();
  const Tensor prompt = here::from({1}, {1});
  int told = 0;
  const auto callback = [&](int64_t, int64_t) -> bool {
    if (++told == 3) throw std::runtime_error("enough");
    return true;
  };
  StateDict before;
  for (const auto& [name, tensor] : model.state_dict()) before[name] = tensor.clone();
  CHECK(throws<std::runtime_error>([&] { model.generate(prompt, 9, {.on_token = callback}); }, {"enough"}));
  CHECK(told == 3);
  CHECK(model.training());
  CHECK_FALSE(model.module("transformer.h.1").training());
  for (const auto& [name, tensor] : model.state_dict()) CHECK(same_bits(tensor, before.at(name)));
  Tape tape;  // and no scope is left behind that would keep it from recording
  model(here::from({1}, {1, 1}));
  CHECK(tape.num_ops() > 0);
}

namespace {

// A block of one's own, which looks back in another way than attention does: y[t] = x[t] + x[t - 1].
struct Previous final : nn::ModuleOf<Previous, nn::Layer> {
  Tensor forward(const Tensor& x) override {
    if (x.size(1) == 1) return x;
    const Tensor none = Tensor::zeros(x.shape().with(1, 1), x.options());
    return x + cat({none, x.narrow(1, 0, x.size(1) - 1)}, 1);
  }
};
// One that calls another: its attention asks for the cache by itself.
struct Wrapper final : nn::ModuleOf<Wrapper, nn::Layer> {
  nn::Slot<nn::Layer> inner;
  explicit Wrapper(nn::Slot<nn::Layer> layer) : inner(std::move(layer)) {}
  Tensor forward(const Tensor& x) override { return inner(x); }
  void visit(nn::Visitor& v) override { v("inner", inner); }
};

}  // namespace

TEST_CASE("blocks of one's own are generated from, with the cache where they ask for it", "[sampling]") {
  manual_seed(55);
  GPT model = on_device(GPT(small));
  randomize(model);
  const Tensor prompts = here::from({1, 2, 3, 9, 9, 5}, {2, 3});
  const auto tokens = [&](bool use_cache) {
    return values<int64_t>(model.generate(prompts, 12, {.temperature = 0, .pad = 9, .use_cache = use_cache}));
  };
  const std::vector<int64_t> plain = tokens(true);
  auto& blocks = *model.transformer->h;
  blocks[0] = Wrapper(blocks[0]);
  CHECK(tokens(true) == plain);
  blocks[1] = Previous();
  const std::vector<int64_t> own = tokens(false);
  CHECK(own != plain);
  CHECK(tokens(true) == own);
}
