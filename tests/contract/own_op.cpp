// A module of one's own, one's own op, and a numerical check of its gradient.
#include <altgrad/altgrad.h>

#include "../catch.h"

namespace ag = altgrad;

namespace {

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

}  // namespace

TEST_CASE("softplus has the right gradient") {
  auto x = ag::Tensor::randn({3, 4}, {.dtype = ag::DType::f64});
  auto check = ag::gradcheck([](std::span<const ag::Tensor> in) { return softplus(in[0]); }, {x});
  INFO(check.message);        // names the input, the element, both values
  REQUIRE(check.ok);
}

TEST_CASE("softplus is right where exp(x) is Inf or 0") {
  auto x = ag::Tensor::from({100.f, -100.f}, {2}).requires_grad(true);
  ag::Tape tape;
  ag::Tensor y = softplus(x);
  tape.backward(ag::sum(y));
  CHECK(y.data<float>()[0] == 100.f);
  CHECK(y.data<float>()[1] == Approx(0).margin(1e-30));
  CHECK(x.grad().data<float>()[0] == 1.f);
  CHECK(x.grad().data<float>()[1] == Approx(0).margin(1e-30));
}

TEST_CASE("a module of one's own has names, is quantized and trained") {
  Mlp mlp(8);
  std::vector<std::string> names;
  for (auto& [name, p] : mlp.named_parameters()) names.push_back(name);
  CHECK(names == std::vector<std::string>{"c_fc.weight", "c_fc.bias", "c_proj.weight", "c_proj.bias"});
  CHECK(ag::fp8::quantize_model(mlp, ag::fp8::E4M3).replaced == std::vector<std::string>{"c_fc", "c_proj"});

  ag::Tape tape;
  ag::Tensor loss = ag::mean(softplus(mlp(ag::Tensor::ones({2, 8}))));
  tape.backward(loss);
  CHECK(mlp.parameter("c_fc.weight").has_grad());
}
