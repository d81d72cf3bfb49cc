// Checks a gradient of one's own against central differences in f64, once right and once wrong, to show what
// the message says. In a unit test it is two lines: INFO(check.message); REQUIRE(check.ok);
#include <altgrad/altgrad.h>

#include <cstdio>

namespace ag = altgrad;

// y = log(exp(x) + 1), written so that exp never is Inf; its slope is sigmoid(x). With `wrong`, backward forgets the
// chain rule's dy.
struct Softplus final : ag::Op {
  static constexpr const char* name = "softplus";
  ag::Tensor x;
  bool wrong = false;
  ag::Tensor forward(const ag::Tensor& in, bool forget_dy) {
    x = in;
    wrong = forget_dy;
    return ag::relu(in) + ag::log(ag::exp(-ag::abs(in)) + 1.0);
  }
  void backward(const ag::Tensor& dy, ag::Grads& d) override {
    d.add(0, wrong ? ag::sigmoid(x) : dy * ag::sigmoid(x));
  }
};

int main() {
  ag::manual_seed(0);
  const ag::Tensor x = ag::Tensor::randn({3, 4}, {.dtype = ag::DType::f64});
  const auto check = [&](bool wrong) {
    return ag::gradcheck([&](std::span<const ag::Tensor> in) { return ag::apply<Softplus>(in[0], wrong); },
                         {x});
  };
  const ag::GradcheckResult right = check(false), wrong = check(true);
  std::printf("softplus:              %s (largest error %.1e)\n", right.ok ? "ok" : "WRONG", right.max_error);
  std::printf("softplus, dy forgotten: %s\n  %s\n", wrong.ok ? "ok" : "WRONG", wrong.message.c_str());

  // A whole model: one directional derivative over all parameters at once.
  ag::models::GPT model({.n_layer = 2, .n_head = 2, .n_embd = 16, .block_size = 8, .vocab_size = 11});
  model.to(ag::DType::f64);
  const ag::Tensor ids = ag::Tensor::randint(11, {2, 8}), targets = ag::Tensor::randint(11, {2, 8});
  const ag::GradcheckResult gpt =
      ag::gradcheck_directional([&] { return model.loss(ids, targets); }, model.parameters(), {.step = 1e-6});
  std::printf("GPT, %lld parameters:   %s (error %.1e)\n", static_cast<long long>(model.num_parameters()),
              gpt.ok ? "ok" : "WRONG", gpt.max_error);
  return right.ok && !wrong.ok && gpt.ok ? 0 : 1;
}
