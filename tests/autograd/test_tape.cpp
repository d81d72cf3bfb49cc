// The tape: what it records, what backward does, and that misuse changes nothing.
#include <altgrad/autograd/ops.h>

#include <sstream>
#include <thread>

#include "allocations.h"
#include "errors.h"
#include "reference.h"

using namespace altgrad;
using reference::distance;
using reference::randn;

namespace {

Tensor leaf(const Shape& shape, uint64_t seed = 1, DType dtype = DType::f64) {
  return randn(shape, seed, dtype).requires_grad(true);
}

struct Softplus final : Op {
  static constexpr const char* name = "softplus";
  Tensor x;
  Tensor forward(const Tensor& in) {
    x = in;
    return relu(in) + log(exp(-abs(in)) + 1.0);
  }
  void backward(const Tensor& dy, Grads& d) override { d.add(0, dy * sigmoid(x)); }
};

struct Throws final : Op {
  static constexpr const char* name = "throws";
  static inline bool in_backward = false;
  Tensor x;
  Tensor forward(const Tensor& in) {
    x = in;
    if (!in_backward) throw std::runtime_error("forward failed");
    return in * 2.0;
  }
  void backward(const Tensor&, Grads&) override { throw std::runtime_error("backward failed"); }
};

// Gives input 0 a gradient that is not its own.
struct WrongGradient final : Op {
  static constexpr const char* name = "wrong_gradient";
  Tensor given;
  Tensor forward(const Tensor& in, const Tensor& grad) {
    given = grad;
    return in * 2.0;
  }
  void backward(const Tensor&, Grads& d) override { d.add(0, given); }
};

}  // namespace

TEST_CASE("without a tape, or without a leaf that requires a gradient, nothing is recorded", "[tape]") {
  const Tensor x = leaf({2});
  const int64_t before = memory_stats().in_use;
  CHECK(Tape::current() == nullptr);
  { const Tensor y = exp(x * 2.0) + x; }
  CHECK(memory_stats().in_use == before);
  Tape tape;
  CHECK(Tape::current() == &tape);
  const Tensor y = exp(randn({2}) * 2.0) + 1.0;
  CHECK(tape.num_ops() == 0);
  const Tensor z = exp(x);
  CHECK(tape.num_ops() == 1);
  CHECK_FALSE(y.requires_grad());
}

TEST_CASE("inference keeps nothing alive but its result", "[tape]") {
  const Tensor w = leaf({64, 64});
  const auto net = [&](Tensor x) {
    for (int i = 0; i < 10; ++i) x = tanh(linear(x, w));
    return x;
  };
  const Tensor x = randn({64, 64});
  net(x);
  const int64_t before = memory_stats().in_use;
  reset_peak_memory();
  const Tensor y = net(x);
  CHECK(memory_stats().in_use - before == 64 * 64 * 8);
  CHECK(memory_stats().peak - before <= 3 * 64 * 64 * 8);
}

TEST_CASE("NoGrad suspends recording in its scope, nested too", "[tape]") {
  const Tensor x = leaf({2});
  Tape tape;
  {
    NoGrad off;
    CHECK(Tape::current() == nullptr);
    { NoGrad again; }
    CHECK(Tape::current() == nullptr);
    const Tensor y = x * x;
    CHECK(tape.num_ops() == 0);
  }
  CHECK(Tape::current() == &tape);
  const Tensor y = x * x;
  CHECK(tape.num_ops() == 1);
}

TEST_CASE("gradients of a leaf accumulate over backwards until cleared", "[tape]") {
  const Tensor x = Tensor::full({2}, 3, {.dtype = DType::f64}).requires_grad(true);
  for (int i = 1; i <= 3; ++i) {
    Tape tape;
    tape.backward(sum(x * x));
    CHECK(values(x.grad()) == std::vector<double>{6.0 * i, 6.0 * i});
  }
  x.set_grad(Tensor());
  CHECK_FALSE(x.has_grad());
  Tape tape;
  tape.backward(sum(x * x));
  CHECK(values(x.grad()) == std::vector<double>{6, 6});
}

TEST_CASE("a leaf used in many places gets the sum", "[tape]") {
  const Tensor x = Tensor::full({}, 2, {.dtype = DType::f64}).requires_grad(true);
  Tape tape;
  const Tensor y = x * x + x * 3.0 + x + exp(x) / x;
  tape.backward(y);
  CHECK(x.grad().item<double>() == Approx(2 * 2 + 3 + 1 + std::exp(2.0) * (1.0 / 2 - 1.0 / 4)));
  CHECK(tape.leaves().size() == 1);
  CHECK(tape.leaves()[0].id() == x.id());
}

TEST_CASE("parts that do not lead to the result get no gradient", "[tape]") {
  const Tensor x = leaf({2}, 1), unused = leaf({2}, 2);
  Tape tape;
  const Tensor side = exp(unused), y = sum(x), later = sum(y * side);
  tape.backward(y);
  CHECK(values(x.grad()) == std::vector<double>{1, 1});
  CHECK_FALSE(unused.has_grad());
}

TEST_CASE("the gradient given to a leaf is its own memory", "[tape]") {
  const Tensor a = leaf({2}, 1), b = leaf({2}, 2), cotangent = Tensor::ones({2}, {.dtype = DType::f64});
  Tape tape;
  tape.backward(a + b, cotangent);
  CHECK_FALSE(a.grad().is(b.grad()));
  CHECK_FALSE(a.grad().is(cotangent));
  a.grad().fill_(7);
  CHECK(values(b.grad()) == std::vector<double>{1, 1});
  CHECK(values(cotangent) == std::vector<double>{1, 1});
}

TEST_CASE("a cotangent contracts the result", "[tape]") {
  const Tensor x = leaf({2, 3}), v = randn({2, 3}, 2);
  Tape tape;
  const Tensor y = exp(x);
  tape.backward(y, v);
  CHECK(distance(x.grad(), v * exp(x.detach())) < 1e-15);
}

TEST_CASE("backward refuses misuse, in words, and changes nothing", "[tape]") {
  const Tensor x = leaf({2});
  Tape tape;
  const Tensor y = exp(x), loss = sum(y), elsewhere = randn({1});
  const auto refused = [&](auto&& f, std::initializer_list<std::string> parts) {
    CHECK(throws(f, parts));
    CHECK_FALSE(x.has_grad());
  };
  refused([&] { tape.backward(y); }, {"backward", "(2)", "cotangent"});
  refused([&] { tape.backward(y, Tensor::ones({3}, y.options())); }, {"backward", "(3)", "(2)"});
  refused([&] { tape.backward(y, Tensor::ones({2})); }, {"backward", "f32", "f64"});
  refused([&] { tape.backward(y, Tensor()); }, {""});
  refused([&] { tape.backward(elsewhere); }, {"backward", "did not record"});
  refused([&] { tape.backward(Tensor()); }, {""});
  {
    Tape other;
    refused([&] { other.backward(loss); }, {"backward", "did not record"});
  }
  tape.backward(loss);
  const Tensor grad = x.grad().clone();
  CHECK(throws([&] { tape.backward(loss); }, {"backward", "already"}));
  CHECK(same_bits(x.grad(), grad));
}

TEST_CASE("after backward a tape records nothing more", "[tape]") {
  const Tensor x = leaf({2});
  Tape tape;
  tape.backward(sum(x));
  CHECK(Tape::current() == nullptr);
  const Tensor y = exp(x);
  CHECK(throws([&] { tape.backward(sum(y)); }, {"backward"}));
}

TEST_CASE("nested tapes record apart", "[tape]") {
  const Tensor x = Tensor::full({}, 3, {.dtype = DType::f64}).requires_grad(true);
  Tape outer;
  const Tensor y = x * x;
  {
    Tape inner;
    CHECK(Tape::current() == &inner);
    inner.backward(x * 5.0);
    CHECK(x.grad().item<double>() == 5);
  }
  CHECK(Tape::current() == &outer);
  CHECK(outer.num_ops() == 1);
  outer.backward(y * x);
  CHECK(x.grad().item<double>() == 5 + 27);
}

TEST_CASE("a result of an outer tape goes into an inner one only detached", "[tape]") {
  const Tensor x = Tensor::full({}, 3, {.dtype = DType::f64}).requires_grad(true);
  Tape outer;
  const Tensor y = x * x;
  {
    Tape inner;
    CHECK(throws([&] { y* x; }, {"outer tape", "detach"}));
    CHECK(inner.num_ops() == 0);
    inner.backward(y.detach() * x);  // d/dx = y
  }
  CHECK(x.grad().item<double>() == 9);
  outer.backward(y);
  CHECK(x.grad().item<double>() == 9 + 6);
  Tape later;
  later.backward(y * x);  // the tape of y has run: y is a value
  CHECK(x.grad().item<double>() == 9 + 6 + 9);
}

TEST_CASE("each thread has its own tape", "[tape]") {
  const Tensor x = leaf({2});
  Tape tape;
  const Tensor y = exp(x);
  bool none = false;
  Tensor grad;
  std::thread([&] {
    none = Tape::current() == nullptr;
    const Tensor own = leaf({2}, 5);
    Tape other;
    other.backward(sum(own * own));
    grad = own.grad();
  }).join();
  CHECK(none);
  CHECK(distance(grad, randn({2}, 5) * 2.0) < 1e-15);
  CHECK(tape.num_ops() == 1);
  tape.backward(sum(y));
  CHECK(distance(x.grad(), exp(x.detach())) < 1e-15);
}

TEST_CASE("a user's op is written and used like one of the library's", "[tape][contract]") {
  const Tensor x = leaf({3, 4});
  Tape tape;
  const Tensor y = apply<Softplus>(x);
  CHECK(tape.num_ops() == 1);  // what forward calls is not recorded
  tape.backward(sum(y));
  CHECK(distance(x.grad(), sigmoid(x.detach())) < 1e-15);
}

struct ToIntegers final : Op {
  static constexpr const char* name = "to_integers";
  Tensor forward(const Tensor& x) { return x.copied({DType::i64, x.device()}); }
  void backward(const Tensor&, Grads&) override { throw std::logic_error("integers carry no gradients"); }
};

TEST_CASE("a user's op whose result has no gradient is not recorded", "[tape]") {
  const Tensor x = leaf({3});
  Tape tape;
  const Tensor y = apply<ToIntegers>(x);
  CHECK(tape.num_ops() == 0);
  CHECK(!y.is_recorded());
  tape.backward(sum(x * y.to(DType::f64) + x * y.to(DType::f64)));
  CHECK(distance(x.grad(), y.to(DType::f64) * 2.0) == 0);
}

TEST_CASE("an op that throws in forward leaves the tape as it was", "[tape]") {
  const Tensor x = leaf({2});
  Throws::in_backward = false;
  Tape tape;
  const Tensor y = exp(x);
  const int64_t before = memory_stats().in_use;
  const auto heap_use = [&](int times) {  // exceptions use the heap, too
    const int64_t start = heap_allocations();
    int thrown = 0;
    for (int i = 0; i < times; ++i) {
      try {
        apply<Throws>(y);
      } catch (const std::runtime_error&) {
        ++thrown;
      }
    }
    const int64_t used = heap_allocations() - start;
    CHECK(thrown == times);
    return used;
  };
  heap_use(1);
  CHECK(heap_use(20000) == 2000 * heap_use(10));
  CHECK(memory_stats().in_use == before);
  CHECK(tape.num_ops() == 1);
  CHECK(Tape::current() == &tape);
  tape.backward(sum(y * x));
  CHECK(distance(x.grad(), exp(x.detach()) * (x.detach() + 1.0)) < 1e-15);
}

TEST_CASE("an op that throws in backward reaches the caller and no leaf", "[tape]") {
  const Tensor x = leaf({2});
  Throws::in_backward = true;
  {
    Tape tape;
    const Tensor y = sum(exp(x) * apply<Throws>(x));
    CHECK_THROWS_AS(tape.backward(y), std::runtime_error);
    CHECK_FALSE(x.has_grad());
  }
  CHECK(Tape::current() == nullptr);
  Tape tape;
  tape.backward(sum(x));
  CHECK(values(x.grad()) == std::vector<double>{1, 1});
}

TEST_CASE("a backward that gives a gradient of the wrong kind is named", "[tape]") {
  const Tensor x = leaf({2});
  const auto run = [&](const Tensor& given) {
    Tape tape;
    tape.backward(sum(apply<WrongGradient>(x, given)));
  };
  CHECK(throws([&] { run(randn({3})); }, {"wrong_gradient", "input 0", "(3)", "(2)"}));
  CHECK(throws([&] { run(randn({2}, 1, DType::f32)); }, {"wrong_gradient", "f32", "f64"}));
  CHECK_FALSE(x.has_grad());
  CHECK_NOTHROW(run(randn({2})));
}

TEST_CASE("detect_anomaly names the op, its index and its shape", "[tape]") {
  const Tensor x = Tensor::from({1.0, -1.0, 0.0}, {3}).requires_grad(true);
  {
    Tape tape({.detect_anomaly = true});
    const Tensor y = x * 2.0;
    CHECK(throws<std::runtime_error>([&] { log(y); }, {"forward", "op 1", "'log'", "(3)"}));
    CHECK(tape.num_ops() == 1);
    const Tensor z = sqrt(abs(y));  // slope infinite at 0, where abs has slope 0: NaN in the backward of abs
    CHECK(throws<std::runtime_error>([&] { tape.backward(sum(z)); }, {"backward", "op 1", "'abs'", "(3)"}));
    CHECK_FALSE(x.has_grad());
  }
  Tape tape;  // off by default
  tape.backward(sum(log(x)));
  CHECK(std::isinf(values(x.grad())[2]));
}

TEST_CASE("print shows a line for every op", "[tape]") {
  const Tensor x = leaf({2, 3}), w = leaf({4, 3}, 2);
  Tape tape;
  const Tensor y = relu(linear(x, w));
  std::ostringstream out;
  tape.print(out);
  const std::string text = out.str();
  INFO(text);
  for (const char* part :
       {"2 ops", "2 leaves", "0: ", "linear(", "(2, 3)", "(4, 3)", "1: ", "relu(", "(2, 4)", "f64"}) {
    CHECK(text.find(part) != std::string::npos);
  }
}

TEST_CASE("a chain of 100,000 ops goes backward without recursion", "[tape]") {
  const Tensor x = Tensor::full({}, 1, {.dtype = DType::f64}).requires_grad(true);
  Tape tape;
  Tensor y = x;
  for (int i = 0; i < 100000; ++i) y = y + x;
  tape.backward(y);
  CHECK(x.grad().item<double>() == 100001);
  // Dropped without backward, too.
  Tape dropped;
  Tensor z = x;
  for (int i = 0; i < 100000; ++i) z = neg(z);
}

TEST_CASE("diamonds are walked once: 60 of them end", "[tape]") {
  const Tensor x = Tensor::full({}, 1, {.dtype = DType::f64}).requires_grad(true);
  Tape tape;
  Tensor y = x;
  for (int i = 0; i < 60; ++i) y = y + y;
  CHECK(tape.num_ops() == 60);
  tape.backward(y);
  CHECK(x.grad().item<double>() == std::ldexp(1.0, 60));
}
