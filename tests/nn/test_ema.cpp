// Averages of parameters: against plain loops, swapped in and out, carried on from a checkpoint, captured.
#include "allocations.h"
#include "catch.h"
#include "errors.h"
#include "parameters.h"
#include "temp_folder.h"

#include <altgrad/autograd/ops.h>
#include <altgrad/nn/checkpoint.h>
#include <altgrad/nn/containers.h>
#include <altgrad/nn/optim.h>

using namespace altgrad;
using optim_tests::Values;

namespace {

// A module of odd sizes, on the device of the test.
nn::Sequential net(DType dtype, uint64_t seed = 1) {
  manual_seed(seed);
  nn::Sequential module(nn::Linear(7, 5), nn::Tanh(), nn::Linear(5, 3));
  module.to(dtype);
  module.to(device());
  return module;
}

// All elements of a state, or of a module's, by name.
Values all_values(const StateDict& state) {
  Values all;
  for (const auto& [name, t] : state) {
    for (const double x : values(t)) all.push_back(x);
  }
  return all;
}
Values all_values(const nn::Module& module) { return all_values(module.state_dict()); }

// Other values, that a seed gives, as a step of an optimizer would.
void change(const nn::Module& module, uint64_t seed) {
  Generator generator(seed);
  for (const auto& [name, p] : module.named_parameters()) {
    p.detach().copy_(Tensor::randn(p.shape(), {.dtype = p.dtype()}, generator));
  }
}

}  // namespace

TEST_CASE("an average follows its parameters as the formula says", "[ema]") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    for (const double decay : {0.0, 0.5, 0.9, 0.999}) {
      CAPTURE(dtype, decay);
      nn::Sequential module = net(dtype);
      optim::Ema ema(module, decay);
      CHECK(ema.decay() == decay);
      Values expected = all_values(module);
      CHECK(all_values(ema.state_dict()) == expected);
      for (uint64_t step = 1; step <= 20; ++step) {
        change(module, step);
        ema.update();
        const Values now = all_values(module);
        for (size_t i = 0; i < now.size(); ++i) expected[i] = decay * expected[i] + (1 - decay) * now[i];
      }
      optim_tests::require_close(all_values(ema.state_dict()), expected, dtype == DType::f32 ? 1e-6 : 1e-15);
      CHECK(ema.state_dict().begin()->first == "0.bias");
      CHECK(ema.state_dict().size() == 4);
    }
  }
}

TEST_CASE("an average of values that do not change is these, whatever the decay", "[ema]") {
  nn::Sequential module = net(DType::f32);
  optim::Ema ema(module, 0.9999);
  const Values before = all_values(module);
  for (int step = 0; step < 1000; ++step) ema.update();
  CHECK(all_values(ema.state_dict()) == before);
}

TEST_CASE("a swap gives the module its averages, and another its parameters back", "[ema]") {
  nn::Sequential module = net(DType::f32);
  optim::Ema ema(module, 0.75);
  change(module, 1);
  ema.update();
  const Values own = all_values(module), averages = all_values(ema.state_dict());
  const Tensor weight = module.parameter("0.weight");
  ema.swap();
  CHECK(all_values(module) == averages);
  CHECK(all_values(ema.state_dict()) == own);
  CHECK(weight.is(module.parameter("0.weight")));
  CHECK(weight.requires_grad());
  ema.swap();
  CHECK(all_values(module) == own);
  CHECK(all_values(ema.state_dict()) == averages);
}

TEST_CASE("averages follow their parameters to another dtype", "[ema]") {
  nn::Sequential module = net(DType::f32);
  optim::Ema ema(module, 0.5);
  const Values before = all_values(module);
  module.to(DType::f64);
  change(module, 1);
  ema.update();
  Values expected = all_values(module);
  for (size_t i = 0; i < expected.size(); ++i) expected[i] = 0.5 * before[i] + 0.5 * expected[i];
  optim_tests::require_close(all_values(ema.state_dict()), expected, 1e-15);
  CHECK(ema.state_dict().at("0.weight").dtype() == DType::f64);
}

TEST_CASE("an update allocates nothing on the heap", "[ema]") {
  if (!device().is_cpu()) SKIP_TEST("a launch of the simulated device takes memory of the host");
  nn::Sequential module = net(DType::f32);
  optim::Ema ema(module, 0.5);
  ema.update();
  const int64_t before = heap_allocations();
  ema.update();
  CHECK(heap_allocations() == before);
}

TEST_CASE("a captured step has its average in it", "[ema]") {
  const auto train = [](bool captured) {
    nn::Sequential module = net(DType::f32);
    optim::SGD opt(module.parameters(), {.lr = 0.1});
    optim::Ema ema(module, 0.9);
    const auto body = [&](const Tensor& x) {
      Tape tape;
      const Tensor loss = sum(module(x) * module(x));
      tape.backward(loss);
      opt.step();
      opt.zero_grad();
      ema.update();
      return loss.detach();
    };
    optim::CapturedStep step(device(), body);
    for (uint64_t i = 0; i < 6; ++i) {
      Generator generator(i);
      const Tensor x = Tensor::randn({2, 7}, {}, generator).to(device());
      captured ? step(x) : body(x);
    }
    return all_values(ema.state_dict());
  };
  CHECK(train(true) == train(false));
}

TEST_CASE("a checkpoint holds averages as entries of their own", "[ema]") {
  const TempFolder folder;
  nn::Sequential module = net(DType::f32);
  optim::SGD opt(module.parameters(), {.lr = 0.1, .momentum = 0.5});
  optim::Ema ema(module, 0.75);
  change(module, 1);
  ema.update();
  nn::save_checkpoint(folder / "with", module, opt, {.step = 3}, &ema);
  nn::save_checkpoint(folder / "without", module, opt, {.step = 3});
  CHECK(load_safetensors(folder / "with").contains("ema.2.weight"));
  CHECK(!load_safetensors(folder / "without").contains("ema.2.weight"));

  nn::Sequential other = net(DType::f32, 2);
  optim::SGD other_opt(other.parameters(), {.lr = 0.1, .momentum = 0.5});
  optim::Ema other_ema(other, 0.75);
  const Values before = all_values(other), averages = all_values(other_ema.state_dict());
  CHECK(throws([&] { nn::load_checkpoint(folder / "without", other, other_opt, &other_ema); },
               {"Ema", "no \"0.bias\""}));
  CHECK(all_values(other) == before);
  CHECK(all_values(other_ema.state_dict()) == averages);
  CHECK(nn::load_checkpoint(folder / "with", other, other_opt, &other_ema).step == 3);
  CHECK(all_values(other) == all_values(module));
  CHECK(all_values(other_ema.state_dict()) == all_values(ema.state_dict()));
  nn::load_checkpoint(folder / "with", other, other_opt);  // averages need not be asked for
}

TEST_CASE("Ema says what it refuses, and has not changed then", "[ema]") {
  nn::Sequential module = net(DType::f32);
  for (const double decay : {-0.1, 1.0, 1.5, double(NAN), double(INFINITY)}) {
    CHECK(throws([&] { optim::Ema(module, decay); }, {"Ema: decay", "[0, 1)"}));
  }
  CHECK(throws([&] { optim::Ema(nn::Tanh(), 0.5); }, {"Ema", "no parameters"}));
  optim::Ema ema(module, 0.5);
  const Values before = all_values(ema.state_dict());
  StateDict good;
  for (const auto& [name, t] : ema.state_dict()) good[name] = Tensor::zeros(t.shape(), t.options());
  StateDict bad = good;
  std::string key = "2.bias";
  SECTION("missing") { bad.erase(key); }
  SECTION("unexpected") { bad[key = "3.bias"] = here::zeros({3}); }
  SECTION("another shape") { bad[key] = here::zeros({4}); }
  SECTION("another dtype") { bad[key] = here::zeros({3}, {.dtype = DType::f64}); }
  SECTION("undefined") { bad[key] = Tensor(); }
  CHECK(throws([&] { ema.load_state_dict(bad); }, {"Ema", key}));
  CHECK(all_values(ema.state_dict()) == before);
  ema.load_state_dict(good);
  CHECK(all_values(ema.state_dict()) == Values(before.size(), 0));

  const optim::Ema taken = std::move(ema);
  CHECK(throws([&] { ema.update(); }, {"Ema", "moved from"}));
}
