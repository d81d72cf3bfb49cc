// QuantizedLinear against plain loops in f64 over weights and inputs rounded by table lookup.
#include "catch.h"
#include "errors.h"
#include "fp8_reference.h"

#include <altgrad/fp8/surgery.h>
#include <altgrad/nn/containers.h>
#include <altgrad/nn/surgery.h>

using namespace altgrad;
using namespace altgrad::fp8;
using reference::same_bits;

namespace {

std::vector<double> doubles(const Tensor& t) {
  std::vector<double> values;
  if (t.dtype() == DType::f32) values.assign(t.data<float>().begin(), t.data<float>().end());
  if (t.dtype() == DType::f64) values.assign(t.data<double>().begin(), t.data<double>().end());
  return values;
}

double largest(const std::vector<double>& values) {
  double top = 0;
  for (double v : values) top = std::max(top, std::abs(v));
  return top;
}

// Each value rounded under the scale amax / max.
std::vector<double> rounded(std::vector<double> values, const Format& format) {
  const reference::Rounder round(format);
  const double scale = largest(values) / round.max();
  for (double& v : values) v = round(v / scale) * scale;
  return values;
}

// (m, k) (k, n), with strides
std::vector<double> product(const std::vector<double>& a, const std::vector<double>& b, int64_t m, int64_t n, int64_t k,
                            bool trans_a, bool trans_b) {
  std::vector<double> c(size_t(m * n));
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t l = 0; l < k; ++l) {
        c[size_t(i * n + j)] += a[size_t(trans_a ? l * m + i : i * k + l)] * b[size_t(trans_b ? j * k + l : l * n + j)];
      }
    }
  }
  return c;
}

void require_close(const Tensor& actual, const std::vector<double>& expected, double tolerance) {
  const std::vector<double> values = doubles(actual);
  REQUIRE(values.size() == expected.size());
  const double top = std::max(1e-30, largest(expected));
  for (size_t i = 0; i < values.size(); ++i) {
    if (!(std::abs(values[i] - expected[i]) <= tolerance * top)) {
      FAIL("element " << i << ": " << values[i] << ", expected " << expected[i]);
    }
  }
}

// A layer, an input and a cotangent of fixed values, dtype T.
struct Case {
  int64_t rows = 6, in = 10, out = 7;
  std::shared_ptr<nn::Linear> linear;
  Tensor x, dy;
  explicit Case(DType dtype = DType::f64, bool bias = true) {
    manual_seed(21);
    linear = std::make_shared<nn::Linear>(in, out, nn::LinearOptions{.bias = bias});
    linear->to(dtype);
    x = Tensor::randn({2, 3, in}, {.dtype = dtype}).requires_grad(true);
    dy = Tensor::randn({2, 3, out}, {.dtype = dtype});
  }
  // Forward and backward through a layer; gradients are left in x, weight and bias.
  Tensor run(QuantizedLinear& layer) const {
    Tape tape;
    const Tensor y = layer(x);
    tape.backward(y, dy);
    return y;
  }
};

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

TEST_CASE("quantized_linear forward produces quantized output", "[fp8]") {
  manual_seed(1);
  const auto linear = std::make_shared<nn::Linear>(64, 48);
  auto layer = QuantizedLinear::from_linear(linear, E4M3);
  const Tensor x = Tensor::randn({4, 9, 64});
  const Tensor y = layer(x), plain = (*linear)(x);
  REQUIRE(y.shape() == Shape{4, 9, 48});
  // A weight is off by at most 2^-4 of itself, or half the smallest step (2^-9) under the scale.
  const std::vector<double> w = doubles(linear->weight()), xs = doubles(x), a = doubles(y), b = doubles(plain);
  const double half_step = largest(w) / 448 * 0x1p-10;
  int64_t different = 0;
  for (int64_t r = 0; r < 36; ++r) {
    for (int64_t o = 0; o < 48; ++o) {
      double bound = 1e-6;
      for (int64_t i = 0; i < 64; ++i) {
        bound += std::abs(xs[r * 64 + i]) * std::max(std::abs(w[o * 64 + i]) * 0x1p-4, half_step);
      }
      REQUIRE(std::abs(a[r * 48 + o] - b[r * 48 + o]) <= bound);
      different += a[r * 48 + o] != b[r * 48 + o];
    }
  }
  REQUIRE(different > 36 * 48 / 2);
}

TEST_CASE("quantized_linear gradient flow to input, weight, bias", "[fp8]") {
  const Case c;
  auto layer = QuantizedLinear::from_linear(c.linear, E4M3);
  c.run(layer);
  const std::vector<double> w = rounded(doubles(layer.weight()), E4M3), x = doubles(c.x), dy = doubles(c.dy);
  require_close(c.x.grad(), product(dy, w, c.rows, c.in, c.out, false, false), 1e-6);
  require_close(layer.weight().grad(), product(dy, x, c.out, c.in, c.rows, true, false), 1e-12);
  require_close(layer.bias()->grad(), product(std::vector<double>(c.rows, 1), dy, 1, c.out, c.rows, false, false), 1e-12);
}

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
  REQUIRE(layer.weight_history().amax() == float(largest(doubles(layer.weight()))));
  REQUIRE(layer.input_history().amax() == float(largest(doubles(c.x))));
  REQUIRE(layer.grad_history().size() == 0);  // no grad format
}

TEST_CASE("weight and bias expose the underlying tensors", "[fp8]") {
  const auto linear = std::make_shared<nn::Linear>(8, 4);
  const auto layer = QuantizedLinear::from_linear(linear, E4M3);
  REQUIRE(&layer.linear() == linear.get());
  REQUIRE(layer.weight().is(linear->weight()));
  REQUIRE(layer.bias()->is(*linear->bias()));
  REQUIRE(layer.parameter("weight").is(linear->weight()));
  REQUIRE(layer.named_parameters().size() == 2);
}

TEST_CASE("bias is absent where the Linear has none", "[fp8]") {
  const Case c(DType::f64, false);
  auto layer = QuantizedLinear::from_linear(c.linear, E4M3);
  REQUIRE_FALSE(layer.bias().has_value());
  REQUIRE(layer.named_parameters().size() == 1);
  const Tensor y = c.run(layer);
  require_close(y, product(doubles(c.x), rounded(doubles(layer.weight()), E4M3), c.rows, c.out, c.in, false, true), 1e-6);
}

TEST_CASE("the layer's format is the one asked for", "[fp8]") {
  for (const Format& f : {E4M3, E5M2, E3M4, E2M5}) {
    const Case c(DType::f64, false);
    auto layer = QuantizedLinear::from_linear(c.linear, f);
    REQUIRE(layer.format().name == f.name);
    REQUIRE_FALSE(layer.input_format().has_value());
    require_close(layer(c.x), product(doubles(c.x), rounded(doubles(layer.weight()), f), c.rows, c.out, c.in, false, true),
                  1e-6);
  }
}

TEMPLATE_TEST_CASE("with all three formats dX = Q(dY) Q(W), dW = Q(dY)^T Q(X), db from dY", "[fp8]", float, double) {
  const Case c(dtype_of<TestType>);
  auto layer = QuantizedLinear::from_linear(c.linear, E4M3, {.input_format = E4M3, .grad_format = E5M2});
  const Tensor y = c.run(layer);
  const std::vector<double> w = rounded(doubles(layer.weight()), E4M3), x = rounded(doubles(c.x), E4M3),
                            dy = rounded(doubles(c.dy), E5M2), bias = doubles(*layer.bias());
  std::vector<double> expected = product(x, w, c.rows, c.out, c.in, false, true);
  for (size_t i = 0; i < expected.size(); ++i) expected[i] += bias[i % bias.size()];
  require_close(y, expected, 2e-6);
  require_close(c.x.grad(), product(dy, w, c.rows, c.in, c.out, false, false), 2e-6);
  require_close(layer.weight().grad(), product(dy, x, c.out, c.in, c.rows, true, false), 2e-6);
  require_close(layer.bias()->grad(), product(std::vector<double>(c.rows, 1), doubles(c.dy), 1, c.out, c.rows, false, false),
                2e-6);
  REQUIRE(layer.grad_history().size() == 1);
  REQUIRE(layer.grad_history().amax() == Approx(largest(doubles(c.dy))).epsilon(1e-6));
}

TEST_CASE("delayed scaling saturates a grown input and its clipped gradient is zero there", "[fp8]") {
  for (Ste ste : {Ste::identity, Ste::clipped}) {
    const auto linear = std::make_shared<nn::Linear>(Tensor::from({1.f, 1.f}, {1, 2}).requires_grad(true));
    auto layer = QuantizedLinear::from_linear(linear, E4M3,
                                              {.input_format = E4M3, .scaling = Scaling::delayed, .ste = ste});
    layer(Tensor::from({1.f, 0.5f}, {1, 2}));
    const Tensor x = Tensor::from({4.f, 0.5f}, {1, 2}).requires_grad(true);
    Tape tape;
    const Tensor y = layer(x);
    REQUIRE(y.item<float>() == 1.5f);  // 4 became 1
    tape.backward(y);
    REQUIRE(x.grad().data<float>()[0] == (ste == Ste::clipped ? 0 : 1));
    REQUIRE(x.grad().data<float>()[1] == 1);
    REQUIRE(layer.input_history().clipped() == 1);
    REQUIRE(layer.weight_history().clipped() == 0);
  }
}

TEST_CASE("window scaling never clips a gradient, whatever the amax", "[fp8]") {
  manual_seed(8);
  for (const Format& f : {E4M3, E5M2, E3M4, float4_e2m1fn}) {
    for (int i = 0; i < 200; ++i) {
      const auto linear = std::make_shared<nn::Linear>(1, 1, nn::LinearOptions{.bias = false});
      auto layer = QuantizedLinear::from_linear(linear, f, {.input_format = f, .ste = Ste::clipped});
      const Tensor x = Tensor::randn({1, 1}).requires_grad(true);
      Tape tape;
      tape.backward(layer(x));
      REQUIRE(x.grad().item<float>() != 0);
      REQUIRE(linear->weight().grad().item<float>() != 0);
    }
  }
}

TEST_CASE("stochastic rounding never leaves the range under window scaling", "[fp8]") {
  manual_seed(8);
  auto layer = QuantizedLinear::from_linear(nn::Linear(64, 64), E4M3, {.input_format = E4M3,
                                            .rounding = Rounding::stochastic, .overflow = Overflow::to_special});
  for (int i = 0; i < 50; ++i) {
    for (float v : layer(Tensor::randn({16, 64})).data<float>()) REQUIRE(std::isfinite(v));
  }
}

TEST_CASE("in eval mode nothing changes and inputs need no history", "[fp8]") {
  const Case c(DType::f32);
  for (Scaling scaling : {Scaling::window, Scaling::delayed, Scaling::current}) {
    auto layer = QuantizedLinear::from_linear(c.linear, E4M3,
                                              {.input_format = E4M3, .grad_format = E5M2, .scaling = scaling});
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
  const auto linear = std::make_shared<nn::Linear>(Tensor::from({1.f}, {1, 1}));
  auto layer = QuantizedLinear::from_linear(linear, E4M3, {.input_format = float4_e2m1fn});
  layer(Tensor::from({6.f}, {1, 1}));
  layer.eval();
  REQUIRE(layer(Tensor::from({1.2f}, {1, 1})).item<float>() == 1);    // on the grid of scale 1
  REQUIRE(layer(Tensor::from({100.f}, {1, 1})).item<float>() == 6);   // saturated
}

TEST_CASE("a non-finite input poisons its own step but no later one", "[fp8]") {
  const Case c(DType::f32);
  auto layer = QuantizedLinear::from_linear(c.linear, E4M3, {.input_format = E4M3});
  const Tensor before = layer(c.x);
  Tensor bad = c.x.detach().clone();
  bad.data<float>()[3] = std::nanf("");
  REQUIRE(std::isnan(layer(bad).data<float>()[0]));
  REQUIRE(same_bits(layer(c.x), before));
  REQUIRE(layer.input_history().non_finite() == 1);
  REQUIRE(layer.input_history().size() == 2);
}

TEST_CASE("a zero weight and a zero input are quantized to zero", "[fp8]") {
  const auto linear = std::make_shared<nn::Linear>(Tensor::zeros({3, 4}).requires_grad(true));
  auto layer = QuantizedLinear::from_linear(linear, E4M3, {.input_format = E4M3, .grad_format = E5M2});
  const Tensor x = Tensor::zeros({2, 4}).requires_grad(true);
  Tape tape;
  const Tensor y = layer(x);
  tape.backward(y, Tensor::zeros({2, 3}));
  for (const Tensor& t : {y, x.grad(), linear->weight().grad()}) {
    for (float v : t.data<float>()) REQUIRE(v == 0);
  }
}

TEST_CASE("every signed format runs through QuantizedLinear, forward and backward", "[fp8]") {
  for (const Format& f : formats()) {
    const Case c(DType::f32);
    INFO(f.name);
    if (!f.has_sign) {
      REQUIRE(throws([&] { QuantizedLinear::from_linear(c.linear, f); }, {std::string(f.name), "sign"}));
      REQUIRE(throws([&] { QuantizedLinear::from_linear(c.linear, E4M3, {.input_format = f}); }, {std::string(f.name), "input"}));
      REQUIRE(throws([&] { QuantizedLinear::from_linear(c.linear, E4M3, {.grad_format = f}); }, {std::string(f.name), "grad"}));
      continue;
    }
    auto layer = QuantizedLinear::from_linear(c.linear, f, {.input_format = f, .grad_format = f});
    const Tensor y = c.run(layer);
    for (const Tensor& t : {y, c.x.grad(), layer.weight().grad(), layer.bias()->grad()}) {
      double total = 0;
      for (float v : t.data<float>()) total += std::abs(v);
      REQUIRE(std::isfinite(total));
      REQUIRE(total > 0);
    }
    if (f.bits() <= 8) {
      std::vector<double> expected = product(rounded(doubles(c.x), f), rounded(doubles(layer.weight()), f), c.rows, c.out,
                                             c.in, false, true);
      for (size_t i = 0; i < expected.size(); ++i) expected[i] += doubles(*layer.bias())[i % c.out];
      require_close(y, expected, 2e-6);
    }
  }
}

TEST_CASE("a frozen weight gets no gradient and the input still does", "[fp8]") {
  const Case c;
  c.linear->weight().requires_grad(false);
  auto layer = QuantizedLinear::from_linear(c.linear, E4M3);
  c.run(layer);
  REQUIRE_FALSE(c.linear->weight().has_grad());
  REQUIRE(c.x.has_grad());
  REQUIRE(c.linear->bias()->has_grad());
}

TEST_CASE("a layer used twice on one tape adds both gradients", "[fp8]") {
  const Case c;
  auto layer = QuantizedLinear::from_linear(c.linear, E4M3);
  c.run(layer);
  const Tensor once = layer.weight().grad();
  layer.zero_grad();
  Tape tape;
  tape.backward(layer(c.x) + layer(c.x), c.dy);
  std::vector<double> twice = doubles(once);
  for (double& v : twice) v *= 2;
  require_close(layer.weight().grad(), twice, 1e-12);
}

TEST_CASE("backward runs after the layer is gone", "[fp8]") {
  const Case c;
  auto layer = std::make_unique<QuantizedLinear>(QuantizedLinear::from_linear(c.linear, E4M3, {.grad_format = E5M2}));
  const AmaxHistory grads = layer->grad_history();
  Tape tape;
  const Tensor y = (*layer)(c.x);
  layer.reset();
  tape.backward(y, c.dy);
  REQUIRE(grads.size() == 1);
  REQUIRE(c.linear->weight().has_grad());
}

TEST_CASE("quantized_linear is deterministic, and the same but for the order of sums on 1, 2 and 3 threads", "[fp8]") {
  const int before = num_threads();
  manual_seed(4);
  const auto linear = std::make_shared<nn::Linear>(130, 257);
  const Tensor x = Tensor::randn({150, 130}).requires_grad(true), dy = Tensor::randn({150, 257});
  const auto run = [&](int threads) -> std::vector<Tensor> {
    set_num_threads(threads);
    manual_seed(6);
    for (const Tensor& t : {x, linear->weight(), *linear->bias()}) t.set_grad({});
    auto layer = QuantizedLinear::from_linear(
        linear, E4M3, {.input_format = E4M3, .grad_format = E5M2, .rounding = Rounding::stochastic});
    Tape tape;
    const Tensor y = layer(x);
    tape.backward(y, dy);
    return {y, x.grad(), linear->weight().grad(), linear->bias()->grad()};
  };
  const std::vector<Tensor> one = run(1);
  for (int threads : {1, 2, 3}) {
    const std::vector<Tensor> first = run(threads), again = run(threads);
    for (size_t i = 0; i < one.size(); ++i) {
      INFO(threads << " threads, result " << i);
      REQUIRE(same_bits(first[i], again[i]));
      require_close(first[i], doubles(one[i]), 2e-6);
    }
  }
  set_num_threads(before);
}

TEST_CASE("quantized_linear names itself and the shapes in its errors, and records nothing", "[fp8]") {
  auto layer = QuantizedLinear::from_linear(nn::Linear(48, 64), E4M3);
  REQUIRE(throws([&] { layer(Tensor::ones({8, 32})); }, {"quantized_linear", "(8, 32)", "(64, 48)", "32 vs 48"}));
  REQUIRE(throws([&] { layer(Tensor::ones({})); }, {"quantized_linear", "()"}));
  REQUIRE(throws([&] { layer(Tensor::ones({8, 48}, {.dtype = DType::f64})); }, {"quantized_linear", "f64", "f32"}));
  REQUIRE(throws([&] { layer(Tensor::zeros({8, 48}, {.dtype = DType::i64})); }, {"quantized_linear", "i64"}));
  REQUIRE(layer.input_history().recorded() == 0);
  REQUIRE(layer.weight_history().recorded() == 0);
}

TEST_CASE("from_linear refuses what cannot make a layer", "[fp8]") {
  const nn::Linear linear(4, 4);
  REQUIRE(throws([&] { QuantizedLinear::from_linear(std::shared_ptr<nn::Linear>(), E4M3); }, {"null"}));
  REQUIRE(throws([&] { QuantizedLinear::from_linear(linear, E4M3, {.history_length = 0}); }, {"history_length 0"}));
  REQUIRE(throws([&] { QuantizedLinear::from_linear(linear, E4M3, {.skip_patterns = {"x"}}); }, {"skip_patterns"}));
  const Format nonsense{.exponent_bits = 40, .mantissa_bits = 3, .bias = 0, .name = "nonsense"};
  REQUIRE(throws([&] { QuantizedLinear::from_linear(linear, nonsense); }, {"nonsense"}));
  REQUIRE(throws([&] { QuantizedLinear::from_linear(linear, E4M3, {.input_format = nonsense}); }, {"nonsense"}));
}

TEST_CASE("extra_repr says sizes, formats and what is not the default", "[fp8]") {
  const nn::Linear linear(64, 192);
  REQUIRE(QuantizedLinear::from_linear(linear, E5M2).extra_repr() ==
          "in_features=64, out_features=192, format=E5M2, quantize_input=false");
  REQUIRE(QuantizedLinear::from_linear(linear, E4M3, {.input_format = E3M4, .grad_format = E5M2,
                                                      .scaling = Scaling::delayed}).extra_repr() ==
          "in_features=64, out_features=192, format=E4M3, quantize_input=true, input_format=E3M4, grad_format=E5M2, "
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
  auto layer = QuantizedLinear::from_linear(nn::Linear(5, 3), E4M3, {.input_format = E4M3, .history_length = 4});
  for (int i = 0; i < 6; ++i) layer(Tensor::randn({2, 5}) * double(6 - i));
  StateDict saved;
  for (auto& [name, tensor] : layer.state_dict()) saved[name] = tensor.clone();
  auto restored = QuantizedLinear::from_linear(nn::Linear(5, 3), E4M3, {.input_format = E4M3, .history_length = 4});
  restored.load_state_dict(saved);
  REQUIRE(restored.input_history().recorded() == 6);
  REQUIRE(restored.input_history().amax() == layer.input_history().amax());
  const Tensor x = Tensor::randn({2, 5}) * 0.1;
  REQUIRE(same_bits(restored(x), layer(x)));
  REQUIRE(same_bits(restored(x * 3.0), layer(x * 3.0)));
}
