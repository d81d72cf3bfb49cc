// gradcheck finds what is wrong and says where, and leaves no trace.
#include <altgrad/autograd/gradcheck.h>
#include <altgrad/autograd/ops.h>

#include "errors.h"
#include "reference.h"

using namespace altgrad;
using reference::randn;
using Inputs = std::span<const Tensor>;

namespace {

// x * y, whose gradient for y is wrong in one element.
struct WrongMul final : Op {
  static constexpr const char* name = "wrong_mul";
  Tensor x, y;
  Tensor forward(const Tensor& a, const Tensor& b) {
    x = a, y = b;
    return a * b;
  }
  void backward(const Tensor& dy, Grads& d) override {
    d.add(0, dy * y);
    const Tensor wrong = host(dy * x);
    wrong.data<double>()[5] *= 1 + 1e-4;
    d.add(1, on_device(wrong));
  }
};

struct NanGradient final : Op {
  static constexpr const char* name = "nan_gradient";
  Tensor forward(const Tensor& a) { return a * 1.0; }
  void backward(const Tensor& dy, Grads& d) override {
    const Tensor dx = host(dy.clone());
    dx.data<double>().back() = NAN;
    d.add(0, on_device(dx));
  }
};

}  // namespace

TEST_CASE("gradcheck names the input, the element and both values of the worst error", "[gradcheck]") {
  const Tensor a = randn({2, 3}, 1), b = randn({2, 3}, 2);
  const auto wrong = [](Inputs in) { return apply<WrongMul>(in[0], in[1]); };
  const GradcheckResult check = gradcheck(wrong, {a, b});
  CHECK_FALSE(check.ok);
  INFO(check.message);
  for (const char* part : {"input 1, element (1, 2): analytic ", "numeric ", "error ", "tolerance 1e-06"}) {
    CHECK(check.message.find(part) != std::string::npos);
  }
  CHECK(check.max_error > 1e-6);
  CHECK(check.max_error < 1e-3);
  CHECK(gradcheck(wrong, {a, b}, {.tolerance = 1e-2}).ok);
  // The right one is far below the tolerance.
  const GradcheckResult right = gradcheck([](Inputs in) { return in[0] * in[1]; }, {a, b});
  CHECK(right.ok);
  CHECK(right.max_error < 1e-9);
  CHECK_FALSE(right.message.empty());
}

TEST_CASE("gradcheck takes any number of inputs, passes integers through and scalars out", "[gradcheck]") {
  const Tensor ids = here::from({0, 2, 2}, {3});
  const auto fn = [](Inputs in) { return sum(embedding(in[0], in[1]) * in[2]) + in[3]; };
  CHECK(gradcheck(fn, {ids, randn({3, 2}), randn({2}), randn({})}).ok);
  // An input that is not used has gradient zero; the output may be an input.
  CHECK(gradcheck([](Inputs in) { return exp(in[1]); }, {randn({2}), randn({2})}).ok);
  CHECK(gradcheck([](Inputs in) { return in[0]; }, {randn({2, 2})}).ok);
  CHECK(gradcheck([](Inputs in) { return in[0].reshape({4}); }, {randn({2, 2})}).ok);
  CHECK(gradcheck([](Inputs in) { return exp(in[0]); }, {here::ones({0, 3}, {.dtype = DType::f64})}).ok);
}

TEST_CASE("gradcheck reports functions that cannot be differentiated", "[gradcheck]") {
  const auto message = [](auto&& fn) {
    const GradcheckResult check = gradcheck(fn, {randn({2, 3})});
    CHECK_FALSE(check.ok);
    return check.message;
  };
  CHECK(message([](Inputs in) { return argmax(in[0]); }).find("i64 of shape (2), is not differentiable") !=
        std::string::npos);
  CHECK(message([](Inputs in) { return in[0].detach() * 2.0; }).find("does not depend on the inputs") !=
        std::string::npos);
  CHECK(message([](Inputs in) { return in[0] * in[0].detach(); }).find("input 0, element (") !=
        std::string::npos);
  CHECK(message([](Inputs in) { return log(in[0]); }).find("nan") != std::string::npos);
  CHECK(message([](Inputs in) { return apply<NanGradient>(in[0]); }).find("element (1, 2): analytic") !=
        std::string::npos);
}

TEST_CASE("gradcheck refuses inputs it cannot check", "[gradcheck]") {
  CHECK(throws([] { gradcheck({}, {here::ones({1}, {DType::f64})}); }, {"gradcheck", "no function"}));
  CHECK(throws([] { gradcheck_directional({}, {here::ones({1}, {DType::f64}).requires_grad(true)}); },
               {"gradcheck", "no function"}));
  const auto fn = [](Inputs in) { return in[0] * 1.0; };
  CHECK(throws(
      [&] {
        gradcheck(fn, {here::ones({2, 3})});
      },
      {"gradcheck", "input 0", "(2, 3)", "f32", "f64"}));
  CHECK(throws([&] { gradcheck(fn, {here::arange(3)}); }, {"gradcheck", "none of 1 inputs is f64"}));
  CHECK(throws([&] { gradcheck(fn, {}); }, {"gradcheck", "none of 0"}));
  int calls = 0;
  const auto growing = [&](Inputs in) { return expand(in[0], {++calls, 2}); };
  CHECK(throws([&] { gradcheck(growing, {randn({2})}); }, {"gradcheck: the shape of the result changes"}));
}

TEST_CASE("gradcheck leaves inputs, captured leaves and the generator as they were", "[gradcheck]") {
  const Tensor x = randn({2, 3}, 1), w = randn({3}, 2), v = randn({3}, 3);
  const Tensor x_before = x.clone(), w_before = w.clone(), grad = randn({3}, 4), grad_before = grad.clone();
  w.requires_grad(true), v.requires_grad(true);
  w.set_grad(grad);
  manual_seed(5);
  default_generator().next();
  const Generator::State state = default_generator().state();
  const auto fn = [&](Inputs in) { return dropout(in[0] * w + v, 0.5); };

  Tape tape;  // a tape of the caller's sees nothing of it
  SECTION("after a check") { CHECK(gradcheck(fn, {x}).ok); }
  SECTION("after an exception") {
    int calls = 0;
    const auto failing = [&](Inputs in) {
      if (++calls == 4) throw std::runtime_error("enough");
      return fn(in);
    };
    CHECK_THROWS_AS(gradcheck(failing, {x}), std::runtime_error);
  }
  CHECK(tape.num_ops() == 0);
  CHECK(Tape::current() == &tape);
  CHECK(same_bits(x, x_before));
  CHECK_FALSE(x.requires_grad());
  CHECK_FALSE(x.has_grad());
  CHECK(same_bits(w, w_before));
  CHECK(w.grad().id() == grad.id());
  CHECK(same_bits(grad, grad_before));
  CHECK_FALSE(v.has_grad());
  CHECK(default_generator().state() == state);
}

TEST_CASE("the directional check covers all parameters at once and restores them to the bit", "[gradcheck]") {
  const Tensor x = randn({5, 3}, 1), w = randn({4, 3}, 2), b = randn({4}, 3);
  w.requires_grad(true), b.requires_grad(true);
  w.set_grad(randn({4, 3}, 4));
  const Tensor grad = w.grad(), w_before = w.clone(), b_before = b.clone();
  manual_seed(6);
  const Generator::State state = default_generator().state();
  const auto fn = [&] { return mean(tanh(dropout(linear(x, w, b), 0.25))); };
  const GradcheckResult check = gradcheck_directional(fn, {w, b}, {.tolerance = 1e-8});
  INFO(check.message);
  CHECK(check.ok);
  CHECK(check.message.find("2 parameters") != std::string::npos);
  CHECK(gradcheck_directional([&] { return linear(x, w, b); }, {w, b}).ok);

  const GradcheckResult wrong = gradcheck_directional(
      [&] {
        return sum(apply<WrongMul>(x, expand(b, {5, 4}).narrow(1, 0, 3)));
      },
      {b});
  CHECK_FALSE(wrong.ok);
  CHECK_FALSE(gradcheck_directional([&] { return sum(b.detach() * b); }, {w, b}).ok);

  CHECK(same_bits(w, w_before));
  CHECK(same_bits(b, b_before));
  CHECK(w.grad().id() == grad.id());
  CHECK_FALSE(b.has_grad());
  CHECK(default_generator().state() == state);

  CHECK(throws([&] { gradcheck_directional(fn, {}); }, {"gradcheck_directional", "no parameters"}));
  CHECK(throws(
      [&] {
        gradcheck_directional(fn, {w, x});
      },
      {"parameter 1", "(5, 3)", "does not require a gradient"}));
  CHECK(throws([&] { gradcheck_directional(fn, {here::ones({2}).requires_grad(true)}); },
               {"parameter 0", "f32"}));
}
