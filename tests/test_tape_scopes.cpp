// Tapes that end out of order, gradients that are not added to leaves, and what backward refuses at once.
#include <altgrad/autograd/ops.h>

#include "errors.h"
#include "reference.h"

#include <memory>

using namespace altgrad;
using reference::randn;

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
