// Training on the device of this run, against the CPU: the losses of whole runs, from one device to the other, and memory.
#include <altgrad/autograd/tape.h>
#include <altgrad/fp8/surgery.h>
#include <altgrad/models/gpt.h>
#include <altgrad/nn/checkpoint.h>
#include <altgrad/nn/clip_grad_norm.h>
#include <altgrad/nn/optim.h>

#include <algorithm>
#include <cmath>

#include "catch.h"
#include "device.h"
#include "temp_folder.h"
#include "values.h"

using namespace altgrad;

namespace {

models::GPT small_gpt(bool quantized) {
  manual_seed(12);
  models::GPT model(
      {.n_layer = 2, .n_head = 2, .n_embd = 32, .block_size = 16, .vocab_size = 23, .dropout = 0.1});
  if (quantized) {
    fp8::quantize_model(
        model, fp8::E4M3,
        {.input_format = fp8::E4M3, .grad_format = fp8::E5M2, .scaling = fp8::Scaling::delayed});
  }
  return model;
}

struct Training {
  models::GPT model;
  optim::AdamW optimizer;
  nn::TrainingState state;
  Shape batch = {2, 16};

  Training(models::GPT of, Device on) : model(std::move(of)), optimizer(model.parameters(), {.lr = 1e-3}) {
    model.to(on);
    state.generator = Generator(13).state();
  }
  std::vector<double> run(int steps) {
    default_generator().set_state(state.generator);
    const Device on = model.parameters().front().device();
    std::vector<double> losses;
    for (int step = 0; step < steps; ++step, ++state.step) {
      const Tensor x = Tensor::randint(23, batch).to(on), y = Tensor::randint(23, batch).to(on);
      Tape tape;
      const Tensor loss = model.loss(x, y);
      tape.backward(loss);
      nn::clip_grad_norm_(model.parameters(), 1.0);
      optimizer.step();
      optimizer.zero_grad();
      losses.push_back(loss.item<double>());
    }
    state.generator = default_generator().state();
    return losses;
  }
};

double largest_ratio(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] / b[i] - 1));
  return worst;
}

}  // namespace

// The last bit of a sum may carry a number over the middle between two of E4M3's, which are 6 % apart: so runs in 8
// bits part after some steps, as those of two CPUs do, and stay near each other.
TEST_CASE("100 steps of a small GPT have the CPU's losses", "[devices]") {
  for (const bool quantized : {false, true}) {
    CAPTURE(quantized);
    Training here(small_gpt(quantized), device()), there(small_gpt(quantized), Device::cpu());
    CHECK(largest_ratio(here.run(3), there.run(3)) < 1e-6);
    CHECK(largest_ratio(here.run(97), there.run(97)) < (quantized ? 5e-3 : 1e-5));
  }
}

TEST_CASE("a run goes on from its checkpoint on another device, and to the bit on its own", "[devices]") {
  const TempFolder folder;
  const std::string path = folder / "checkpoint";
  for (const auto& [from, to] : {std::pair(device(), Device::cpu()), std::pair(Device::cpu(), device())}) {
    Training saved(small_gpt(true), from), same(small_gpt(true), from), moved(small_gpt(true), to);
    saved.run(5);
    nn::save_checkpoint(path, saved.model, saved.optimizer, saved.state);
    same.state = nn::load_checkpoint(path, same.model, same.optimizer);
    moved.state = nn::load_checkpoint(path, moved.model, moved.optimizer);
    for (const auto& [name, t] : saved.model.state_dict()) {
      CAPTURE(name);
      CHECK(same_bits(moved.model.state_dict().at(name), t));
    }
    const std::vector<double> losses = saved.run(5);
    CHECK(same.run(5) == losses);
    CHECK(largest_ratio(moved.run(5), losses) < 1e-5);
  }
}

TEST_CASE("1,000 steps leave memory as it was", "[devices]") {
  Training training(models::GPT({.n_layer = 1, .n_head = 1, .n_embd = 4, .block_size = 4, .vocab_size = 23}),
                    device());
  training.batch = {1, 4};  // a step is what may grow, not its size
  training.run(3);
  const MemoryStats before = memory_stats(device());
  training.run(1000);
  const MemoryStats after = memory_stats(device());
  CHECK(after.in_use == before.in_use);
  CHECK(after.system_allocations == before.system_allocations);
}
