// An op and a module of one's own. An op is a struct with forward and backward side by side; a module lists
// its members in visit(), and names, optimizers, printing and 8-bit surgery follow from that.
#include <altgrad/altgrad.h>

#include <cstdio>
#include <iostream>

namespace ag = altgrad;

struct Softplus final : ag::Op {
  static constexpr const char* name = "softplus";
  ag::Tensor x;  // saved for backward
  ag::Tensor forward(const ag::Tensor& in) {
    x = in;
    return ag::relu(in) + ag::log(ag::exp(-ag::abs(in)) + 1.0);  // log(exp(x) + 1), without exp's Inf
  }
  // dx = dy sigmoid(x)
  void backward(const ag::Tensor& dy, ag::Grads& d) override { d.add(0, dy * ag::sigmoid(x)); }
};
ag::Tensor softplus(const ag::Tensor& x) { return ag::apply<Softplus>(x); }

struct Mlp : ag::nn::ModuleOf<Mlp, ag::nn::Layer> {
  ag::nn::Slot<ag::nn::Layer> c_fc, c_proj;  // re-seatable, typed on the interface
  explicit Mlp(int64_t n) : c_fc(ag::nn::Linear(n, 4 * n)), c_proj(ag::nn::Linear(4 * n, n)) {}
  ag::Tensor forward(const ag::Tensor& x) override { return c_proj(softplus(c_fc(x))); }
  void visit(ag::nn::Visitor& v) override {
    v("c_fc", c_fc);
    v("c_proj", c_proj);
  }
};

int main() {
  ag::manual_seed(0);
  Mlp mlp(8);
  ag::fp8::quantize_model(mlp, ag::fp8::E4M3);
  std::cout << mlp << '\n';

  // Learns to reverse the order of its inputs.
  const ag::Tensor x = ag::Tensor::randn({64, 8});
  const ag::Tensor y = ag::index_select(x, 1, ag::Tensor::from({7, 6, 5, 4, 3, 2, 1, 0}, {8}));
  ag::optim::AdamW opt(mlp.parameters(), {.lr = 1e-2});
  double first = 0, last = 0;
  for (int step = 0; step < 200; ++step) {
    ag::Tape tape;
    const ag::Tensor loss = ag::mse_loss(mlp.forward(x), y);
    if (step == 0) tape.print();  // the ops as they were recorded, ours among them
    tape.backward(loss);
    opt.step();
    opt.zero_grad();
    last = loss.item<double>();
    if (step == 0) first = last;
    if (step % 50 == 0) std::printf("step %3d  loss %.4f\n", step, last);
  }
  std::printf("step 200  loss %.4f\n", last);
  return last < 0.1 * first ? 0 : 1;
}
