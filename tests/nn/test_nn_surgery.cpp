// Rewriting and cloning module trees: ties, shared modules, and trees left as they were by what throws.
#include <altgrad/nn/containers.h>
#include <altgrad/nn/surgery.h>

#include "catch.h"
#include "errors.h"
#include "values.h"

using namespace altgrad;

namespace {

using nn::Module;
using Paths = std::vector<std::string>;
using Ptr = std::shared_ptr<Module>;

std::vector<Module*> modules_of(const Module& root) {
  std::vector<Module*> modules;
  for (auto& [name, module] : root.named_modules()) modules.push_back(module);
  return modules;
}

bool is_linear(const Ptr& module) { return dynamic_cast<nn::Linear*>(module.get()) != nullptr; }

// A layer around another: what surgery puts in place.
struct Around : nn::ModuleOf<Around, nn::Layer> {
  nn::Slot<nn::Layer> inner;
  explicit Around(std::shared_ptr<nn::Layer> layer) : inner(std::move(layer)) {}
  Tensor forward(const Tensor& x) override { return inner(x); }
  void visit(nn::Visitor& v) override { v("inner", inner); }
};

Ptr wrap(const Ptr& module) { return std::make_shared<Around>(std::dynamic_pointer_cast<nn::Layer>(module)); }

// The same Linear at "0", "2" and "3.0", another at "3.1".
struct Shared {
  std::shared_ptr<nn::Linear> linear = std::make_shared<nn::Linear>(2, 2);
  std::shared_ptr<nn::Linear> other = std::make_shared<nn::Linear>(2, 2);
  nn::Sequential net;
  Shared() {
    nn::Sequential inner;
    inner.push_back(linear);
    inner.push_back(other);
    net.push_back(linear);
    net.push_back(nn::ReLU());
    net.push_back(linear);
    net.push_back(std::move(inner));
  }
};

}  // namespace

TEST_CASE("rewrite offers each module once, parents first, by its first path", "[nn][surgery]") {
  Shared shared;
  Paths paths;
  std::vector<Module*> seen;
  nn::rewrite(shared.net, [&](const std::string& path, const Ptr& module) {
    paths.push_back(path);
    seen.push_back(module.get());
    return paths.size() % 2 ? module : nullptr;  // either way keeps it
  });
  CHECK(paths == Paths{"0", "1", "3", "3.1"});
  CHECK(seen == modules_of(shared.net));
}

TEST_CASE("rewrite replaces a shared module in all its places by one and the same", "[nn][surgery]") {
  Shared shared;
  int asked = 0;
  nn::rewrite(shared.net, [&](const std::string&, const Ptr& module) -> Ptr {
    if (module != shared.linear) return nullptr;
    ++asked;
    return wrap(module);
  });
  CHECK(asked == 1);
  auto& around = dynamic_cast<Around&>(shared.net.module("0"));
  CHECK(&shared.net.module("2") == &around);
  CHECK(&shared.net.module("3.0") == &around);
  CHECK(&shared.net.module("3.1") == shared.other.get());
  CHECK(around.inner.get() == shared.linear);
  CHECK(shared.net.parameter("0.inner.weight").id() == shared.linear->weight().id());
}

TEST_CASE("rewrite does not go into what it puts in", "[nn][surgery]") {
  nn::Sequential net(nn::Linear(2, 2), nn::Sequential(nn::Linear(2, 2)));
  Paths paths;
  nn::rewrite(net, [&](const std::string& path, const Ptr& module) -> Ptr {
    paths.push_back(path);
    return is_linear(module) ? wrap(module) : nullptr;
  });
  CHECK(paths == Paths{"0", "1", "1.0"});
  CHECK(net.module("1.0").type_name() == "Around");
  CHECK(net.module("1.0.inner").type_name() == "Linear");

  // Nor into what it takes out.
  paths.clear();
  nn::rewrite(net, [&](const std::string& path, const Ptr& module) -> Ptr {
    paths.push_back(path);
    return module->type_name() == "Sequential" ? std::make_shared<nn::Tanh>() : nullptr;
  });
  CHECK(paths == Paths{"0", "0.inner", "1"});
  CHECK(net.module("1").type_name() == "Tanh");
}

TEST_CASE("a rewrite that throws midway leaves the tree as it was", "[nn][surgery]") {
  Shared shared;
  const auto before = modules_of(shared.net);
  CHECK_THROWS_AS(nn::rewrite(shared.net,
                              [&](const std::string& path, const Ptr& module) -> Ptr {
                                if (path == "3.1") throw std::runtime_error("enough");
                                return is_linear(module) ? wrap(module) : nullptr;
                              }),
                  std::runtime_error);
  CHECK(modules_of(shared.net) == before);
}

TEST_CASE("a rewrite that a slot refuses leaves the tree as it was", "[nn][surgery]") {
  struct Picky : nn::ModuleOf<Picky, nn::Layer> {
    nn::Slot<nn::Layer> any{nn::Linear(2, 2)};
    nn::Slot<nn::Linear> linear{nn::Linear(2, 2)};
    Tensor forward(const Tensor& x) override { return linear(any(x)); }
    void visit(nn::Visitor& v) override { v("any", any), v("linear", linear); }
  };
  Picky picky;
  const auto before = modules_of(picky);
  const auto wrap_all = [](const std::string&, const Ptr& module) { return wrap(module); };
  CHECK(throws([&] { nn::rewrite(picky, wrap_all); },
               {"rewrite: the slot \"linear\" takes no Around in place of its Linear"}));
  CHECK(modules_of(picky) == before);

  // A shared module may be accepted in one of its places and refused in another.
  picky.any.set(picky.linear.get());
  CHECK_THROWS_AS(nn::rewrite(picky, wrap_all), std::invalid_argument);
  CHECK(picky.any.module() == picky.linear.module());
}

namespace {

// Ties of every kind: a tensor under two names, a module in two places, a buffer.
struct Tied : nn::ModuleOf<Tied, nn::Layer> {
  nn::Slot<nn::Embedding> embed{nn::Embedding(4, 4)};
  nn::Slot<nn::Layer> first{nn::Linear(4, 4)}, second{first};
  nn::Slot<nn::Layer> head{nn::Linear(embed->weight())};
  Tensor frozen = here::ones({2}), buffer = here::from({7}, {});
  std::optional<Tensor> bias;
  Tensor forward(const Tensor& ids) override { return head(second(first(embed(ids)))); }
  void visit(nn::Visitor& v) override {
    v("embed", embed), v("first", first), v("second", second), v("head", head);
    v("frozen", frozen), v("bias", bias), v.buffer("buffer", buffer);
  }
};

}  // namespace

TEST_CASE("a clone computes the same on its own storage", "[nn][surgery]") {
  const Tensor ids = here::from({0, 3, 1}, {3});
  Tied source = on_device(Tied());
  source.parameter("first.weight").set_grad(here::ones({4, 4}));
  Tied copy = nn::clone(source);

  const auto theirs = source.state_dict(), ours = copy.state_dict();
  REQUIRE(ours.size() == theirs.size());
  for (const auto& [name, t] : theirs) {
    INFO(name);
    const Tensor& u = ours.at(name);
    CHECK_FALSE(u.is(t));
    CHECK(u.shape() == t.shape());
    CHECK(u.dtype() == t.dtype());
    CHECK(u.requires_grad() == t.requires_grad());
    CHECK_FALSE(u.has_grad());
    CHECK(same_bits(u, t));
  }
  const Tensor before = source(ids).clone();
  CHECK(same_bits(copy(ids), before));

  // Independent of the source, both ways.
  for (const Tensor& p : copy.parameters()) p.fill_(0);
  CHECK(same_bits(source(ids), before));
  CHECK(source.parameter("first.weight").has_grad());
  copy.first.set(std::make_shared<nn::Tanh>());
  CHECK(source.module("first").type_name() == "Linear");
}

TEST_CASE("a clone keeps ties as ties, in itself", "[nn][surgery]") {
  const Tied source;
  const Tied copy = nn::clone(source);
  CHECK(copy.parameter("head.weight").id() == copy.parameter("embed.weight").id());
  CHECK(copy.parameter("head.weight").id() != source.parameter("head.weight").id());
  CHECK(&copy.module("first") == &copy.module("second"));
  CHECK(&copy.module("first") != &source.module("first"));
  CHECK(copy.num_parameters() == source.num_parameters());
  CHECK_FALSE(copy.bias.has_value());
}

TEST_CASE("a clone keeps classes, surgery and training mode", "[nn][surgery]") {
  nn::Sequential net(nn::Linear(2, 2), nn::Sequential(nn::Linear(2, 2), nn::Dropout(0.5)));
  nn::rewrite(
      net, [](const std::string& path, const Ptr& module) { return path == "1.0" ? wrap(module) : module; });
  net.module("1").eval();
  const nn::Sequential copy = nn::clone(net);

  const auto theirs = net.named_modules(), ours = copy.named_modules();
  REQUIRE(ours.size() == theirs.size());
  for (size_t i = 0; i < ours.size(); ++i) {
    INFO(theirs[i].first);
    CHECK(ours[i].first == theirs[i].first);
    const nn::Module &mine = *ours[i].second, &other = *theirs[i].second;
    CHECK(typeid(mine) == typeid(other));
    CHECK(ours[i].second != theirs[i].second);
    CHECK(ours[i].second->training() == theirs[i].second->training());
    CHECK(ours[i].second->extra_repr() == theirs[i].second->extra_repr());
  }
  CHECK(copy.training());
  CHECK_FALSE(copy.module("1.0.inner").training());
}

TEST_CASE("clone_module copies by the true class, and clone refuses to slice", "[nn][surgery]") {
  struct Base : nn::ModuleOf<Base> {};
  struct Derived : nn::ModuleOf<Derived, Base> {};
  struct Forgot : Base {};  // its copy() would give a Base

  const Derived derived;
  const std::shared_ptr<Module> copy = nn::clone_module(derived);
  CHECK(dynamic_cast<Derived*>(copy.get()) != nullptr);
  CHECK_THROWS_AS(nn::clone(static_cast<const Base&>(derived)), std::invalid_argument);
  CHECK_THROWS_AS(nn::clone_module(Forgot()), std::invalid_argument);
}

TEST_CASE("a class whose copy would share a member's place with its source cannot be cloned",
          "[nn][surgery]") {
  struct Holder : nn::ModuleOf<Holder> {
    std::shared_ptr<nn::Linear> linear = std::make_shared<nn::Linear>(2, 2);
    void visit(nn::Visitor& v) override { linear->visit(v); }
  };
  const Holder source;
  const Tensor weight = source.linear->weight();
  CHECK_THROWS_AS(nn::clone(source), std::invalid_argument);
  CHECK(source.linear->weight().id() == weight.id());

  struct Copier : nn::ModuleOf<Copier> {
    std::shared_ptr<nn::Linear> linear = std::make_shared<nn::Linear>(2, 2);
    Copier() = default;
    Copier(const Copier& other) : ModuleOf(other), linear(std::make_shared<nn::Linear>(*other.linear)) {}
    void visit(nn::Visitor& v) override { linear->visit(v); }
  };
  const Copier good;
  const Copier copy = nn::clone(good);
  CHECK(good.linear->weight().id() != copy.linear->weight().id());
}

TEST_CASE("cloning and loading are recorded by no tape", "[nn][surgery]") {
  const Tied source;
  Tape tape;
  Tied copy = nn::clone(source);
  copy.load_state_dict(source.state_dict());
  copy.to(DType::f64);
  CHECK(tape.num_ops() == 0);
}
