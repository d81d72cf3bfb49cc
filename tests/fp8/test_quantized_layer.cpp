// What QuantizedLinear is and keeps: the wrapped Linear, histories, modes, copies, what it saves and refuses.
#include <altgrad/fp8/quantized_linear.h>
#include <altgrad/nn/containers.h>
#include <altgrad/nn/optim.h>
#include <altgrad/nn/surgery.h>

#include "allocations.h"
#include "catch.h"
#include "errors.h"
#include "fp8_reference.h"

using namespace altgrad;
using namespace altgrad::fp8;
using reference::largest;
using Case = reference::LinearCase;

namespace {

bool changes_histories(QuantizedLinear& layer, const Tensor& x) {
  StateDict before;
  for (auto& [name, buffer] : layer.named_buffers()) before[name] = buffer.clone();
  layer(x);
  for (auto& [name, buffer] : layer.named_buffers()) {
    if (!same_bits(buffer, before[name])) return true;
  }
  return false;
}

}  // namespace

TEST_CASE("amax histories fill", "[fp8]") {
  const Case c(DType::f32);
  auto layer = QuantizedLinear::from_linear(c.linear, E4M3, {.history_length = 3});
  REQUIRE(layer.weight_history().size() == 0);
  REQUIRE(layer.input_history().size() == 0);
  for (int step = 1; step <= 5; ++step) {
    c.run(layer);
    REQUIRE(layer.weight_history().size() == std::min(step, 3));
    REQUIRE(layer.input_history().size() == std::min(step, 3));
    REQUIRE(layer.input_history().recorded() == step);
  }
  REQUIRE(layer.weight_history().amax() == float(largest(values(layer.weight()))));
  REQUIRE(layer.input_history().amax() == float(largest(values(c.x))));
  REQUIRE(layer.grad_history().size() == 0);  // no grad format
}

TEST_CASE("weight and bias expose the underlying tensors", "[fp8]") {
  const auto linear = std::make_shared<nn::Linear>(on_device(nn::Linear(8, 4)));
  const auto layer = QuantizedLinear::from_linear(linear, E4M3);
  REQUIRE(&layer.linear() == linear.get());
  REQUIRE(layer.weight().is(linear->weight()));
  REQUIRE(layer.bias()->is(*linear->bias()));
  REQUIRE(layer.parameter("weight").is(linear->weight()));
  REQUIRE(layer.named_parameters().size() == 2);
}

TEST_CASE("delayed scaling saturates a grown input and its clipped gradient is zero there", "[fp8]") {
  for (Ste ste : {Ste::identity, Ste::clipped}) {
    const auto linear = std::make_shared<nn::Linear>(here::from({1.f, 1.f}, {1, 2}).requires_grad(true));
    auto layer = QuantizedLinear::from_linear(
        linear, E4M3, {.input_format = E4M3, .scaling = Scaling::delayed, .ste = ste});
    layer(here::from({1.f, 0.5f}, {1, 2}));
    const Tensor x = here::from({4.f, 0.5f}, {1, 2}).requires_grad(true);
    Tape tape;
    const Tensor y = layer(x);
    REQUIRE(y.item<float>() == Approx(1.5).epsilon(2e-7));  // 4 became 1, but for the last bits of the scales
    tape.backward(y);
    REQUIRE(values<float>(x.grad())[0] == (ste == Ste::clipped ? 0 : 1));
    REQUIRE(values<float>(x.grad())[1] == 1);
    REQUIRE(layer.input_history().clipped() == 1);
    REQUIRE(layer.weight_history().clipped() == 0);
  }
}

TEST_CASE("in eval mode nothing changes and inputs need no history", "[fp8]") {
  const Case c(DType::f32);
  for (Scaling scaling : {Scaling::window, Scaling::delayed, Scaling::current}) {
    auto layer = QuantizedLinear::from_linear(
        c.linear, E4M3, {.input_format = E4M3, .grad_format = E5M2, .scaling = scaling});
    layer.eval();
    REQUIRE_FALSE(changes_histories(layer, c.x));
    c.run(layer);
    REQUIRE(layer.grad_history().recorded() == 0);
    layer.train();
    REQUIRE(changes_histories(layer, c.x));
    layer.eval();
    REQUIRE_FALSE(changes_histories(layer, c.x * 100.0));
  }
}

TEST_CASE("eval uses the scale that training left", "[fp8]") {
  const auto linear = std::make_shared<nn::Linear>(here::from({1.f}, {1, 1}));
  auto layer = QuantizedLinear::from_linear(linear, E4M3, {.input_format = float4_e2m1fn});
  layer(here::from({6.f}, {1, 1}));
  layer.eval();
  REQUIRE(layer(here::from({1.2f}, {1, 1})).item<float>() == 1);  // on the grid of scale 1
  REQUIRE(layer(here::from({100.f}, {1, 1})).item<float>() == Approx(6).epsilon(2e-7));  // saturated
}

TEST_CASE("how a run rounds changes neither its batches nor its dropout masks", "[fp8]") {
  const auto drawn = [](Rounding rounding) {
    manual_seed(5);
    const auto quantized = [&](int64_t in, int64_t out) {
      return QuantizedLinear::from_linear(on_device(nn::Linear(in, out)), E4M3,
                                          {.input_format = E4M3, .grad_format = E5M2, .rounding = rounding});
    };
    nn::Sequential net(quantized(6, 8), nn::GELU(), quantized(8, 6));
    optim::AdamW optimizer(net.parameters(), {.lr = 1e-2});
    std::vector<float> seen, losses;
    for (int step = 0; step < 50; ++step) {
      const Tensor ids = here::randint(100, {4}), x = here::randn({4, 6});
      Tape tape;
      const Tensor mask = dropout(here::ones({4, 6}), 0.5), loss = mse_loss(net(x * mask) * mask, x);
      tape.backward(loss);
      optimizer.step(), optimizer.zero_grad();
      encode(x, E4M3, 1, {.rounding = rounding}), quantize(x, E5M2, 1, {.rounding = rounding});
      for (const Tensor& t : {ids.to(DType::f32), x, mask}) {
        const std::vector<float> drawn_now = values<float>(t);
        seen.insert(seen.end(), drawn_now.begin(), drawn_now.end());
      }
      losses.push_back(loss.item<float>());
    }
    return std::pair(seen, losses);
  };
  const auto nearest = drawn(Rounding::nearest_even), stochastic = drawn(Rounding::stochastic);
  REQUIRE(nearest.first == stochastic.first);
  REQUIRE(nearest.second != stochastic.second);
  REQUIRE(drawn(Rounding::stochastic) == stochastic);  // manual_seed is for both generators
}

TEST_CASE("a non-finite input poisons its own step but no later one", "[fp8]") {
  const Case c(DType::f32);
  auto layer = QuantizedLinear::from_linear(c.linear, E4M3, {.input_format = E4M3});
  const Tensor before = layer(c.x);
  const Tensor bad = host(c.x).detach().clone();
  bad.data<float>()[3] = std::nanf("");
  REQUIRE(std::isnan(values<float>(layer(on_device(bad)))[0]));
  REQUIRE(same_bits(layer(c.x), before));
  REQUIRE(layer.input_history().non_finite() == 1);
  REQUIRE(layer.input_history().size() == 2);
}

TEST_CASE("backward runs after the layer is gone", "[fp8]") {
  const Case c;
  auto layer =
      std::make_unique<QuantizedLinear>(QuantizedLinear::from_linear(c.linear, E4M3, {.grad_format = E5M2}));
  const AmaxHistory grads = layer->grad_history();
  Tape tape;
  const Tensor y = (*layer)(c.x);
  layer.reset();
  tape.backward(y, c.dy);
  REQUIRE(grads.size() == 1);
  REQUIRE(c.linear->weight().has_grad());
}

TEST_CASE("quantized_linear names itself and the shapes in its errors, and records nothing", "[fp8]") {
  auto layer = QuantizedLinear::from_linear(on_device(nn::Linear(48, 64)), E4M3);
  REQUIRE(throws(
      [&] {
        layer(here::ones({8, 32}));
      },
      {"quantized_linear", "(8, 32)", "(64, 48)", "32 vs 48"}));
  REQUIRE(throws([&] { layer(here::ones({})); }, {"quantized_linear", "()"}));
  REQUIRE(throws(
      [&] {
        layer(here::ones({8, 48}, {.dtype = DType::f64}));
      },
      {"quantized_linear", "f64", "f32"}));
  REQUIRE(throws([&] { layer(here::zeros({8, 48}, {.dtype = DType::i64})); }, {"quantized_linear", "i64"}));
  REQUIRE(layer.input_history().recorded() == 0);
  REQUIRE(layer.weight_history().recorded() == 0);
}

TEST_CASE("from_linear refuses what cannot make a layer", "[fp8]") {
  const nn::Linear linear(4, 4);
  REQUIRE(throws([&] { QuantizedLinear::from_linear(std::shared_ptr<nn::Linear>(), E4M3); }, {"null"}));
  REQUIRE(throws([&] { QuantizedLinear::from_linear(linear, E4M3, {.history_length = 0}); },
                 {"history_length 0"}));
  REQUIRE(throws([&] { QuantizedLinear::from_linear(linear, E4M3, {.skip_patterns = {"x"}}); },
                 {"skip_patterns"}));
  const Format nonsense{.exponent_bits = 40, .mantissa_bits = 3, .bias = 0, .name = "nonsense"};
  REQUIRE(throws([&] { QuantizedLinear::from_linear(linear, nonsense); }, {"nonsense"}));
  REQUIRE(
      throws([&] { QuantizedLinear::from_linear(linear, E4M3, {.input_format = nonsense}); }, {"nonsense"}));
}

TEST_CASE("extra_repr says sizes, formats and what is not the default", "[fp8]") {
  const nn::Linear linear(64, 192);
  REQUIRE(QuantizedLinear::from_linear(linear, E5M2).extra_repr() ==
          "in_features=64, out_features=192, format=E5M2, quantize_input=false");
  REQUIRE(QuantizedLinear::from_linear(
              linear, E4M3, {.input_format = E3M4, .grad_format = E5M2, .scaling = Scaling::delayed})
              .extra_repr() ==
          "in_features=64, out_features=192, format=E4M3, quantize_input=true, input_format=E3M4, "
          "grad_format=E5M2, "
          "scaling=delayed");
}

TEST_CASE("a copy of a layer has its own Linear on the same tensors, a clone its own tensors", "[fp8]") {
  const Case c(DType::f32);
  auto layer = QuantizedLinear::from_linear(c.linear, E4M3);
  layer(c.x);
  const QuantizedLinear copy = layer;
  REQUIRE(&copy.linear() != &layer.linear());
  REQUIRE(copy.weight().is(layer.weight()));

  QuantizedLinear clone = nn::clone(layer);
  REQUIRE_FALSE(clone.weight().is(layer.weight()));
  REQUIRE(same_bits(clone.weight(), layer.weight()));
  REQUIRE(clone.weight_history().amax() == layer.weight_history().amax());
  clone(c.x);
  REQUIRE(clone.weight_history().recorded() == 2);
  REQUIRE(layer.weight_history().recorded() == 1);
  REQUIRE(&layer.linear() == c.linear.get());
  REQUIRE(layer.weight().is(c.linear->weight()));
}

TEST_CASE("histories are saved and restored with the model", "[fp8]") {
  manual_seed(2);
  auto layer = QuantizedLinear::from_linear(on_device(nn::Linear(5, 3)), E4M3,
                                            {.input_format = E4M3, .history_length = 4});
  for (int i = 0; i < 6; ++i) layer(here::randn({2, 5}) * double(6 - i));
  StateDict saved;
  for (auto& [name, tensor] : layer.state_dict()) saved[name] = tensor.clone();
  auto restored = QuantizedLinear::from_linear(on_device(nn::Linear(5, 3)), E4M3,
                                               {.input_format = E4M3, .history_length = 4});
  restored.load_state_dict(saved);
  REQUIRE(restored.input_history().recorded() == 6);
  REQUIRE(restored.input_history().amax() == layer.input_history().amax());
  const Tensor x = here::randn({2, 5}) * 0.1;
  REQUIRE(same_bits(restored(x), layer(x)));
  REQUIRE(same_bits(restored(x * 3.0), layer(x * 3.0)));
}

TEST_CASE("a quantized step allocates nothing after the third", "[fp8]") {
  const Case c(DType::f32);
  for (const Rounding rounding : {Rounding::nearest_even, Rounding::stochastic}) {
    auto layer = QuantizedLinear::from_linear(c.linear, E4M3,
                                              {.input_format = E4M3,
                                               .grad_format = E5M2,
                                               .scaling = Scaling::delayed,
                                               .rounding = rounding,
                                               .ste = Ste::clipped});
    const auto step = [&] {
      c.run(layer);
      for (const Tensor& t : {c.x, layer.weight(), *layer.bias()}) t.set_grad({});
    };
    for (int i = 0; i < 3; ++i) step();
    const int64_t heap = heap_allocations(), system = memory_stats(device()).system_allocations;
    for (int i = 0; i < 5; ++i) step();
    if (device().is_cpu()) CHECK(heap_allocations() == heap);  // a simulated device makes some of its own
    CHECK(memory_stats(device()).system_allocations == system);
  }
}
