// A plugin with a layer of its own; plugin_host.cpp loads two of them, which share one altgrad.
#include "plugin.h"

#include <altgrad/altgrad.h>

using namespace altgrad;

namespace {
struct Halve final : nn::ModuleOf<Halve, nn::Layer> {
  Tensor scale = Tensor::full({1}, 0.5).requires_grad(true);
  Tensor forward(const Tensor& x) override { return x * scale; }
  void visit(nn::Visitor& v) override { v("scale", scale); }
};
}  // namespace

extern "C" {
Tensor* make_tensor() { return new Tensor(Tensor::randn({1 << 20})); }
void drop_tensor(Tensor* t) { delete t; }
void make_layer(std::shared_ptr<nn::Module>& out) { out = std::make_shared<Halve>(); }
// Puts another's layer between its own, quantizes its own, and trains: gives the norm of the other's gradient.
double train_with(const std::shared_ptr<nn::Module>& other) {
  const auto layer = std::dynamic_pointer_cast<nn::Layer>(other);
  if (!layer) return -1;
  nn::Sequential model(nn::Linear(8, 8));
  model.push_back(layer);
  model.push_back(nn::Linear(8, 8));
  if (fp8::quantize_model(model, fp8::E4M3).replaced.size() != 2) return -2;
  Tape tape;
  tape.backward(mean(model(Tensor::ones({4, 8}))));
  return std::abs(layer->parameter("scale").grad().item<float>());
}
void seed(uint64_t s) { manual_seed(s); }
void fail_in_altgrad() { Tensor::ones({2}).reshape({3}); }
}
