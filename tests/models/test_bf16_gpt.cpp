// A GPT with activations of bf16 and parameters of f32, on a GPU: it trains as one in f32, also quantized.
#include <altgrad/altgrad.h>

#include <cmath>

#include "errors.h"
#include "values.h"

using namespace altgrad;

namespace {

constexpr auto no_gpu = "bf16 computes on a GPU only";
constexpr int64_t vocabulary = 29, length = 16, batch = 4;

models::GPT gpt(std::optional<DType> activations, double dropout = 0, Gelu gelu = Gelu::erf) {
  manual_seed(5);
  return on_device(models::GPT({.n_layer = 2,
                                .n_head = 2,
                                .n_embd = 32,
                                .block_size = length,
                                .vocab_size = vocabulary,
                                .dropout = dropout,
                                .activations = activations,
                                .gelu = gelu}));
}

struct Step {
  double loss, largest_logit;
};

// Steps on the same text, each token of which follows from the one before.
std::vector<Step> train(models::GPT& model, int steps) {
  const Tensor x = Tensor::empty({batch, length}, {.dtype = DType::i64}), y = x.copied();
  for (int64_t i = 0; i < x.numel(); ++i) {
    x.ptr<int64_t>()[i] = 7 * i % vocabulary;
    y.ptr<int64_t>()[i] = 7 * (i + 1) % vocabulary;
  }
  optim::AdamW optimizer(model.parameters(), {.lr = 1e-3});
  std::vector<Step> all;
  for (int step = 0; step < steps; ++step) {
    Tape tape;
    const Tensor logits = model(on_device(x)), loss = cross_entropy(logits, on_device(y));
    CHECK(logits.dtype() == model.config().activations.value_or(DType::f32));
    CHECK(loss.dtype() == DType::f32);
    tape.backward(loss);
    int of_f32 = 0;
    for (const Tensor& p : model.parameters())
      of_f32 += p.dtype() == DType::f32 && p.grad().dtype() == DType::f32;
    CHECK(of_f32 == int(model.parameters().size()));
    optimizer.step();
    optimizer.zero_grad();
    double largest = 0;
    for (const double logit : values(logits)) largest = std::max(largest, std::abs(logit));
    all.push_back({loss.item<double>(), largest});
  }
  return all;
}

}  // namespace

// A loss moves by no more than twice what the logits do. These pass through roundings to bf16, of 2^-8 at most each: one
// of the embedding, 14 in a block (2 norms, 4 products and their weights, attention, gelu, 2 sums), 3 at the end. As
// errors that know nothing of each other, their squares add up; what the weights part by in a few steps is less.
TEST_CASE("a GPT in bf16 has the losses of one in f32, within the roundings on the way to its logits",
          "[bf16]") {
  if (device().is_cpu()) SKIP_TEST(no_gpu);
  for (const Gelu gelu : {Gelu::erf, Gelu::tanh}) {
    models::GPT narrow = gpt(DType::bf16, 0, gelu), wide = gpt({}, 0, gelu);
    constexpr double roundings = 1 + 2 * 14 + 3, u = 0x1p-8;
    const std::vector<Step> here = train(narrow, 20), there = train(wide, 20);
    for (size_t step = 0; step < here.size(); ++step) {
      CAPTURE(step, here[step].loss, there[step].loss);
      CHECK(std::abs(here[step].loss - there[step].loss) <
            2 * std::sqrt(roundings) * u * there[step].largest_logit);
    }
    CHECK(here.back().loss < here.front().loss - 0.2);
  }
}

TEST_CASE("a quantized GPT trains in bf16, with and without formats for inputs and gradients", "[bf16]") {
  if (device().is_cpu()) SKIP_TEST(no_gpu);
  const std::optional<fp8::Format> none;
  const fp8::QuantizeOptions all[] = {
      {.input_format = fp8::E4M3, .grad_format = fp8::E5M2},
      {.input_format = fp8::E4M3, .grad_format = none},
      {.input_format = none, .grad_format = none},
      {.input_format = fp8::E4M3, .grad_format = fp8::E5M2, .ste = fp8::Ste::clipped},
      {.skip_patterns = {"c_proj"}, .input_format = fp8::E4M3, .grad_format = fp8::E5M2}};
  for (const fp8::QuantizeOptions& options : all) {
    const Gelu gelu =
        options.skip_patterns.empty() ? Gelu::erf : Gelu::tanh;  // in part quantized: no op of the MLP's
    models::GPT model = gpt(DType::bf16, 0.1, gelu), wide = gpt({}, 0.1, gelu);
    fp8::quantize_model(model, fp8::E4M3, options);
    fp8::quantize_model(wide, fp8::E4M3, options);
    manual_seed(6);
    const std::vector<Step> here = train(model, 20);
    manual_seed(6);
    const std::vector<Step> there = train(wide, 20);
    CHECK(here.back().loss < here.front().loss - 0.2);
    CHECK(std::abs(here.back().loss - there.back().loss) < 5e-3 * there.back().loss);
  }
}

TEST_CASE("a checkpointed block in bf16 gives the bits of the block, with dropout and amax histories",
          "[bf16]") {
  if (device().is_cpu()) SKIP_TEST(no_gpu);
  for (const auto& [quantized, form] :
       {std::pair{false, Gelu::erf}, {false, Gelu::tanh}, {true, Gelu::erf}}) {
    std::vector<Tensor> plain;
    for (const bool recompute : {false, true}) {
      models::GPT model = gpt(DType::bf16, 0.1, form);
      if (quantized)
        fp8::quantize_model(model, fp8::E4M3, {.input_format = fp8::E4M3, .grad_format = fp8::E5M2});
      nn::Slot<nn::Layer>& block = (*model.transformer->h)[0];
      manual_seed(7);
      const Tensor x = here::randn({batch, length, 32}).to(DType::bf16).requires_grad(true);
      Tape tape;
      const Tensor y = recompute ? checkpoint([&](const Tensor& in) { return block(in); }, x) : block(x);
      tape.backward(y, y.detach());
      std::vector<Tensor> results = {y.detach(), x.grad()};
      for (const Tensor& p : block->parameters()) results.push_back(p.grad());
      if (plain.empty()) plain = results;
      for (size_t i = 0; i < results.size(); ++i) {
        CAPTURE(quantized, form == Gelu::erf, i);
        CHECK(same_bits(results[i], plain[i]));
      }
    }
  }
}

TEST_CASE("a GPT in bf16 generates tokens", "[bf16]") {
  if (device().is_cpu()) SKIP_TEST(no_gpu);
  models::GPT model = gpt(DType::bf16);
  const Tensor ids = model.generate(here::zeros({3}, {.dtype = DType::i64}), 5);
  CHECK(ids.shape() == Shape{8});
  for (const int64_t id : values<int64_t>(ids)) CHECK((id >= 0 && id < vocabulary));
}

TEST_CASE("a GPT in bf16 is refused on the CPU, where it computes, and activations of integers at once",
          "[bf16]") {
  manual_seed(5);
  models::GPT model({.n_layer = 1,
                     .n_head = 1,
                     .n_embd = 4,
                     .block_size = 4,
                     .vocab_size = 5,
                     .dropout = 0.5,
                     .activations = DType::bf16});
  const auto before = default_generator().state();
  CHECK(throws(
      [&] {
        model(Tensor::zeros({1, 2}, {.dtype = DType::i64}));
      },
      {"dropout: computes in bf16 on a GPU only"}));
  CHECK(default_generator().state() == before);
  CHECK(throws([] { models::GPT({.n_layer = 1, .n_head = 1, .n_embd = 4, .activations = DType::i64}); },
               {"GPT: activations must be of f32, f64 or bf16, got i64"}));
}
