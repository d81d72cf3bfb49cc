// Tapes that end out of order, gradients that are not added to leaves, those added to in place, and what backward
// refuses at once.
#include <altgrad/autograd/ops.h>

#include "errors.h"
#include "reference.h"

#include <functional>
#include <memory>

using namespace altgrad;
using reference::distance;
using reference::randn;
using reference::same_bits;
using reference::values;

namespace {

struct Nothing final : Op {
  static constexpr const char* name = "nothing";
  Tensor forward(const Tensor&) { return {}; }
  void backward(const Tensor&, Grads&) override {}
};

}  // namespace

TEST_CASE("tapes and NoGrads may end in any order", "[tape]") {
  const Tensor x = Tensor::full({}, 3, {.dtype = DType::f64}).requires_grad(true);
  auto first = std::make_unique<Tape>();
  auto second = std::make_unique<Tape>();
  first.reset();
  CHECK(Tape::current() == second.get());
  second->backward(x * x);
  CHECK(x.grad().item<double>() == 6);
  {
    const NoGrad off;
    second = std::make_unique<Tape>();  // the old one ends inside the NoGrad, the new one outlives it
    CHECK(Tape::current() == second.get());
  }
  CHECK(Tape::current() == second.get());
  second.reset();
  CHECK(Tape::current() == nullptr);
}

TEST_CASE("gradients gives the leaves' gradients and leaves the leaves alone", "[tape]") {
  const Tensor x = Tensor::full({}, 3, {.dtype = DType::f64}).requires_grad(true);
  const Tensor w = Tensor::full({}, 2, {.dtype = DType::f64}).requires_grad(true);
  Tape tape;
  const Tensor y = x * x * w, unused = w * w;
  const std::vector<Tensor> grads = tape.gradients(y, Tensor::full({}, 10, y.options())),
                            leaves = tape.leaves();
  REQUIRE(leaves.size() == 2);
  CHECK((leaves[0].is(x) && leaves[1].is(w)));
  CHECK(grads[0].item<double>() == 10 * 12);
  CHECK(grads[1].item<double>() == 10 * 9);
  CHECK_FALSE((x.has_grad() || w.has_grad()));
}

TEST_CASE("backward changes no leaf where a leaf has changed its dtype", "[tape]") {
  const Tensor a = randn({2}).requires_grad(true), b = randn({2}).requires_grad(true);
  Tape tape;
  const Tensor y = sum(a * b);
  b.assign_(b.to(b.dtype() == DType::f64 ? DType::f32 : DType::f64));
  CHECK(throws([&] { tape.backward(y); }, {"backward", "leaf"}));
  CHECK_FALSE((a.has_grad() || b.has_grad()));
}

TEST_CASE("an op whose forward gives nothing is named", "[tape]") {
  const Tensor x = randn({2}).requires_grad(true);
  Tape tape;
  CHECK(throws([&] { apply<Nothing>(x); }, {"nothing"}));
  CHECK(tape.num_ops() == 0);
}

TEST_CASE("a gradient is added to in place, but never where somebody else holds it", "[tape]") {
  const Tensor x = randn({3, 4}, 1).requires_grad(true), w = randn({4, 4}, 2).requires_grad(true),
               gain = randn({4}, 3).requires_grad(true);
  const Tensor dy = randn({3, 4}, 4), dy_before = dy.clone();
  // The gradient of x is dy itself, which the test holds, then the norm's and both linears' on top.
  const auto f = [&] { return layer_norm(x, gain) + linear(x, w) + linear(linear(x, w), w) + x; };
  {
    Tape tape;
    tape.backward(f(), dy);
  }
  CHECK(same_bits(dy, dy_before));
  const Tensor dx = x.grad(), dw = w.grad();
  x.set_grad({}), w.set_grad({});
  std::vector<Tensor> sums;  // the same, op by op
  for (const auto& part : std::vector<std::function<Tensor()>>{
           [&] { return x + 0.0; }, [&] { return layer_norm(x, gain); }, [&] { return linear(x, w); },
           [&] { return linear(linear(x, w), w); }}) {
    Tape tape;
    tape.backward(part(), dy);
  }
  CHECK(distance(dx, x.grad()) < 1e-14);
  CHECK(distance(dw, w.grad()) < 1e-14);
}

TEST_CASE("rows gathered twice add to a gradient that is there", "[tape]") {
  const Tensor table = randn({5, 3}, 1).requires_grad(true), x = randn({2, 3}, 2);
  const Tensor ids = Tensor::from<int64_t>({1, 4, 1}, {3});
  {
    Tape tape;  // the embedding runs backward last, as in a model whose head is tied
    tape.backward(sum(linear(x, table)) + sum(embedding(ids, table)));
  }
  for (int64_t row = 0; row < 5; ++row) {
    const double times = row == 1 ? 2 : row == 4 ? 1 : 0;
    for (int64_t c = 0; c < 3; ++c) {
      const double expected = values(x)[size_t(c)] + values(x)[size_t(3 + c)] + times;
      CHECK(values(table.grad())[size_t(row * 3 + c)] == Approx(expected).epsilon(1e-14));
    }
  }
}
