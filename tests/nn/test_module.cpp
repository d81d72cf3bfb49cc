// Module: what visit() lists is what names, counting, moving, saving and printing see, and nothing else is.
#include <altgrad/autograd/ops.h>
#include <altgrad/nn/containers.h>

#include <sstream>

#include "allocations.h"
#include "catch.h"
#include "errors.h"
#include "values.h"

using namespace altgrad;

namespace {

using Names = std::vector<std::string>;

template <class Pairs>
Names names_of(const Pairs& pairs) {
  Names names;
  for (const auto& [name, value] : pairs) names.push_back(name);
  return names;
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

Tensor trainable(const Shape& shape, double value) {
  Tensor t = here::full(shape, value);
  t.requires_grad(true);
  return t;
}

// Two leaves under three names, a shared child, buffers of two dtypes and an absent bias.
struct Model : nn::ModuleOf<Model> {
  nn::Slot<nn::Linear> embed{nn::Linear(trainable({3, 2}, 1))};
  nn::Slot<nn::Linear> head{nn::Linear(embed->weight(), trainable({3}, 2))};  // tied to embed
  nn::Slot<nn::Layer> again{std::shared_ptr<nn::Layer>(head.get())};          // the same object as head
  nn::Slot<nn::Layer> nothing;
  Tensor scale = trainable({1}, 3);
  Tensor unset;
  Tensor running = here::full({2}, 4), count = here::from({5}, {});

  void visit(nn::Visitor& v) override {
    v("scale", scale);
    v("unset", unset);
    v("embed", embed);
    v("head", head);
    v("again", again);
    v("nothing", nothing);
    v.buffer("running", running);
    v.buffer("_count", count);
  }
};

std::string printed(const nn::Module& module) {
  std::ostringstream out;
  out << module;
  return out.str();
}

}  // namespace

TEST_CASE("parameters, buffers and modules are listed once, in visiting order, by their first name", "[nn]") {
  const Model model;
  CHECK(names_of(model.named_parameters()) == Names{"scale", "embed.weight", "head.bias"});
  CHECK(names_of(model.named_buffers()) == Names{"running", "_count"});
  CHECK(names_of(model.named_modules()) == Names{"embed", "head"});
  CHECK(model.parameters().size() == 3);
  CHECK(model.num_parameters() == 1 + 6 + 3);

  // The handles listed are the members themselves.
  CHECK(model.named_parameters()[1].second.id() == model.embed->weight().id());
  CHECK(model.named_modules()[1].second == model.head.get().get());
}

TEST_CASE("parameter and module resolve every name, a tied second one too", "[nn]") {
  const Model model;
  CHECK(model.parameter("scale").id() == model.scale.id());
  CHECK(model.parameter("head.weight").id() == model.parameter("embed.weight").id());
  CHECK(model.parameter("again.bias").id() == model.parameter("head.bias").id());
  CHECK(&model.module("again") == &model.module("head"));
  CHECK(&model.module("embed") != &model.module("head"));

  // What parameter() gives is the member: assigning to it re-seats it.
  const Tensor other = trainable({1}, 7);
  model.parameter("scale") = other;
  CHECK(model.scale.id() == other.id());
}

TEST_CASE("a name that leads nowhere is refused with the names there are", "[nn]") {
  const Model model;
  CHECK(throws(
      [&] { model.parameter("embed.wieght"); },
      {"parameter: Model has no parameter \"embed.wieght\"; there are scale, embed.weight, head.bias"}));
  CHECK(throws([&] { model.module("hed"); }, {"module: Model has no module \"hed\"; there are embed, head"}));
  for (const char* path :
       {"", ".", "embed", "embed.", ".embed", "embed.weight.", "embed_weight", "running", "unset"}) {
    INFO(path);
    CHECK_THROWS_AS(model.parameter(path), std::invalid_argument);
  }
  CHECK_THROWS_AS(model.module("nothing"), std::invalid_argument);
  CHECK(throws([&] { nn::ReLU().parameter("weight"); }, {"there are none"}));

  nn::ModuleList list;
  for (int i = 0; i < 40; ++i) list.push_back(nn::Linear(1, 1));
  // The nearest first, and a dozen of the 80.
  CHECK(throws([&] { list.parameter("31.weigth"); }, {"; there are 31.weight, ", ", and 68 more"}));
}

TEST_CASE("names that would make paths ambiguous are refused", "[nn]") {
  struct Dotted : nn::ModuleOf<Dotted> {
    Tensor w = trainable({1}, 0);
    void visit(nn::Visitor& v) override { v("a.b", w); }
  };
  struct Nameless : nn::ModuleOf<Nameless> {
    Tensor w = trainable({1}, 0);
    void visit(nn::Visitor& v) override { v("", w); }
  };
  struct Twice : nn::ModuleOf<Twice> {
    Tensor a = trainable({1}, 0), b = trainable({1}, 0);
    void visit(nn::Visitor& v) override { v("w", a), v("w", b); }
  };
  CHECK(throws([] { Dotted().parameters(); }, {"\"a.b\""}));
  CHECK_THROWS_AS(Nameless().parameters(), std::invalid_argument);
  CHECK(throws([] { Twice().state_dict(); }, {"two tensors of Twice are called \"w\""}));
}

TEST_CASE("a replaced child is the one that everything sees", "[nn]") {
  nn::Sequential net(nn::Linear(2, 2), nn::ReLU());
  const Tensor old = net.parameter("0.weight");
  net.eval();
  net[0].set(std::make_shared<nn::Linear>(trainable({1, 2}, 3)));

  CHECK(names_of(net.named_parameters()) == Names{"0.weight"});
  CHECK(net.parameter("0.weight").id() != old.id());
  CHECK(net.num_parameters() == 2);
  CHECK(net(here::ones({1, 2})).item<float>() == 6);
  CHECK(net.state_dict().at("0.weight").shape() == Shape{1, 2});
  CHECK(contains(printed(net), "(0): Linear(in_features=2, out_features=1, bias=false)"));
  net.parameter("0.weight").set_grad(here::ones({1, 2}));
  net.zero_grad();
  CHECK_FALSE(net.parameter("0.weight").has_grad());
  net.to(DType::f64);
  CHECK(net.parameter("0.weight").dtype() == DType::f64);
  CHECK(old.dtype() == DType::f32);
  CHECK(net.module("0").training());
  net.eval();
  CHECK_FALSE(net.module("0").training());
}

TEST_CASE("an empty slot says so when it is called", "[nn]") {
  const nn::Slot<nn::Layer> slot;
  CHECK(throws([&] { slot(Tensor::ones({1})); }, {"slot: it is empty; put a Layer in before it is used"}));
  CHECK(slot.module() == nullptr);
}

TEST_CASE("a slot takes what has its interface and refuses the rest", "[nn]") {
  nn::Slot<nn::Linear> slot(nn::Linear(2, 3));
  const auto held = slot.get();
  CHECK_FALSE(slot.accepts(nn::ReLU()));
  CHECK(throws([&] { slot.set(std::make_shared<nn::ReLU>()); },
               {"slot: it holds a Linear, and a ReLU is none"}));
  CHECK(slot.get() == held);
  CHECK(slot.accepts(nn::Linear(1, 1)));
  slot.set(nullptr);
  CHECK(slot.get() == nullptr);
  nn::Slot<nn::Layer> wide(held);
  const nn::Slot<nn::Layer> copy = wide;
  CHECK(copy.get() == held);
  CHECK_FALSE(wide.accepts(nn::ModuleList()));
}

TEST_CASE("train and eval reach every module below", "[nn]") {
  nn::Sequential net(nn::Linear(1, 1), nn::Sequential(nn::Dropout(0.5), nn::Tanh()));
  CHECK(net.training());
  net.eval();
  CHECK_FALSE(net.training());
  for (auto& [name, module] : net.named_modules()) CHECK_FALSE(module->training());
  net.module("1").train();
  CHECK_FALSE(net.training());
  CHECK_FALSE(net.module("0").training());
  CHECK(net.module("1.0").training());
}

TEST_CASE("zero_grad drops the gradients of all parameters and touches no heap", "[nn]") {
  Model model;
  const std::vector<Tensor> parameters = model.parameters();
  for (const Tensor& p : parameters) p.set_grad(here::ones(p.shape()));
  const int64_t before = heap_allocations();
  model.zero_grad();
  model.train();
  CHECK(heap_allocations() == before);
  for (const Tensor& p : parameters) CHECK_FALSE(p.has_grad());
}

TEST_CASE("to(dtype) converts parameters in place, for every handle", "[nn]") {
  Model model;
  const Tensor handle = model.embed->weight();
  const Tensor scale = model.scale;
  scale.set_grad(here::ones({1}));
  model.to(DType::f64);
  CHECK(handle.dtype() == DType::f64);
  CHECK(values<double>(handle)[5] == 1);
  CHECK(handle.requires_grad());
  CHECK(model.parameter("head.weight").id() == handle.id());
  CHECK_FALSE(scale.has_grad());
  CHECK(model.running.dtype() == DType::f32);
  CHECK(model.count.dtype() == DType::i64);

  // What is so already is left alone, gradients too.
  scale.set_grad(here::ones({1}, {.dtype = DType::f64}));
  model.to(DType::f64);
  CHECK(scale.has_grad());
  CHECK(throws([&] { model.to(DType::i64); }, {"i64"}));
  CHECK(handle.dtype() == DType::f64);

  nn::Linear codes(here::zeros({2, 2}, {.dtype = DType::u8}));
  codes.to(DType::f64);
  CHECK(codes.weight().dtype() == DType::u8);
}

TEST_CASE("to a device that is not there throws and changes nothing", "[nn]") {
  const Device missing = Device::cuda(cuda_device_count());
  Model model;
  model.scale.set_grad(here::ones({1}));
  CHECK_THROWS_AS(model.to(missing), std::runtime_error);
  CHECK(model.scale.has_grad());
  for (const auto& [name, t] : model.state_dict()) CHECK(t.device() == device());
  model.to(device());
  CHECK(model.scale.has_grad());

  struct Buffer : nn::ModuleOf<Buffer> {
    Tensor t = here::zeros({1});
    void visit(nn::Visitor& v) override { v.buffer("t", t); }
  };
  CHECK_THROWS_AS(Buffer().to(missing), std::runtime_error);  // buffers move too
}

TEST_CASE("a converted model still computes and differentiates", "[nn]") {
  nn::Linear layer(trainable({1, 2}, 3));
  layer.to(DType::f64);
  const Tensor x = here::from({1.0, 2.0}, {1, 2});
  Tape tape;
  tape.backward(layer(x));
  CHECK(values<double>(layer.weight().grad())[1] == 2);
}

TEST_CASE("a state dict holds the model's own tensors by their first names", "[nn]") {
  const Model model;
  const StateDict state = model.state_dict();
  CHECK(names_of(state) == Names{"_count", "embed.weight", "head.bias", "running", "scale"});
  CHECK(state.at("scale").id() == model.scale.id());
}

TEST_CASE("a state dict makes the round trip, also through another dtype", "[nn]") {
  Model source, same, wide;
  source.embed->weight().copy_(Tensor::from({1.f, 2.f, 3.f, 4.f, 5.f, 6.f}, {3, 2}));
  source.running.fill_(8);
  source.count.fill_(9);
  const void* body = same.scale.id();
  same.load_state_dict(source.state_dict());
  CHECK(same.scale.id() == body);
  CHECK_FALSE(same.embed->weight().is(source.embed->weight()));
  CHECK(values<float>(same.head->weight())[4] == 5);
  CHECK(values<float>(same.running)[1] == 8);
  CHECK(same.count.item<int64_t>() == 9);

  wide.to(DType::f64);
  wide.load_state_dict(source.state_dict());
  CHECK(wide.embed->weight().dtype() == DType::f64);
  CHECK(values<double>(wide.embed->weight())[4] == 5);
  same.embed->weight().fill_(0);
  same.load_state_dict(wide.state_dict());
  CHECK(values<float>(same.embed->weight())[4] == 5);
  same.load_state_dict(same.state_dict());
  CHECK(values<float>(same.embed->weight())[4] == 5);
}

TEST_CASE("a tied tensor loads under any of its names", "[nn]") {
  Model model;
  StateDict state = model.state_dict();
  state.erase("embed.weight");
  state.erase("head.bias");
  state["head.weight"] = Tensor::full({3, 2}, 10);
  state["again.bias"] = Tensor::full({3}, 11);
  model.load_state_dict(state);
  CHECK(values<float>(model.embed->weight())[0] == 10);
  CHECK(values<float>(*model.head->bias())[0] == 11);
  state["embed.weight"] = Tensor::full({3, 2}, 10);  // under both, as PyTorch saves them
  CHECK_NOTHROW(model.load_state_dict(state));
}

TEST_CASE("a strict load names every missing, unexpected and mismatched key and copies nothing", "[nn]") {
  Model model;
  StateDict state;
  state["scale"] = Tensor::full({1}, 100);  // fits
  state["embed.weight"] = Tensor::zeros({2, 3});
  state["running"] = Tensor::zeros({2}, {.dtype = DType::i64});
  state["head.bias.extra"] = Tensor::zeros({1});
  state["other"] = Tensor::zeros({1});
  CHECK(throws([&] { model.load_state_dict(state); },
               {"load_state_dict: the state does not fit this Model"
                "\n  missing: head.bias"
                "\n  unexpected: head.bias.extra"
                "\n  unexpected: other"
                "\n  mismatched: embed.weight, here (3, 2) f32, given (2, 3) f32"
                "\n  mismatched: running, here (2) f32, given (2) i64"}));
  CHECK(model.scale.item<float>() == 3);

  // Shapes must match all the same.
  CHECK(throws([&] { model.load_state_dict(state, {.strict = false}); },
               {"load_state_dict: the state does not fit this Model"
                "\n  mismatched: embed.weight, here (3, 2) f32, given (2, 3) f32"
                "\n  mismatched: running, here (2) f32, given (2) i64"}));
  CHECK(model.scale.item<float>() == 3);
  state.erase("embed.weight");
  state.erase("running");
  model.load_state_dict(state, {.strict = false});
  CHECK(model.scale.item<float>() == 100);

  StateDict undefined = model.state_dict();
  undefined["scale"] = Tensor();
  CHECK(throws([&] { model.load_state_dict(undefined); }, {"undefined: scale"}));
}

TEST_CASE("auxiliary keys are neither required nor refused, but loaded where they fit", "[nn]") {
  Model model;
  StateDict state = model.state_dict();
  state["_count"] = Tensor::from({6}, {});
  state["embed._history"] = Tensor::zeros({16});
  model.load_state_dict(state);
  CHECK(model.count.item<int64_t>() == 6);
  state.erase("_count");
  CHECK_NOTHROW(model.load_state_dict(state));
  state["_count"] = Tensor::zeros({2}, {.dtype = DType::i64});
  CHECK(throws([&] { model.load_state_dict(state); }, {"mismatched: _count"}));
  state.erase("_count");
  state["_module.weight"] = Tensor::zeros({1});  // only the last component counts
  CHECK(throws([&] { model.load_state_dict(state); }, {"unexpected: _module.weight"}));
}

TEST_CASE("copies of a module are shallow", "[nn]") {
  nn::Linear a(2, 2);
  nn::Linear b = a;
  CHECK(b.weight().id() == a.weight().id());
  b.eval();
  CHECK(a.training());
  nn::Sequential net{nn::Linear(a), nn::ReLU()};
  nn::Sequential other = net;
  CHECK(&other.module("0") == &net.module("0"));
}

namespace {
template <class T>
struct Templated : nn::ModuleOf<Templated<T>, nn::Layer> {
  Tensor forward(const Tensor& x) override { return x; }
};
struct Wrapper : nn::ModuleOf<Wrapper> {
  nn::Slot<nn::Layer> inner{nn::Sequential(nn::Linear(2, 3), nn::GELU(Gelu::tanh), nn::Sequential())};
  nn::Slot<nn::Layer> empty;
  nn::ModuleDict dict{{"drop", nn::Dropout(0.25)}, {"norm", nn::LayerNorm(3)}};
  nn::Slot<nn::ModuleDict> named{dict};
  std::string extra_repr() const override { return "answer=42"; }
  void visit(nn::Visitor& v) override { v("inner", inner), v("empty", empty), v("named", named); }
};
}  // namespace

TEST_CASE("modules print as a tree", "[nn]") {
  CHECK(printed(nn::ReLU()) == "ReLU()");
  CHECK(printed(nn::Linear(2, 3, {.bias = false})) == "Linear(in_features=2, out_features=3, bias=false)");
  CHECK(printed(Wrapper()) ==
        "Wrapper(\n"
        "  answer=42\n"
        "  (inner): Sequential(\n"
        "    (0): Linear(in_features=2, out_features=3, bias=true)\n"
        "    (1): GELU(approximate=tanh)\n"
        "    (2): Sequential()\n"
        "  )\n"
        "  (named): ModuleDict(\n"
        "    (drop): Dropout(p=0.25)\n"
        "    (norm): LayerNorm(3, eps=1e-05, bias=true)\n"
        "  )\n"
        ")");
}

TEST_CASE("type names leave the namespaces out", "[nn]") {
  struct Local : nn::ModuleOf<Local> {};
  CHECK(Local().type_name() == "Local");
  CHECK(nn::Linear(1, 1).type_name() == "Linear");
  CHECK(Templated<int>().type_name() == "Templated<int>");
  CHECK(contains(Templated<nn::Linear>().type_name(), "Templated<"));
}
