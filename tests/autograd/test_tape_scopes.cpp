// Tapes that end out of order or use the same leaves, gradients that are not added to leaves, those added to in place,
// and what backward refuses at once.
#include <altgrad/autograd/ops.h>

#include "errors.h"
#include "reference.h"

#include <functional>
#include <memory>

using namespace altgrad;
using reference::distance;
using reference::randn;

namespace {

struct Nothing final : Op {
  static constexpr const char* name = "nothing";
  Tensor forward(const Tensor&) { return {}; }
  void backward(const Tensor&, Grads&) override {}
};

}  // namespace

TEST_CASE("tapes and NoGrads may end in any order", "[tape]") {
  const Tensor x = here::full({}, 3, {.dtype = DType::f64}).requires_grad(true);
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
  const Tensor x = here::full({}, 3, {.dtype = DType::f64}).requires_grad(true);
  const Tensor w = here::full({}, 2, {.dtype = DType::f64}).requires_grad(true);
  Tape tape;
  const Tensor y = x * x * w, unused = w * w;
  const std::vector<Tensor> grads = tape.gradients(y, here::full({}, 10, y.options())),
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
  const Tensor ids = here::from<int64_t>({1, 4, 1}, {3});
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

TEST_CASE("a leaf is one leaf, with all of its gradient, whatever other tapes use it in between", "[tape]") {
  const Tensor w = here::full({1}, 3, {.dtype = DType::f64}).requires_grad(true);
  const Tensor one = here::ones({1}, w.options());
  const auto use_elsewhere = [&](int depth) {
    const auto use = [&](const auto& self, int levels) -> void {
      Tape inner;
      const Tensor y = w * 5.0;
      if (levels > 1) self(self, levels - 1);
      inner.gradients(y + w, one);
    };
    use(use, depth);
  };
  const auto through_checkpoint = [&](const Tensor& y) {
    return y + checkpoint([&](const Tensor& t) { return t * w; }, w * w) +
           checkpoint([&](const Tensor& t) { return checkpoint([&](const Tensor& u) { return u + w; }, t); },
                      one);
  };
  for (int depth = 0; depth <= 2; ++depth) {
    CAPTURE(depth);
    // w^2 + 2 w + w^3 + 1 + w: the gradient 2 w + 2 + 3 w^2 + 1
    const auto record = [&] {
      const Tensor y = w * w;
      if (depth > 0) use_elsewhere(depth);
      const Tensor z = y + w * 2.0;
      if (depth > 0) use_elsewhere(depth);
      return through_checkpoint(z);
    };
    {
      Tape outer;
      const std::vector<Tensor> grads = outer.gradients(record(), one);
      REQUIRE(outer.leaves().size() == 1);
      CHECK(outer.leaves()[0].id() == w.id());
      REQUIRE(grads.size() == 1);
      CHECK(grads[0].item<double>() == 6 + 2 + 27 + 1);
    }
    {
      Tape outer;
      outer.backward(record());
      CHECK(w.grad().item<double>() == 6 + 2 + 27 + 1);
      w.set_grad({});
    }
  }
}

TEST_CASE("of many leaves, used in any order, each has its own gradient", "[tape]") {
  std::vector<Tensor> leaves;
  for (int i = 0; i < 500; ++i)
    leaves.push_back(here::full({}, i, {.dtype = DType::f64}).requires_grad(true));
  Tape tape;
  Tensor y = leaves[0];
  for (size_t i = 0; i < 1000; ++i) y = y + leaves[(i * 7) % 500] * double(i % 500);
  const std::vector<Tensor> grads = tape.gradients(y, here::ones({}, y.options())), used = tape.leaves();
  REQUIRE(used.size() == 500);
  for (size_t k = 0; k < used.size(); ++k) {
    double expected = used[k].is(leaves[0]) ? 1 : 0;
    for (size_t i = 0; i < 1000; ++i) {
      if (used[k].is(leaves[(i * 7) % 500])) expected += double(i % 500);
    }
    REQUIRE(grads[k].item<double>() == expected);
  }
}

TEST_CASE("no tensor becomes its own gradient, and a long chain of gradients ends", "[tape]") {
  const int64_t in_use = memory_stats().in_use;
  {
    const Tensor t = randn({2}, 1), u = randn({2}, 2), v = randn({2}, 3);
    CHECK(throws([&] { t.set_grad(t); }, {"set_grad", "(2)", "itself", "detach()"}));
    CHECK_FALSE(t.has_grad());
    t.set_grad(u);
    CHECK(throws([&] { u.set_grad(t); }, {"set_grad", "itself"}));
    u.set_grad(v);
    CHECK(throws([&] { v.set_grad(t); }, {"set_grad", "itself"}));
    CHECK_FALSE(v.has_grad());
    v.set_grad(t.detach());  // the same memory, and no cycle
    CHECK(v.grad().is(t));
    u.set_grad({});
    v.set_grad(t);  // which does not lead back to v any more
    CHECK(v.grad().grad().id() == u.id());
    t.set_grad(t.detach());
    CHECK(t.grad().is(t));
  }
  {
    const Tensor first = randn({1});
    Tensor last = first;
    for (int i = 0; i < 200000; ++i) {
      const Tensor next = first.detach();
      last.set_grad(next);
      last = next;
    }
  }
  CHECK(memory_stats().in_use == in_use);
}
