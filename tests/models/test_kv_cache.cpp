// Logits with a cache against those without: the same bits in f32 where products have no sums that follow sizes.
#include <altgrad/core/cpu/matmul.h>
#include <altgrad/fp8/surgery.h>
#include <altgrad/models/kv_cache.h>

#include <algorithm>
#include <numeric>

#include "catch.h"
#include "errors.h"
#include "slow_gpt.h"

using namespace gpt_tests;
using models::KVCache;

namespace {

Tensor random_ids(const GPT& model, int64_t rows, int64_t tokens) {
  return here::randint(model.config().vocab_size, {rows, tokens});
}

// The logits of each position, the tokens having come in parts of these lengths.
Tensor in_parts(GPT& model, const Tensor& ids, const std::vector<int64_t>& parts) {
  KVCache cache(ids.size(0), ids.size(1));
  std::vector<int64_t> sequences(size_t(ids.size(0)));
  std::iota(sequences.begin(), sequences.end(), int64_t(0));
  std::vector<Tensor> logits;
  int64_t done = 0;
  for (const int64_t part : parts) {
    logits.push_back(cache.extend(model, ids.narrow(1, done, part), sequences));
    done += part;
  }
  REQUIRE(done == ids.size(1));
  return cat(logits, 1);
}

// A few tokens at first, then one at a time, and a few at once again.
std::vector<int64_t> parts_of(int64_t tokens) {
  std::vector<int64_t> parts;
  for (int64_t left = tokens, i = 0; left > 0; ++i) {
    parts.push_back(std::min(left, i == 0 ? tokens / 3 + 1 : i % 7 == 3 ? int64_t(5) : int64_t(1)));
    left -= parts.back();
  }
  return parts;
}

// The largest difference, as a share of the largest logit where that is above 1.
double distance(const Tensor& a, const Tensor& b) {
  const auto largest = [](const Tensor& x) { return max(abs(x)).item<double>(); };
  const Tensor x = a.to(DType::f64), y = b.to(DType::f64);
  return largest(x - y) / std::max(1.0, largest(y));
}
// On a CPU with the packed kernels: the same bits.
void check_same(const Tensor& with, const Tensor& without) {
  if (device().is_cpu() && !cpu::sums_follow_sizes<float>()) {
    CHECK(same_bits(with, without));
  } else {
    CHECK(distance(with, without) <= 1e-5);
  }
}

}  // namespace

TEST_CASE("logits with a cache are those without, whatever the sizes", "[kv_cache]") {
  manual_seed(41);
  struct Sizes {
    int64_t layers, heads, channels, vocabulary, rows, tokens;
  };
  for (const auto& [layers, heads, channels, vocabulary, rows, tokens] :
       {Sizes{2, 2, 16, 11, 1, 20}, Sizes{1, 3, 15, 7, 3, 70}, Sizes{2, 1, 72, 50, 2, 33},
        Sizes{1, 4, 128, 37, 5, 40}, Sizes{1, 2, 200, 19, 7, 12}, Sizes{1, 1, 402, 23, 2, 9},
        Sizes{1, 2, 16, 11, 1, 450}}) {
    CAPTURE(heads, channels, rows, tokens);
    GPT model = on_device(GPT({.n_layer = layers,
                               .n_head = heads,
                               .n_embd = channels,
                               .block_size = tokens,
                               .vocab_size = vocabulary}));
    randomize(model);
    const Tensor ids = random_ids(model, rows, tokens);
    check_same(in_parts(model, ids, parts_of(tokens)), model(ids));
    check_same(in_parts(model, ids, std::vector<int64_t>(size_t(tokens), 1)), model(ids));
    model.to(DType::f64);
    CHECK(distance(in_parts(model, ids, parts_of(tokens)), model(ids)) <= 1e-12);
  }
}

TEST_CASE("a row of a batch has the logits that it has alone, at any place and length", "[kv_cache]") {
  manual_seed(42);
  GPT model = on_device(GPT({.n_layer = 2, .n_head = 2, .n_embd = 48, .block_size = 60, .vocab_size = 29}));
  randomize(model);
  const Tensor ids = random_ids(model, 3, 50);
  const auto row = [&](int64_t r, int64_t first, int64_t tokens) {
    return ids.narrow(0, r, 1).narrow(1, first, tokens);
  };
  KVCache cache(4, 60);
  cache.extend(model, row(0, 0, 40), std::vector<int64_t>{2});
  cache.extend(model, row(1, 0, 7), std::vector<int64_t>{0});
  cache.extend(model, row(2, 0, 31), std::vector<int64_t>{3});
  for (int64_t t = 0; t < 10; ++t) {
    const Tensor next = cat({row(2, 31 + t, 1), row(0, 40 + t, 1), row(1, 7 + t, 1)}, 0);
    const Tensor logits = cache.extend(model, next, std::vector<int64_t>{3, 2, 0});
    check_same(logits.narrow(0, 0, 1), model(row(2, 0, 32 + t)).narrow(1, 31 + t, 1));
    check_same(logits.narrow(0, 1, 1), model(row(0, 0, 41 + t)).narrow(1, 40 + t, 1));
    check_same(logits.narrow(0, 2, 1), model(row(1, 0, 8 + t)).narrow(1, 7 + t, 1));
  }
  CHECK(cache.length(3) == 41);
  cache.clear(3);
  check_same(cache.extend(model, row(1, 0, 9), std::vector<int64_t>{3}), model(row(1, 0, 9)));
}

TEST_CASE("a quantized model has the same logits with a cache, in eval mode", "[kv_cache]") {
  manual_seed(43);
  for (const bool inputs : {false, true}) {
    GPT model = on_device(GPT({.n_layer = 2, .n_head = 2, .n_embd = 40, .block_size = 40, .vocab_size = 29}));
    randomize(model);
    fp8::QuantizeOptions options;
    if (inputs) options.input_format = fp8::E5M2;
    fp8::quantize_model(model, fp8::E4M3, options);
    const Tensor ids = random_ids(model, 2, 35);
    model(ids);  // gives histories, which scales come from in eval mode
    model.eval();
    check_same(in_parts(model, ids, parts_of(35)), model(ids));
  }
}

TEST_CASE("a cache refuses what it cannot hold, and is as it was", "[kv_cache]") {
  manual_seed(44);
  GPT model = on_device(GPT(small));
  CHECK(throws([] { KVCache(0, 8); }, {"KVCache", "0"}));
  CHECK(throws([] { KVCache(1, 0); }, {"KVCache", "0"}));
  KVCache cache(2, 6);
  const std::vector<int64_t> first{0}, both{0, 1};
  const Tensor four = random_ids(model, 1, 4);
  cache.extend(model, four, first);
  CHECK(throws([&] { cache.extend(model, random_ids(model, 1, 3), first); }, {"KVCache", "3", "4", "6"}));
  CHECK(throws([&] { cache.extend(model, four, both); }, {"KVCache", "(1, 4)"}));
  CHECK(throws([&] { cache.extend(model, random_ids(model, 2, 1), std::vector<int64_t>{1, 1}); }, {"twice"}));
  CHECK(throws([&] { cache.extend(model, four, std::vector<int64_t>{2}); }, {"sequence 2"}));
  if (device().is_cpu())  // a GPU tells of such an id where the host next waits
    CHECK(throws([&] { cache.extend(model, here::from({99}, {1, 1}), first); }, {"99"}));
  CHECK(throws([&] { cache.attend(here::zeros({2, 3, 4}), 1); }, {"(2, 3, 4)"}));
  CHECK(cache.length(0) == 4);
  CHECK(cache.length(1) == 0);
  CHECK(KVCache::current() == nullptr);
  const Tensor next = random_ids(model, 1, 1);
  check_same(cache.extend(model, next, first), model(cat({four, next}, 1)).narrow(1, 4, 1));
  GPT other = on_device(GPT({.n_layer = 1, .n_head = 1, .n_embd = 16, .block_size = 8, .vocab_size = 11}));
  CHECK(throws([&] { cache.extend(other, next, first); }, {"KVCache", "heads"}));
}
