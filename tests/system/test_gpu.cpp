// What takes a GPU to be tested, for the number of its numbers or steps: part of ./run.sh test-gpu alone.
#include <altgrad/autograd/tape.h>
#include <altgrad/core/parallel.h>
#include <altgrad/fp8/quantize.h>
#include <altgrad/fp8/surgery.h>
#include <altgrad/models/gpt.h>
#include <altgrad/nn/clip_grad_norm.h>
#include <altgrad/nn/optim.h>

#include <atomic>
#include <cmath>
#include <cstdlib>

#include "catch.h"
#include "values.h"

using namespace altgrad;

namespace {

bool asked_for() { return std::getenv("ALTGRAD_TEST_GPU") != nullptr; }
#define ON_A_GPU_ONLY \
  if (!asked_for()) SKIP_TEST("takes a GPU: ./run.sh test-gpu")

// n floats of random bits: of all magnitudes, Inf and NaN among them.
Tensor random_floats(int64_t n, RandomStream random) {
  const Tensor x = Tensor::empty({n});
  auto* const words = static_cast<uint32_t*>(x.raw());
  parallel_for(n / 4, 1 << 12, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto four = random.block(uint64_t(i));
      std::copy(four.begin(), four.end(), words + 4 * i);
    }
  });
  return x;
}

// How many elements of a and b, f32 on the CPU, differ, NaN being equal to NaN.
int64_t differences(const Tensor& a, const Tensor& b) {
  const float *const p = a.ptr<float>(), *const q = b.ptr<float>();
  std::atomic<int64_t> all = 0;
  parallel_for(a.numel(), 1 << 14, [&](int64_t begin, int64_t end) {
    int64_t own = 0;
    for (int64_t i = begin; i < end; ++i) {
      const bool same = std::bit_cast<uint32_t>(p[i]) == std::bit_cast<uint32_t>(q[i]);
      own += !same && (p[i] == p[i] || q[i] == q[i]);
    }
    all += own;
  });
  return all;
}

}  // namespace

TEST_CASE("100 million random floats are rounded to each format as on the CPU", "[gpu]") {
  ON_A_GPU_ONLY;
  constexpr int64_t n = 1 << 22, rounds = 24;
  Generator generator(7);
  const fp8::Rounding roundings[] = {fp8::Rounding::nearest_even, fp8::Rounding::toward_zero,
                                     fp8::Rounding::stochastic};
  const fp8::Overflow overflows[] = {fp8::Overflow::to_special, fp8::Overflow::saturate_finite,
                                     fp8::Overflow::saturate_all};
  for (int64_t i = 0; i < rounds; ++i) {
    const Tensor there = random_floats(n, generator.next()), here = there.to(Device::cuda());
    const fp8::CastOptions options{.rounding = roundings[i % 3], .overflow = overflows[i / 3 % 3]};
    const float scale = i % 2 ? 1.0f : 0.37f;
    for (const fp8::Format& f : fp8::formats()) {
      INFO(f.name << ", rounding " << int(options.rounding) << ", overflow " << int(options.overflow));
      manual_seed(uint64_t(i));
      const Tensor of_gpu = fp8::quantize(here, f, scale, options);
      manual_seed(uint64_t(i));
      CHECK(differences(host(of_gpu), fp8::quantize(there, f, scale, options)) == 0);
    }
  }
}

TEST_CASE("a small GPT in 8 bits takes 10,000 steps in memory that does not grow", "[gpu]") {
  ON_A_GPU_ONLY;
  manual_seed(1);
  models::GPT model(
      {.n_layer = 2, .n_head = 2, .n_embd = 64, .block_size = 32, .vocab_size = 64, .dropout = 0.1});
  model.to(Device::cuda());
  fp8::quantize_model(model, fp8::E4M3, {.grad_format = fp8::E5M2});
  const std::vector<Tensor> parameters = model.parameters();
  optim::AdamW opt(parameters, {.lr = 1e-3});
  // Each token follows from the one before.
  const Tensor ids = Tensor::randint(64, {8, 32}, Device::cpu());
  std::vector<int64_t> next;
  for (const int64_t id : ids.data<int64_t>()) next.push_back((7 * id + 3) % 64);
  const Tensor x = ids.to(Device::cuda()), y = Tensor::from(next, {8, 32}).to(Device::cuda());
  int64_t blocks = 0;
  double first = 0, last = 0;
  for (int step = 0; step < 10000; ++step) {
    Tape tape;
    const Tensor loss = model.loss(x, y);
    tape.backward(loss);
    nn::clip_grad_norm_(parameters, 1.0);
    opt.step();
    opt.zero_grad();
    if (step == 0) first = loss.item<double>();
    if (step == 9999) last = loss.item<double>();
    if (step == 10) blocks = memory_stats(Device::cuda()).system_allocations;
  }
  CHECK(memory_stats(Device::cuda()).system_allocations == blocks);
  CHECK(std::isfinite(last));
  CHECK(last < first / 10);
}
