// GPT::generate: shapes, randomness, greedy choices against the slow GPT, frequencies against the softmax.
#include "catch.h"
#include "errors.h"
#include "slow_gpt.h"

#include <algorithm>

using namespace gpt_tests;

TEST_CASE("generate continues a prompt", "[generate]") {
  manual_seed(9);
  GPT model = on_device(GPT(small));
  randomize(model);
  const Tensor prompt = here::from({3, 1, 4}, {3});

  SECTION("in its shape, with the prompt in front") {
    const Tensor one = model.generate(prompt, 20);  // past block_size
    REQUIRE(one.shape() == Shape{23});
    const std::vector<int64_t> ids = values<int64_t>(one);
    CHECK(std::ranges::equal(std::span(ids).first(3), values<int64_t>(prompt)));
    CHECK(std::ranges::all_of(ids, [](int64_t id) { return id >= 0 && id < 11; }));
    const Tensor rows = model.generate(here::from({1, 2, 3, 4}, {2, 2}), 5);
    REQUIRE(rows.shape() == Shape{2, 7});
    CHECK(values<int64_t>(rows)[7] == 3);
    CHECK(values(model.generate(prompt, 0)) == values(prompt));
    CHECK(model.generate(here::zeros({12}, {.dtype = DType::i64}), 2).shape() == Shape{14});  // a long prompt
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
      const Tensor start = here::from(expected, {3});
      while (expected.size() < 15) {
        const size_t length = std::min<size_t>(expected.size(), 8);
        const auto last = slow.logits(std::span(expected).last(length)).back();
        expected.push_back(std::ranges::max_element(last) - last.begin());
      }
      const Tensor greedy = model.generate(start, 12, {.temperature = 0});
      CHECK(values<int64_t>(greedy) == expected);
      const Tensor top1 = model.generate(start, 12, {.temperature = 5, .top_k = 1});
      CHECK(values<int64_t>(top1) == expected);
    }
  }
  SECTION("with the frequencies of the softmax, restricted to top_k and sharpened by temperature") {
    const auto logits = SlowGPT{model}.logits(values<int64_t>(prompt)).back();
    const int64_t draws = device().is_cpu() ? 4000 : 500;  // by the host, from logits, which are the device's
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
      const std::vector<int64_t> drawn = values<int64_t>(out);
      std::vector<double> counts(11);
      for (size_t r = 0; r < size_t(draws); ++r) counts[size_t(drawn[r * 4 + 3])] += 1;
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
    CHECK(refuses(here::zeros({0}, {.dtype = DType::i64}), 1, {}, "(0)"));
    CHECK(refuses(here::zeros({3}), 1, {}, "f32"));
    CHECK(refuses(here::zeros({1, 1, 1}, {.dtype = DType::i64}), 1, {}, "(1, 1, 1)"));
    CHECK(throws([&] { model.generate(here::from({99}, {1}), 1); }, {"99", "11"}));
  }
}

TEST_CASE("generate does not drop out or record, and restores the mode of every module", "[generate]") {
  manual_seed(12);
  GPTConfig config = small;
  config.dropout = 0.5;
  GPT model = on_device(GPT(config));
  randomize(model);
  GPT plain = on_device(GPT(small));
  plain.load_state_dict(model.state_dict());
  model.module("transformer.h.1").eval();
  Tape tape;
  Generator a(1), b(1);
  const Tensor prompt = here::from({1}, {1});
  CHECK(values(model.generate(prompt, 30, {.generator = &a})) ==
        values(plain.generate(prompt, 30, {.generator = &b})));
  CHECK(tape.num_ops() == 0);
  CHECK_THROWS(model.generate(here::from({99}, {1}), 3));
  CHECK(model.training());
  for (const auto& [name, module] : model.named_modules()) {
    INFO(name);
    CHECK(module->training() == !name.starts_with("transformer.h.1"));
  }
}
