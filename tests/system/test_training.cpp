// What a training step promises as a whole: no allocation after warm-up, memory freed during backward, no
// growth, the same bits for the same seed, nearly the same for another number of threads.
#include <altgrad/altgrad.h>

#include "allocations.h"
#include "catch.h"
#include "device.h"
#include "thread_count.h"

#include <cmath>
#include <cstdlib>

using namespace altgrad;

namespace {

// A simulated one takes its time.
bool slow_device() { return !device().is_cpu() && !std::getenv("ALTGRAD_TEST_GPU"); }

struct Trainer {
  models::GPT model;
  optim::AdamW optimizer;
  std::vector<Tensor> params = model.parameters();

  explicit Trainer(bool quantized, double dropout = 0)
      : model(on_device(models::GPT({.n_layer = 2,
                                     .n_head = 2,
                                     .n_embd = 32,
                                     .block_size = 16,
                                     .vocab_size = 50,
                                     .dropout = dropout}))),
        optimizer(model.parameters(), {.lr = 1e-3}) {
    if (quantized) {
      fp8::quantize_model(
          model, fp8::E4M3,
          {.skip_patterns = {"lm_head"}, .input_format = fp8::E4M3, .grad_format = fp8::E5M2});
    }
  }

  double step() {
    const Tensor x = here::randint(50, {4, 16}), y = here::randint(50, {4, 16});
    Tape tape;
    const Tensor loss = model.loss(x, y);
    tape.backward(loss);
    nn::clip_grad_norm(params, 1.0);
    optimizer.step();
    optimizer.zero_grad();
    return loss.item<double>();
  }
};

std::vector<double> losses(int steps, int threads, bool quantized, double dropout = 0) {
  const ThreadCount count(threads);
  manual_seed(5);
  Trainer trainer(quantized, dropout);
  std::vector<double> result;
  for (int i = 0; i < steps; ++i) result.push_back(trainer.step());
  return result;
}

// Hands x through and notes, in backward, the memory in use.
struct Probe final : Op {
  static constexpr const char* name = "probe";
  int64_t* in_use = nullptr;
  Tensor forward(const Tensor& x, int64_t* at) {
    in_use = at;
    return x.detach();
  }
  void backward(const Tensor& dy, Grads& d) override {
    *in_use = memory_stats(device()).in_use;
    d.add(0, dy);
  }
};

}  // namespace

TEST_CASE("a training step after the third allocates nothing", "[training]") {
  for (bool quantized : {false, true}) {
    INFO("quantized " << quantized);
    manual_seed(0);
    Trainer trainer(quantized, 0.1);
    for (int i = 0; i < 3; ++i) trainer.step();
    const int64_t heap = heap_allocations(), system = memory_stats(device()).system_allocations;
    for (int i = 0; i < 5; ++i) trainer.step();
    if (device().is_cpu()) CHECK(heap_allocations() - heap == 0);  // a simulated device makes some of its own
    CHECK(memory_stats(device()).system_allocations - system == 0);
  }
}

TEST_CASE("memory in use falls during backward", "[training]") {
  // A chain of ops that each keep their input: halfway back, half of what they kept must be gone.
  const Tensor leaf = here::ones({10000}).requires_grad(true);
  int64_t halfway = 0;
  Tape tape;
  Tensor y = leaf;
  for (int i = 0; i < 20; ++i) y = gelu(y) * y;
  y = apply<Probe>(y, &halfway);
  for (int i = 0; i < 20; ++i) y = gelu(y) * y;
  y = sum(y);
  const int64_t before = memory_stats(device()).in_use;
  tape.backward(y);
  CHECK(halfway < before - 20 * 40000);
  CHECK(memory_stats(device()).in_use < halfway);
}

TEST_CASE("ten thousand steps of a small model do not grow", "[training]") {
  manual_seed(0);
  nn::Sequential model = on_device(nn::Sequential(nn::Linear(8, 16), nn::GELU(), nn::Linear(16, 4)));
  optim::AdamW optimizer(model.parameters(), {.lr = 1e-3});
  auto step = [&] {
    const Tensor x = here::randn({8, 8});
    Tape tape;
    tape.backward(mse_loss(model(x), here::zeros({8, 4})));
    optimizer.step();
    optimizer.zero_grad();
  };
  for (int i = 0; i < 10; ++i) step();
  const MemoryStats start = memory_stats(device());
  const int64_t heap = heap_allocations();
  const int steps = slow_device() ? 1000 : 10000;
  for (int i = 0; i < steps; ++i) step();
  synchronize(device());
  CHECK(memory_stats(device()).in_use == start.in_use);
  CHECK(memory_stats(device()).cached == start.cached);
  CHECK(memory_stats(device()).system_allocations == start.system_allocations);
  if (device().is_cpu()) CHECK(heap_allocations() == heap);  // a simulated device makes some of its own
}

TEST_CASE("the same seed gives the same bits", "[training]") {
  const int steps = slow_device() ? 5 : 20;
  for (bool quantized : {false, true}) {
    for (const int threads : {2, 1})
      CHECK(losses(steps, threads, quantized, 0.1) == losses(steps, threads, quantized, 0.1));
  }
}

TEST_CASE("one thread and two give losses within 1e-5 over 50 steps", "[training]") {
  if (!device().is_cpu()) SKIP_TEST("threads are the CPU's");
  for (bool quantized : {false, true}) {
    const auto one = losses(50, 1, quantized), two = losses(50, 2, quantized);
    for (size_t i = 0; i < one.size(); ++i) {
      INFO("step " << i);
      CHECK(std::abs(one[i] - two[i]) <= 1e-5);
    }
  }
}
