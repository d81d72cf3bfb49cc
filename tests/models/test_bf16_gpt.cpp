// A GPT with activations of bf16 and parameters of f32, on a GPU: it trains as one in f32, also quantized.
#include <altgrad/altgrad.h>

#include <cmath>

#include "errors.h"
#include "values.h"

using namespace altgrad;

namespace {

constexpr auto no_gpu = "bf16 computes on a GPU only";
constexpr int64_t vocabulary = 29, length = 16, batch = 4;

models::GPT gpt(std::optional<DType> activations, double dropout = 0) {
  manual_seed(5);
  return on_device(models::GPT({.n_layer = 2,
                                .n_head = 2,
                                .n_embd = 32,
                                .block_size = length,
                                .vocab_size = vocabulary,
                                .dropout = dropout,
                                .activations = activations}));
}

// The losses of steps on the same text, each token of which follows from the one before.
std::vector<double> losses(models::GPT& model, int steps) {
  const Tensor x = Tensor::empty({batch, length}, {.dtype = DType::i64}), y = x.copied();
  for (int64_t i = 0; i < x.numel(); ++i) {
    x.ptr<int64_t>()[i] = 7 * i % vocabulary;
    y.ptr<int64_t>()[i] = 7 * (i + 1) % vocabulary;
  }
  optim::AdamW optimizer(model.parameters(), {.lr = 1e-3});
  std::vector<double> all;
  for (int step = 0; step < steps; ++step) {
    Tape tape;
    const Tensor loss = model.loss(on_device(x), on_device(y));
    CHECK(loss.dtype() == DType::f32);
    tape.backward(loss);
    for (const Tensor& p : model.parameters()) {
      CHECK(p.dtype() == DType::f32);
      CHECK(p.grad().dtype() == DType::f32);
    }
    optimizer.step();
    optimizer.zero_grad();
    all.push_back(loss.item<double>());
  }
  return all;
}

}  // namespace

TEST_CASE("a GPT in bf16 has the losses of one in f32", "[bf16]") {
  if (device().is_cpu()) SKIP_TEST(no_gpu);
  models::GPT narrow = gpt(DType::bf16), wide = gpt({});
  const std::vector<double> there = losses(wide, 20), here = losses(narrow, 20);
  for (size_t step = 0; step < here.size(); ++step) {
    CAPTURE(step, here[step], there[step]);
    std::printf("%zu %.6f %.6f %.2e\n", step, here[step], there[step], here[step] - there[step]);
    CHECK(std::abs(here[step] - there[step]) < 0.1);
  }
}
