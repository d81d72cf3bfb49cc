// Tensors and containers.
#include <altgrad/altgrad.h>

#include <sstream>

#include "../catch.h"

namespace ag = altgrad;

TEST_CASE("tensors", "[contract]") {
  auto a = ag::Tensor::zeros({2, 3});
  auto b = ag::Tensor::full({3}, 0.5, {.dtype = ag::DType::f64, .device = ag::Device::cpu()});
  auto c = ag::Tensor::from({1.f, 2.f, 3.f, 4.f}, {2, 2});
  CHECK(a.shape() == ag::Shape{2, 3});
  CHECK(a.dim() == 2);
  CHECK(a.size(-1) == 3);
  CHECK(a.numel() == 6);
  CHECK(b.dtype() == ag::DType::f64);
  CHECK(b.device() == ag::Device::cpu());
  std::span<float> values = c.data<float>();
  CHECK(values[3] == 4.f);
  CHECK_THROWS_AS(c.data<double>(), std::invalid_argument);
  CHECK(ag::Tensor::from(std::span<const float>(values), {4}).data<float>()[2] == 3.f);

  CHECK(ag::sum(c).item<float>() == 10.f);
  CHECK(c.reshape({4}).is(c));
  CHECK(!c.clone().is(c));
  CHECK(c.to(ag::DType::f64).dtype() == ag::DType::f64);
  CHECK(c.is(c));

  auto d = ag::matmul(c, c) * 2.0 + b.to(ag::DType::f32).reshape({3, 1}).narrow(0, 0, 2);
  CHECK(d.data<float>()[0] == 14.5f);
  CHECK(d.data<float>()[3] == 44.5f);

  c.requires_grad(true);
  CHECK(!c.has_grad());
  CHECK_THROWS_AS(c.grad(), std::invalid_argument);
  ag::Tape tape;
  tape.backward(ag::sum(c * c));
  CHECK(c.grad().data<float>()[3] == 8.f);
}

TEST_CASE("containers", "[contract]") {
  ag::nn::Sequential net(ag::nn::Linear(10, 20), ag::nn::ReLU(), ag::nn::Linear(20, 5));
  ag::nn::ModuleDict dict({{"layer1", ag::nn::Linear(10, 20)}, {"out", ag::nn::Linear(20, 5)}});
  std::vector<ag::Tensor> parameters = net.parameters();
  CHECK(parameters.size() == 4);
  std::vector<std::string> names;
  for (auto& [name, p] : net.named_parameters()) names.push_back(name);
  CHECK(names == std::vector<std::string>{"0.weight", "0.bias", "2.weight", "2.bias"});
  CHECK(net.named_modules().size() == 3);
  ag::nn::Module& first = net.module("0");
  ag::Tensor& weight = net.parameter("0.weight");
  CHECK(first.parameter("weight").is(weight));
  CHECK(dict.parameter("out.weight").shape() == ag::Shape{5, 20});
  net.eval();
  CHECK(!first.training());
  net.train();
  CHECK(first.training());
  CHECK(net.num_parameters() == 10 * 20 + 20 + 20 * 5 + 5);
  std::ostringstream out;
  out << net;
  CHECK(out.str().find("(2): Linear(in_features=20, out_features=5, bias=true)") != std::string::npos);
}
