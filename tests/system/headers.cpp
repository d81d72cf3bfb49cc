// What users make of the public headers' templates: compiled with their strictest warnings, by g++ and clang++, and with
// the standard library's debug mode. Never run.
#include <altgrad/altgrad.h>

using namespace altgrad;

struct Softplus final : Op {
  static constexpr const char* name = "softplus";
  Tensor x;
  Tensor forward(const Tensor& in) { return x = in, log(exp(in) + 1.0); }
  void backward(const Tensor& dy, Grads& d) override {
    d.accumulate(0, [&](const Tensor& dx, double) { dx.copy_(dy * sigmoid(x)); });
  }
};

struct Mlp : nn::ModuleOf<Mlp, nn::Layer> {
  nn::Slot<nn::Layer> c_fc, c_proj;
  explicit Mlp(int64_t n) : c_fc(nn::Linear(n, 4 * n)), c_proj(nn::Linear(4 * n, n)) {}
  Tensor forward(const Tensor& x) override { return c_proj(apply<Softplus>(c_fc(x))); }
  void visit(nn::Visitor& v) override { v("c_fc", c_fc), v("c_proj", c_proj); }
};

template <class T>
uint32_t format(T x) {
  constexpr fp8::Rounder<T> rounder(fp8::E4M3);
  return rounder.code(rounder(x)) + rounder.code(rounder(x, 1u)) + rounder.code(rounder.nearest(x));
}

template <class T>
bool tensor() {
  const Tensor a = Tensor::from({T(1), T(2)}, {2}), b = Tensor::from(std::vector<T>{T(1)}, {1});
  return a.item<T>() == b.item<T>() && std::as_const(a).options().dtype == b.dtype();
}

bool use() {
  nn::Sequential model(Mlp(2), nn::ReLU());
  const Mlp copy = nn::clone(Mlp(4));
  for (auto& layer : std::vector{nn::Slot<nn::Layer>(copy)}) model.push_back(layer);
  optim::AdamW optimizer(model.parameters(), {.lr = 1e-3});
  optimizer.step();
  return tensor<float>() && tensor<double>() && tensor<int>() && tensor<int64_t>() && tensor<uint8_t>() &&
         tensor<bfloat16>() && tensor<short>() && tensor<unsigned>() &&
         Tensor::ones({1}).data<float>()[0] > 0 && format(1.f) + format(1.) > 0;
}
