// Models that had surgery train, load and move as those that had none, a class that the library has never seen too.
#include "catch.h"
#include "surgery_nets.h"

#include <altgrad/autograd/ops.h>
#include <altgrad/nn/optim.h>

using namespace altgrad;
using namespace altgrad::fp8;

namespace {

// A class of a user's own, with a Linear as a typed member and another in a list.
struct Gate final : nn::ModuleOf<Gate, nn::Layer> {
  nn::Slot<nn::Layer> value, gate;
  nn::Slot<nn::Sequential> tail;
  Tensor shift = Tensor::zeros({4}).requires_grad(true);
  Gate()
      : value(nn::Linear(4, 8)), gate(nn::Linear(4, 8)), tail(nn::Sequential(nn::Linear(8, 4), nn::Tanh())) {}
  Tensor forward(const Tensor& x) override { return tail(value(x + shift) * sigmoid(gate(x))); }
  void visit(nn::Visitor& v) override {
    v("value", value), v("gate", gate), v("tail", tail), v("shift", shift);
  }
};

}  // namespace

TEST_CASE("a user's own module class, never seen by the library, is quantized and trained", "[fp8]") {
  manual_seed(12);
  Gate model;
  model.to(device());
  const Snapshot before(model);
  REQUIRE(quantize_model(model, E4M3, {.input_format = E4M3, .grad_format = E5M2}).replaced ==
          Names{"value", "gate", "tail.0"});
  REQUIRE(Snapshot(model).same_parameters(before));

  const Tensor x = here::randn({32, 4}), target = tanh(x * 0.7 - 0.1);
  optim::AdamW opt(model.parameters(), {.lr = 2e-2});
  double first = 0, last = 0;
  for (int step = 0; step < 150; ++step) {
    Tape tape;
    const Tensor loss = mse_loss(model(x), target);
    tape.backward(loss);
    if (step == 0) {
      for (auto& [name, p] : model.named_parameters()) {
        INFO(name);
        REQUIRE(p.has_grad());
      }
    }
    opt.step();
    opt.zero_grad();
    (step == 0 ? first : last) = loss.item<double>();
  }
  REQUIRE(last < first / 4);
  REQUIRE(dynamic_cast<QuantizedLinear&>(*model.value).grad_history().recorded() == 150);
}

TEST_CASE("a training run after surgery lowers the loss", "[fp8]") {
  for (const char* name : {"E4M3", "E5M2", "E3M4"}) {
    manual_seed(7);
    nn::Sequential net = on_device(nn::Sequential(nn::Linear(8, 32), nn::Tanh(), nn::Linear(32, 3)));
    const Tensor x = here::randn({64, 8}), target = net(x).detach() * 2.0 + 0.3;
    quantize_model(net, format(name));
    optim::AdamW opt(net.parameters(), {.lr = 1e-2});
    double first = 0, last = 0;
    for (int step = 0; step < 100; ++step) {
      Tape tape;
      const Tensor loss = mse_loss(net(x), target);
      tape.backward(loss);
      opt.step();
      opt.zero_grad();
      (step == 0 ? first : last) = loss.item<double>();
    }
    INFO(name << ": " << first << " -> " << last);
    REQUIRE(last < first / 4);
  }
}

TEST_CASE("an optimizer made before surgery trains the model after it", "[fp8]") {
  nn::Sequential net = on_device(small_net());
  optim::SGD opt(net.parameters(), {.lr = 0.1});
  quantize_model(net, E4M3);
  const Snapshot before(net);
  Tape tape;
  tape.backward(sum(net(here::randn({4, 10}))));
  opt.step();
  for (auto& [name, p] : net.named_parameters()) REQUIRE_FALSE(same_bits(p, before.values.at(name)));
}

TEST_CASE("checkpoints load before and after surgery, either way", "[fp8]") {
  const Tensor x = here::randn({3, 10});
  nn::Sequential plain = on_device(small_net()), quantized = on_device(small_net());
  quantize_model(quantized, E4M3);
  quantized(x);

  quantized.load_state_dict(plain.state_dict());
  REQUIRE(same_bits(quantized.parameter("2.weight"), plain.parameter("2.weight")));
  REQUIRE(dynamic_cast<QuantizedLinear&>(quantized.module("0")).input_history().size() == 0);

  quantized.parameter("0.weight").fill_(0.5);
  plain.load_state_dict(quantized.state_dict());
  REQUIRE(values<float>(plain.parameter("0.weight"))[7] == 0.5f);
}

TEST_CASE("a quantized model can be moved to f64 and still runs", "[fp8]") {
  nn::Sequential net = on_device(small_net());
  quantize_model(net, E4M3, {.input_format = E4M3});
  net(here::randn({3, 10}));
  net.to(DType::f64);
  REQUIRE(net(here::randn({3, 10}, {.dtype = DType::f64})).dtype() == DType::f64);
  REQUIRE(dynamic_cast<QuantizedLinear&>(net.module("0")).weight_history().size() == 2);
}
