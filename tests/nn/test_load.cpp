// What load_state_dict does where a state and a tree are not simply alike: tied names, tensors that are the
// model's own, auxiliary buffers, and the part of the state that a module may adapt.
#include <altgrad/nn/containers.h>
#include <altgrad/nn/optim.h>

#include "catch.h"
#include "errors.h"
#include "values.h"

#include <cmath>
#include <cstring>
#include <limits>

using namespace altgrad;

namespace {

// One tensor under two names, a buffer, and an auxiliary one.
struct TiedModel : nn::ModuleOf<TiedModel> {
  nn::Slot<nn::Linear> wte{nn::Linear(here::zeros({2, 2}).requires_grad(true))};
  nn::Slot<nn::Linear> lm_head{nn::Linear(wte->weight(), here::zeros({2}).requires_grad(true))};
  Tensor running = here::zeros({2}), aux = here::zeros({2});
  void visit(nn::Visitor& v) override {
    v("wte", wte), v("lm_head", lm_head), v.buffer("running", running), v.buffer("_aux", aux);
  }
};

StateDict state_of(const Tensor& wte, const Tensor& lm_head) {
  return {{"wte.weight", wte},
          {"lm_head.weight", lm_head},
          {"lm_head.bias", Tensor::full({2}, 3)},
          {"running", Tensor::full({2}, 4)}};
}

}  // namespace

TEST_CASE("a strict load refuses tied names with different values, names both and changes nothing", "[nn]") {
  TiedModel model;
  const StateDict state = state_of(Tensor::full({2, 2}, 7), Tensor::full({2, 2}, 8));
  CHECK(throws([&] { model.load_state_dict(state); }, {"load_state_dict", "lm_head.weight", "wte.weight"}));
  CHECK(values<float>(model.running) == std::vector<float>{0, 0});
  CHECK(values<float>(model.wte->weight()) == std::vector<float>{0, 0, 0, 0});

  // The value under the tensor's own name, the first in visiting order, not the first or last in the map's.
  model.load_state_dict(state, {.strict = false});
  CHECK(values<float>(model.wte->weight()) == std::vector<float>{7, 7, 7, 7});
  CHECK(values<float>(model.running) == std::vector<float>{4, 4});
}

TEST_CASE("tied names with equal values load: another dtype, the same NaN, -0 and 0", "[nn]") {
  const float nan = std::nanf("");
  TiedModel model;
  model.load_state_dict(state_of(Tensor::full({2, 2}, 7), Tensor::full({2, 2}, 7)));
  CHECK(values<float>(model.wte->weight()) == std::vector<float>{7, 7, 7, 7});
  model.load_state_dict(state_of(Tensor::full({2, 2}, 6, {.dtype = DType::f64}), Tensor::full({2, 2}, 6)));
  CHECK(values<float>(model.wte->weight()) == std::vector<float>{6, 6, 6, 6});
  const Tensor a = Tensor::from({nan, 0.f, 1.f, INFINITY}, {2, 2}),
               b = Tensor::from({nan, -0.f, 1.f, INFINITY}, {2, 2});
  model.load_state_dict(state_of(a, b));
  CHECK(values<float>(model.wte->weight())[3] == INFINITY);

  float other;  // another NaN
  const uint32_t bits = 0x7fc00001;
  std::memcpy(&other, &bits, sizeof other);
  CHECK_THROWS_AS(model.load_state_dict(state_of(a, Tensor::from({other, 0.f, 1.f, INFINITY}, {2, 2}))),
                  std::invalid_argument);
  CHECK_THROWS_AS(model.load_state_dict(state_of(a, Tensor::from({1.f, 0.f, 1.f, INFINITY}, {2, 2}))),
                  std::invalid_argument);
  // Different as given, the same in the model's dtype.
  CHECK_NOTHROW(model.load_state_dict(
      state_of(Tensor::full({2, 2}, 0.1, {.dtype = DType::f64}), Tensor::full({2, 2}, 0.1))));
}

TEST_CASE("a tied second name must fit too", "[nn]") {
  TiedModel model;
  const StateDict state = state_of(Tensor::full({2, 2}, 7), Tensor::zeros({3, 2}));
  for (const bool strict : {true, false}) {
    CHECK(throws([&] { model.load_state_dict(state, {.strict = strict}); },
                 {"mismatched: lm_head.weight, here (2, 2) f32, given (3, 2) f32"}));
    CHECK(values<float>(model.wte->weight()) == std::vector<float>{0, 0, 0, 0});
  }
  StateDict undefined = state_of(Tensor::full({2, 2}, 7), Tensor());
  CHECK(throws([&] { model.load_state_dict(undefined); }, {"undefined: lm_head.weight"}));
  CHECK(values<float>(model.running) == std::vector<float>{0, 0});
}

TEST_CASE("auxiliary buffers of a module that has two names must not differ either", "[nn]") {
  struct Counted : nn::ModuleOf<Counted, nn::Layer> {
    Tensor count = here::zeros({1});
    Tensor forward(const Tensor& x) override { return x; }
    void visit(nn::Visitor& v) override { v.buffer("_count", count); }
  };
  const auto shared = std::make_shared<Counted>();
  nn::Sequential net;
  net.push_back(shared);
  net.push_back(shared);
  StateDict state = {{"0._count", Tensor::full({1}, 1)}, {"1._count", Tensor::full({1}, 2)}};
  CHECK(throws([&] { net.load_state_dict(state); }, {"differing: 0._count and 1._count"}));
  net.load_state_dict(state, {.strict = false});
  CHECK(values<float>(shared->count) == std::vector<float>{1});
}

TEST_CASE("tensors that share memory are tied too", "[nn]") {
  struct Shared : nn::ModuleOf<Shared, nn::Layer> {
    Tensor a = here::zeros({4}), b = a.detach(), c = a.alias({2, 2});
    Tensor forward(const Tensor& x) override { return x; }
    void visit(nn::Visitor& v) override { v("a", a), v("b", b), v("c", c); }
  };
  Shared shared;
  const Tensor ones = Tensor::ones({4}), twos = Tensor::full({4}, 2);
  CHECK(throws(
      [&] {
        shared.load_state_dict({{"a", ones}, {"b", twos}, {"c", ones.alias({2, 2})}});
      },
      {"differing: a and b"}));
  CHECK(throws(
      [&] {
        shared.load_state_dict({{"a", ones}, {"b", ones}, {"c", twos.alias({2, 2})}});
      },
      {"differing: a and c"}));
  CHECK(values<float>(shared.a) == std::vector<float>(4, 0));
  shared.load_state_dict({{"a", ones}, {"b", ones}, {"c", ones.alias({2, 2})}});
  CHECK(values<float>(shared.b) == std::vector<float>(4, 1));
}

TEST_CASE("a load that is not strict never fails for an auxiliary key", "[nn]") {
  TiedModel model;
  const Tensor wrong[] = {Tensor::zeros({3}), Tensor::zeros({2}, {.dtype = DType::i64}), Tensor()};
  for (const Tensor& t : wrong) {
    model.aux.fill_(1);
    StateDict state = state_of(Tensor::full({2, 2}, 7), Tensor::full({2, 2}, 7));
    state["_aux"] = t;
    CHECK(throws([&] { model.load_state_dict(state); }, {"_aux"}));
    CHECK(values<float>(model.running) == std::vector<float>{0, 0});
    model.load_state_dict(state, {.strict = false});
    CHECK(values<float>(model.aux) == std::vector<float>{1, 1});
    CHECK(values<float>(model.running) == std::vector<float>{4, 4});
    model.running.fill_(0);
  }
}

TEST_CASE("a state of the model's own tensors under each other's names swaps them", "[nn]") {
  nn::Sequential net = on_device(nn::Sequential(nn::Linear(2, 2), nn::Linear(2, 2)));
  net.parameter("0.weight").fill_(1);
  net.parameter("1.weight").fill_(2);
  StateDict state = net.state_dict();
  std::swap(state["0.weight"], state["1.weight"]);
  net.load_state_dict(state);
  CHECK(values<float>(net.parameter("0.weight")) == std::vector<float>{2, 2, 2, 2});
  CHECK(values<float>(net.parameter("1.weight")) == std::vector<float>{1, 1, 1, 1});

  const std::vector<Tensor> p = {here::ones({1}).requires_grad(true), here::ones({1}).requires_grad(true)};
  optim::AdamW adamw(p, {});
  StateDict own = adamw.state_dict();
  own["exp_avg.0"].fill_(5);
  own["exp_avg.1"].fill_(6);
  std::swap(own["exp_avg.0"], own["exp_avg.1"]);
  adamw.load_state_dict(own);
  CHECK(values<float>(adamw.state_dict()["exp_avg.0"]) == std::vector<float>{6});
  CHECK(values<float>(adamw.state_dict()["exp_avg.1"]) == std::vector<float>{5});
}

TEST_CASE("a tree with more names than could be listed loads by those that the state has", "[nn]") {
  struct Twice : nn::ModuleOf<Twice, nn::Layer> {
    nn::Slot<nn::Layer> a, b;
    Tensor forward(const Tensor& x) override { return x; }
    void visit(nn::Visitor& v) override { v("a", a), v("b", b); }
  };
  std::shared_ptr<nn::Layer> inner = std::make_shared<nn::Linear>(on_device(nn::Linear(1, 1)));
  for (int i = 0; i < 64; ++i) {
    const auto outer = std::make_shared<Twice>();
    outer->a.set(inner);
    outer->b.set(inner);
    inner = outer;
  }
  StateDict state = inner->state_dict();
  REQUIRE(state.size() == 2);
  for (auto& [name, t] : state) t = Tensor::full(t.shape(), 3);
  inner->load_state_dict(state);
  CHECK(inner->parameters()[0].item<float>() == 3);
}

namespace {

// Keeps the sum of its weight in an auxiliary buffer.
struct Summed : nn::ModuleOf<Summed, nn::Layer> {
  Tensor weight, sum = here::zeros({});
  explicit Summed(Tensor w = here::zeros({2}).requires_grad(true)) : weight(std::move(w)) {}
  Tensor forward(const Tensor& x) override { return x; }
  void visit(nn::Visitor& v) override { v("weight", weight), v.buffer("_sum", sum); }
  void adapt_state(StateDict& part, const nn::LoadOptions&) const override {
    asked.push_back(part.size());
    if (!part.contains("weight") || part.contains("_sum")) return;
    const auto w = part.at("weight").data<float>();
    if (w[0] < 0) fail("Summed: a negative weight");
    part["_sum"] = Tensor::full({}, double(w[0]) + w[1]);
  }
  mutable std::vector<size_t> asked;
};

}  // namespace

TEST_CASE("a module adapts its part of a state before anything changes", "[nn]") {
  nn::Sequential net{Summed(), Summed()};
  net.push_back(Summed(dynamic_cast<Summed&>(net.module("0")).weight));  // tied to "0"
  const auto sum = [&](const char* name) {
    return dynamic_cast<Summed&>(net.module(name)).sum.item<float>();
  };
  StateDict state = {{"0.weight", Tensor::from({1.f, 2.f}, {2})},
                     {"1.weight", Tensor::from({3.f, 4.f}, {2})},
                     {"1._sum", Tensor::full({}, 100)}};
  net.load_state_dict(state);
  CHECK(sum("0") == 3);
  CHECK(sum("1") == 100);
  CHECK(sum("2") == 3);  // its weight came under another name
  CHECK(dynamic_cast<Summed&>(net.module("1")).asked == std::vector<size_t>{2});

  // What has no key is not asked; what throws is named, and nothing has changed.
  net.load_state_dict({{"1.weight", Tensor::from({5.f, 5.f}, {2})}}, {.strict = false});
  CHECK(sum("1") == 10);
  CHECK(dynamic_cast<Summed&>(net.module("0")).asked.size() == 1);
  state["1.weight"] = Tensor::from({-1.f, 2.f}, {2});
  state.erase("1._sum");
  state["0.weight"] = Tensor::from({8.f, 8.f}, {2});
  CHECK(throws([&] { net.load_state_dict(state); }, {"load_state_dict", "1: Summed: a negative weight"}));
  CHECK(sum("0") == 3);
  CHECK(values<float>(net.parameter("0.weight"))[0] == 1);
}
