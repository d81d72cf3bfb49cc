// Layers and containers, against formulas written out in plain loops, and the contract's programs that use
// them.
#include <altgrad/autograd/gradcheck.h>
#include <altgrad/nn/containers.h>
#include <altgrad/nn/surgery.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <sstream>

#include "catch.h"
#include "device.h"
#include "errors.h"

using namespace altgrad;

namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

Tensor randn64(const Shape& shape) { return Tensor::randn(shape, {.dtype = DType::f64}); }

// Every kind of layer there is, by a name for the tests, with an input for it.
struct Case {
  std::string name;
  std::shared_ptr<nn::Layer> layer;
  Tensor x;
};
template <class L>
Case make_case(const std::string& name, L layer, const Tensor& x) {
  return {name, std::make_shared<L>(std::move(layer)), x};
}
std::vector<Case> cases() {
  manual_seed(5);
  const Tensor x = randn64({2, 3, 4}), ids = Tensor::from({1, 0, 4, 1}, {2, 2});
  std::vector<Case> all = {
      make_case("Linear", nn::Linear(4, 5), x),
      make_case("Linear without bias", nn::Linear(4, 5, {.bias = false}), x),
      make_case("Embedding", nn::Embedding(5, 3), ids),
      make_case("LayerNorm", nn::LayerNorm(4), x),
      make_case("LayerNorm without bias", nn::LayerNorm(4, {.eps = 0.1, .bias = false}), x),
      make_case("RMSNorm", nn::RMSNorm(4), x),
      make_case("Dropout", nn::Dropout(0.25), x),
      make_case("ReLU", nn::ReLU(), x),
      make_case("GELU", nn::GELU(), x),
      make_case("GELU tanh", nn::GELU(Gelu::tanh), x),
      make_case("SiLU", nn::SiLU(), x),
      make_case("Tanh", nn::Tanh(), x),
      make_case("Sigmoid", nn::Sigmoid(), x),
      make_case("Sequential", nn::Sequential(nn::Linear(4, 3), nn::Sequential(nn::Tanh(), nn::LayerNorm(3))),
                x),
  };
  for (Case& c : all) {
    for (const Tensor& p : c.layer->parameters()) p.copy_(randn64(p.shape()));
    c.layer->to(DType::f64);
    c.layer->to(device());
    c.x = on_device(c.x);
  }
  return all;
}

// The leaves that a forward of fn uses and `module` does not list.
size_t unlisted_leaves(const nn::Module& module, const std::function<void()>& fn) {
  Tape tape;
  fn();
  const std::vector<Tensor> listed = module.parameters();
  size_t unlisted = 0;
  for (const Tensor& leaf : tape.leaves()) {
    unlisted +=
        std::none_of(listed.begin(), listed.end(), [&](const Tensor& p) { return p.id() == leaf.id(); });
  }
  return unlisted;
}

size_t used_leaves(const std::function<void()>& fn) {
  Tape tape;
  fn();
  return tape.leaves().size();
}

void check_close(const Tensor& actual, const std::vector<double>& expected) {
  REQUIRE(actual.numel() == int64_t(expected.size()));
  for (size_t i = 0; i < expected.size(); ++i) {
    INFO("element " << i);
    CHECK(actual.data<double>()[i] == Approx(expected[i]).epsilon(1e-12).margin(1e-12));
  }
}

}  // namespace

TEST_CASE("every leaf that a layer uses is among its parameters, and every parameter is used", "[nn]") {
  INFO("cases() moves layers to f64: a parameter that visit() does not list stays f32");
  for (const auto& [name, layer, x] : cases()) {
    INFO(name);
    const auto forward = [&, &layer = layer, &x = x] { (*layer)(x); };
    CHECK(unlisted_leaves(*layer, forward) == 0);
    CHECK(used_leaves(forward) == layer->parameters().size());
  }

  const Tensor x = Tensor::ones({2, 4});
  nn::ModuleList list({nn::Linear(4, 4), nn::LayerNorm(4)});
  CHECK(unlisted_leaves(list, [&] {
          for (auto& layer : list) layer(x);
        }) == 0);
  nn::ModuleDict dict({{"a", nn::Linear(4, 4)}, {"b", nn::Linear(4, 4)}});
  CHECK(unlisted_leaves(dict, [&] { dict["b"](dict["a"](x)); }) == 0);
}

TEST_CASE("a module that leaves a member out of visit is caught by the tape", "[nn]") {
  struct Forgetful : nn::ModuleOf<Forgetful, nn::Layer> {
    nn::Slot<nn::Layer> listed{nn::Linear(2, 2)}, forgotten{nn::Linear(2, 2)};
    Tensor forward(const Tensor& x) override { return forgotten(listed(x)); }
    void visit(nn::Visitor& v) override { v("listed", listed); }
  };
  Forgetful module;
  CHECK(unlisted_leaves(module, [&] { module(Tensor::ones({1, 2})); }) == 2);
}

TEST_CASE("gradients through every layer agree with differences, for inputs and parameters", "[nn]") {
  for (const auto& [name, layer, x] : cases()) {
    INFO(name);
    std::vector<Tensor> inputs = {x};
    std::vector<std::string> names;
    for (auto& [path, p] : layer->named_parameters()) {
      names.push_back(path);
      inputs.push_back(p.clone());
    }
    const Generator::State start = default_generator().state();
    const auto check = gradcheck(
        [&, &layer = layer](std::span<const Tensor> in) {
          default_generator().set_state(start);  // the same mask each time
          for (size_t i = 0; i < names.size(); ++i) layer->parameter(names[i]) = in[i + 1];
          return (*layer)(in[0]);
        },
        inputs);
    INFO(check.message);
    CHECK(check.ok);
  }
}

TEST_CASE("Linear is x W^T + b", "[nn]") {
  manual_seed(1);
  nn::Linear layer(3, 2);
  layer.to(DType::f64);
  const Tensor x = randn64({2, 2, 3});
  const auto w = layer.weight().data<double>(), b = layer.bias()->data<double>(), in = x.data<double>();
  std::vector<double> expected;
  for (int r = 0; r < 4; ++r) {
    for (int o = 0; o < 2; ++o) {
      expected.push_back(b[o] + in[3 * r] * w[3 * o] + in[3 * r + 1] * w[3 * o + 1] +
                         in[3 * r + 2] * w[3 * o + 2]);
    }
  }
  const Tensor y = layer(x);
  CHECK(y.shape() == Shape{2, 2, 2});
  check_close(y, expected);
  CHECK(layer.in_features() == 3);
  CHECK(layer.out_features() == 2);
}

TEST_CASE("Embedding looks rows up", "[nn]") {
  nn::Embedding layer(4, 2);
  layer.to(DType::f64);
  const auto w = layer.weight().data<double>();
  const Tensor y = layer(Tensor::from({3, 0, 3}, {1, 3}));
  CHECK(y.shape() == Shape{1, 3, 2});
  check_close(y, {w[6], w[7], w[0], w[1], w[6], w[7]});
}

TEST_CASE("norms normalise the last axis, then scale", "[nn]") {
  manual_seed(2);
  const Tensor x = randn64({3, 5}), weight = randn64({5}), bias = randn64({5});
  const double eps = 0.3;
  nn::LayerNorm with_bias(5, {.eps = eps}), without(5, {.eps = eps, .bias = false});
  nn::RMSNorm rms(5, {.eps = eps});
  for (nn::Layer* layer : std::initializer_list<nn::Layer*>{&with_bias, &without, &rms}) {
    layer->to(DType::f64);
    layer->parameter("weight").copy_(weight);
  }
  with_bias.parameter("bias").copy_(bias);

  std::vector<double> layer_norm, rms_norm;
  for (int r = 0; r < 3; ++r) {
    const auto row = x.data<double>().subspan(5 * r, 5);
    const double mean = std::accumulate(row.begin(), row.end(), 0.0) / 5;
    double variance = 0, square = 0;
    for (double v : row) variance += (v - mean) * (v - mean) / 5, square += v * v / 5;
    for (int i = 0; i < 5; ++i) {
      layer_norm.push_back((row[i] - mean) / std::sqrt(variance + eps) * weight.data<double>()[i]);
      rms_norm.push_back(row[i] / std::sqrt(square + eps) * weight.data<double>()[i]);
    }
  }
  check_close(without(x), layer_norm);
  check_close(rms(x), rms_norm);
  for (size_t i = 0; i < layer_norm.size(); ++i) layer_norm[i] += bias.data<double>()[i % 5];
  check_close(with_bias(x), layer_norm);
}

TEST_CASE("fresh norms have unit weight and no shift", "[nn]") {
  nn::LayerNorm layer(3);
  nn::RMSNorm rms(2);
  for (float w : layer.parameter("weight").data<float>()) CHECK(w == 1);
  for (float b : layer.parameter("bias").data<float>()) CHECK(b == 0);
  for (float w : rms.parameter("weight").data<float>()) CHECK(w == 1);
}

TEST_CASE("activations are their formulas", "[nn]") {
  const std::vector<double> points = {-3, -1.5, -0.2, 0, 0.1, 1, 2.5};
  const Tensor x = Tensor::from(points, {7});
  const auto expect = [&](nn::Layer&& layer, double (*f)(double)) {
    INFO(layer.type_name());
    std::vector<double> expected;
    for (double p : points) expected.push_back(f(p));
    check_close(layer(x), expected);
  };
  expect(nn::ReLU(), [](double v) { return std::max(v, 0.0); });
  expect(nn::GELU(), [](double v) { return 0.5 * v * (1 + std::erf(v / std::sqrt(2.0))); });
  expect(nn::GELU(Gelu::tanh), [](double v) {
    return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
  });
  expect(nn::SiLU(), [](double v) { return v / (1 + std::exp(-v)); });
  expect(nn::Tanh(), [](double v) { return std::tanh(v); });
  expect(nn::Sigmoid(), [](double v) { return 1 / (1 + std::exp(-v)); });
}

TEST_CASE("Dropout zeroes the expected share and rescales the rest, in training only", "[nn]") {
  const int64_t n = 100000;
  const double p = 0.3;
  const Tensor x = Tensor::ones({n});
  nn::Dropout layer(p);
  manual_seed(11);
  const Tensor y = layer(x), again = layer(x);
  int64_t zeros = 0, same = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float v = y.data<float>()[i];
    zeros += v == 0;
    same += v == again.data<float>()[i];
    if (v != 0) REQUIRE(v == Approx(1 / (1 - p)));
  }
  CHECK(std::abs(double(zeros) / n - p) < 5 * std::sqrt(p * (1 - p) / n));  // five standard deviations
  CHECK(same < n * 0.62);                                                   // 0.58 for independent masks
  manual_seed(11);
  const Tensor repeated = layer(x);
  CHECK(std::equal(y.data<float>().begin(), y.data<float>().end(), repeated.data<float>().begin()));

  layer.eval();
  CHECK(layer(x).id() == x.id());
  CHECK(nn::Dropout(0)(x).id() == x.id());
  for (double bad : {-0.1, 1.0, 2.0, std::nan("")}) CHECK_THROWS_AS(nn::Dropout(bad), std::invalid_argument);
}

TEST_CASE("layers refuse what does not fit", "[nn]") {
  CHECK(throws([] { nn::Linear(0, 3); }, {"Linear: sizes must be positive, got (3, 0)"}));
  CHECK_THROWS_AS(nn::Embedding(3, -1), std::invalid_argument);
  CHECK_THROWS_AS(nn::LayerNorm(0), std::invalid_argument);
  CHECK(throws([] { nn::Linear(Tensor::ones({3})); }, {"weight must be (out, in), got (3)"}));
  CHECK(throws(
      [] {
        nn::Linear(Tensor::ones({3, 2}), Tensor::ones({2}));
      },
      {"bias (2) does not match weight (3, 2)"}));
  nn::Linear layer(48, 64);
  CHECK(throws([&] { layer(Tensor::ones({8, 32})); }, {"linear", "(8, 32)", "(64, 48)"}));
}

TEST_CASE("a Linear on given tensors shares them and leaves their flags", "[nn]") {
  const Tensor frozen = Tensor::ones({2, 3}), bias = Tensor::ones({2}).requires_grad(true);
  const nn::Linear layer(frozen, bias);
  CHECK(layer.weight().id() == frozen.id());
  CHECK(layer.bias()->id() == bias.id());
  CHECK_FALSE(layer.weight().requires_grad());
  CHECK(nn::Linear(2, 2).weight().requires_grad());
}

TEST_CASE("containers call and name their layers in order", "[nn]") {
  const Tensor x = Tensor::full({1, 1}, 2);
  const auto times = [](double w) { return nn::Linear(Tensor::full({1, 1}, w)); };
  nn::Sequential net(times(3), nn::Sequential(times(5), nn::ReLU()));
  net.push_back(times(7));
  CHECK(net(x).item<float>() == 2 * 3 * 5 * 7);
  CHECK(net.size() == 3);
  CHECK(net.parameter("2.weight").item<float>() == 7);
  CHECK(net[1](x).item<float>() == 10);
  CHECK(throws<std::out_of_range>([&] { net[3]; }, {"Sequential: there is no layer 3; there are 3"}));
  CHECK(nn::Sequential()(x).id() == x.id());

  nn::ModuleList list({times(3), times(5)});
  list.push_back(times(7));
  double product = 1;
  for (auto& layer : list) product *= layer(x).item<float>();
  CHECK(product == 6 * 10 * 14);
  CHECK(list.parameter("1.weight").item<float>() == 5);
  CHECK(throws<std::out_of_range>([&] { list[3]; }, {"ModuleList: there is no layer 3; there are "}));

  nn::ModuleDict dict({{"z", times(3)}, {"a", times(5)}});
  dict.insert("m", times(7));
  CHECK(dict.size() == 3);
  CHECK(dict["a"](x).item<float>() == 10);
  CHECK(dict.contains("m"));
  CHECK_FALSE(dict.contains("b"));
  std::string order;  // as given, not sorted
  for (auto& [name, module] : dict.named_modules()) order += name;
  CHECK(order == "zam");
}

TEST_CASE("a ModuleDict refuses bad names and says what it has", "[nn]") {
  nn::ModuleDict dict({{"one", nn::ReLU()}, {"two", nn::Tanh()}});
  CHECK(throws([&] { dict.insert("one", nn::ReLU()); }, {"the name \"one\" is taken"}));
  CHECK(throws([&] { dict.insert("", nn::ReLU()); }, {"is empty or has a dot"}));
  CHECK(throws([&] { dict.insert("a.b", nn::ReLU()); }, {"is empty or has a dot"}));
  CHECK_THROWS_AS(nn::ModuleDict({{"x", nn::ReLU()}, {"x", nn::ReLU()}}), std::invalid_argument);
  CHECK(dict.size() == 2);
  CHECK(throws<std::out_of_range>([&] { dict["three"]; },
                                  {"ModuleDict: nothing is called \"three\"; there are one, two"}));
}

// ---- The contract's programs, as written there ----
// clang-format off

namespace ag = altgrad;

namespace contract {

struct Mlp : ag::nn::ModuleOf<Mlp, ag::nn::Layer> {
  ag::nn::Slot<ag::nn::Layer> c_fc, c_proj;                       // re-seatable, typed on the interface
  explicit Mlp(int64_t n) : c_fc(ag::nn::Linear(n, 4 * n)), c_proj(ag::nn::Linear(4 * n, n)) {}
  ag::Tensor forward(const ag::Tensor& x) override { return c_proj(ag::gelu(c_fc(x))); }
  void visit(ag::nn::Visitor& v) override { v("c_fc", c_fc); v("c_proj", c_proj); }
};

struct Softplus final : ag::Op {                                  // forward and backward side by side
  static constexpr const char* name = "softplus";
  ag::Tensor x;                                                   // saved for backward
  ag::Tensor forward(const ag::Tensor& in) { x = in; return ag::relu(in) + ag::log(ag::exp(-ag::abs(in)) + 1.0); }
  void backward(const ag::Tensor& dy, ag::Grads& d) override { d.add(0, dy * ag::sigmoid(x)); }
};
ag::Tensor softplus(const ag::Tensor& x) { return ag::apply<Softplus>(x); }

}  // namespace contract

TEST_CASE("a module of one's own trains, in a Sequential too", "[nn][contract]") {
  manual_seed(6);
  ag::nn::Sequential net(contract::Mlp(4), ag::nn::Tanh(), contract::Mlp(4));
  CHECK(net.num_parameters() == 2 * (4 * 16 + 16 + 16 * 4 + 4));
  CHECK(net.named_parameters().front().first == "0.c_fc.weight");
  CHECK(contains(concat(net), "(0): Mlp(\n    (c_fc): Linear(in_features=4, out_features=16, bias=true)"));

  const Tensor x = Tensor::randn({8, 4}), target = Tensor::randn({8, 4});
  std::vector<float> losses;
  for (int step = 0; step < 30; ++step) {
    Tape tape;
    const Tensor loss = mse_loss(net(x), target);
    losses.push_back(loss.item<float>());
    tape.backward(loss);
    for (const Tensor& p : net.parameters()) {
      for (int64_t i = 0; i < p.numel(); ++i) p.data<float>()[i] -= 0.1f * p.grad().data<float>()[i];
    }
    net.zero_grad();
  }
  CHECK(losses.back() < 0.9f * losses.front());

  const contract::Mlp copy = ag::nn::clone(dynamic_cast<contract::Mlp&>(net.module("2")));
  CHECK(copy.num_parameters() == net.module("2").num_parameters());
}

TEST_CASE("an op of one's own", "[nn][contract]") {
  auto x = ag::Tensor::randn({3, 4}, {.dtype = ag::DType::f64});
  auto check = ag::gradcheck([](std::span<const ag::Tensor> in) { return contract::softplus(in[0]); }, {x});
  INFO(check.message);
  REQUIRE(check.ok);
}

TEST_CASE("tensors and containers as the contract has them", "[nn][contract]") {
  auto a = ag::Tensor::zeros({2, 3});                               // f32 on the CPU
  auto b = ag::Tensor::full({3}, 0.5, {.dtype = ag::DType::f64, .device = ag::Device::cpu()});
  auto c = ag::Tensor::from({1.f, 2.f, 3.f, 4.f}, {2, 2});          // also from a std::span
  c.shape();  c.dim();  c.size(-1);  c.numel();  c.dtype();  c.device();
  c.data<float>();                                                  // std::span<float>; throws on another dtype
  ag::sum(c).item<float>();  c.reshape({4});  c.clone();  c.to(ag::DType::f64);  c.is(c);
  auto d = ag::matmul(c, c) * 2.0 + b.to(ag::DType::f32).reshape({3, 1}).narrow(0, 0, 2);   // NumPy broadcasting
  c.requires_grad(true);
  CHECK_THROWS_AS(c.grad(), std::invalid_argument);
  CHECK(d.data<float>()[0] == 2 * 7 + 0.5f);
  CHECK(a.numel() == 6);

  ag::nn::Sequential net(ag::nn::Linear(10, 20), ag::nn::ReLU(), ag::nn::Linear(20, 5));   // names "0", "1", "2"
  ag::nn::ModuleDict dict({{"layer1", ag::nn::Linear(10, 20)}, {"out", ag::nn::Linear(20, 5)}});
  net.parameters();                                                 // std::vector<Tensor>, unique
  std::string names;
  for (auto& [name, p] : net.named_parameters()) names += name + ' ';
  CHECK(names == "0.weight 0.bias 2.weight 2.bias ");
  net.named_modules();  net.module("0");  net.parameter("0.weight");  // Module&, Tensor&
  net.train();  net.eval();  net.num_parameters();
  std::ostringstream out;
  out << net;
  CHECK(contains(out.str(), "(1): ReLU()"));
  CHECK(dict.parameter("out.weight").shape() == ag::Shape{5, 20});
}
