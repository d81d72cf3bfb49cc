// Trees that no module should be made into, and objects that have been emptied: cycles, chains of 100,000
// modules, and everything that can be moved from. All of it throws, and nothing overflows the stack.
#include <altgrad/fp8/surgery.h>
#include <altgrad/models/data.h>
#include <altgrad/models/gpt.h>
#include <altgrad/nn/containers.h>
#include <altgrad/nn/surgery.h>

#include "catch.h"
#include "errors.h"
#include "temp_folder.h"

#include <fstream>
#include <functional>
#include <sstream>

using namespace altgrad;

namespace {

// A layer that calls another, put in by hand.
struct Link : nn::ModuleOf<Link, nn::Layer> {
  nn::Slot<nn::Layer> next;
  Tensor w = Tensor::ones({1}).requires_grad(true);
  Tensor forward(const Tensor& x) override { return next.get() ? next(x) : x * w; }
  void visit(nn::Visitor& v) override { v("w", w), v("next", next); }
};

// A layer that lists itself as its own child, which no slot can know.
struct Mirror : nn::ModuleOf<Mirror, nn::Layer> {
  nn::Slot<nn::Layer> self;
  std::vector<nn::Slot<nn::Layer>> unchecked;
  Tensor w = Tensor::ones({1}).requires_grad(true);
  Tensor forward(const Tensor& x) override { return unchecked[0](x); }
  void visit(nn::Visitor& v) override {
    v("w", w);
    for (auto& slot : unchecked) v("self", slot);
  }
};

struct Operation {
  const char* name;
  std::function<void(nn::Layer&)> run;
};
std::vector<Operation> all_operations() {
  return {
      {"train", [](nn::Layer& m) { m.train(); }},
      {"eval", [](nn::Layer& m) { m.eval(); }},
      {"zero_grad", [](nn::Layer& m) { m.zero_grad(); }},
      {"parameters", [](nn::Layer& m) { m.parameters(); }},
      {"named_modules", [](nn::Layer& m) { m.named_modules(); }},
      {"parameter", [](nn::Layer& m) { m.parameter("w"); }},
      {"to", [](nn::Layer& m) { m.to(DType::f32); }},
      {"state_dict", [](nn::Layer& m) { m.state_dict(); }},
      {"load_state_dict", [](nn::Layer& m) { m.load_state_dict(m.state_dict()); }},
      {"load, not strict", [](nn::Layer& m) { m.load_state_dict({}, {.strict = false}); }},
      {"print", [](nn::Layer& m) { (std::ostringstream() << m); }},
      {"clone", [](nn::Layer& m) { nn::clone_module(m); }},
      {"rewrite", [](nn::Layer& m) { nn::rewrite(m, [](auto&, auto& child) { return child; }); }},
      {"quantize_model", [](nn::Layer& m) { fp8::quantize_model(m, fp8::E4M3); }},
      {"quantize_model, skipping",
       [](nn::Layer& m) { fp8::quantize_model(m, fp8::E4M3, {.skip_patterns = {"*"}}); }},
      {"dequantize_model", [](nn::Layer& m) { fp8::dequantize_model(m); }},
      {"forward", [](nn::Layer& m) { m(Tensor::ones({1})); }},
  };
}

// Either it works or it throws std::invalid_argument that says why.
bool works_or_refuses(const Operation& operation, nn::Layer& module) {
  try {
    operation.run(module);
    return true;
  } catch (const std::invalid_argument& e) {
    UNSCOPED_INFO(e.what());
    const std::string text = e.what();
    return text.find("more than 1000 modules") != text.npos || text.find("would contain itself") != text.npos;
  }
}

}  // namespace

TEST_CASE("a module that would contain itself is refused where that is made, and nothing has changed",
          "[nn]") {
  const auto sequential = std::make_shared<nn::Sequential>(nn::Tanh());
  CHECK(throws([&] { sequential->push_back(sequential); }, {"Sequential would contain itself"}));
  CHECK(throws([&] { (*sequential)[0].set(sequential); }, {"Sequential would contain itself"}));
  CHECK(throws([&] { (*sequential)[0] = nn::Slot<nn::Layer>(sequential); }, {"would contain itself"}));
  CHECK(sequential->size() == 1);
  CHECK(sequential->module("0").type_name() == "Tanh");

  const auto outer = std::make_shared<nn::Sequential>();
  outer->push_back(sequential);
  CHECK(throws([&] { sequential->push_back(outer); }, {"Sequential would contain itself"}));
  CHECK(throws([&] { (*sequential)[0] = outer; }, {"would contain itself"}));
  CHECK(sequential->size() == 1);

  const auto link = std::make_shared<Link>(), second = std::make_shared<Link>();
  CHECK(throws([&] { link->next.set(link); }, {"Link would contain itself"}));
  CHECK(throws([&] { link->next = link; }, {"Link would contain itself"}));
  link->next.set(second);
  CHECK(throws([&] { second->next.set(link); }, {"Link would contain itself"}));
  CHECK(second->next.get() == nullptr);

  struct WithList : nn::ModuleOf<WithList, nn::Layer> {
    nn::Slot<nn::ModuleList> list{nn::ModuleList()};
    nn::Slot<nn::ModuleDict> dict{nn::ModuleDict()};
    Tensor forward(const Tensor& x) override { return x; }
    void visit(nn::Visitor& v) override { v("list", list), v("dict", dict); }
  };
  const auto owner = std::make_shared<WithList>();
  CHECK(throws([&] { owner->list->push_back(owner); }, {"WithList would contain itself"}));
  CHECK(throws([&] { owner->dict->insert("owner", owner); }, {"WithList would contain itself"}));
  CHECK(owner->list->size() + owner->dict->size() == 0);

  // Assigning gives a container other slots at once; no slot's own assignment runs.
  CHECK(throws([&] { *owner->list = nn::ModuleList({owner}); }, {"WithList would contain itself"}));
  CHECK(throws(
      [&] {
        *owner->dict = nn::ModuleDict({{"owner", owner}});
      },
      {"WithList would contain itself"}));
  CHECK(throws([&] { *sequential = *outer; }, {"Sequential would contain itself"}));
  CHECK(owner->list->size() + owner->dict->size() == 0);
  CHECK(sequential->size() == 1);
  *owner->list = nn::ModuleList({nn::Tanh(), sequential});
  CHECK(owner->module("list.1.0").type_name() == "Tanh");
  const nn::Sequential other{nn::ReLU(), nn::Tanh()};
  nn::Sequential assigned(nn::Sigmoid{});
  assigned = other;
  CHECK(&assigned.module("0") == &other.module("0"));  // as with copies, children are shared
}

TEST_CASE("a rewrite that would make a module contain itself leaves the tree as it was", "[nn][surgery]") {
  const auto inner = std::make_shared<nn::Sequential>(nn::Tanh());
  nn::Sequential root{nn::ReLU(), nn::ReLU()};
  root.push_back(inner);
  CHECK(throws(
      [&] {
        nn::rewrite(root, [&](const std::string& path, const std::shared_ptr<nn::Module>& module) {
          if (path == "0") return std::shared_ptr<nn::Module>(std::make_shared<nn::Sigmoid>());
          return path == "2.0" ? inner : module;
        });
      },
      {"would contain itself"}));
  CHECK(root.module("0").type_name() == "ReLU");
  CHECK(root.module("2.0").type_name() == "Tanh");
}

TEST_CASE("where nothing could see a module come to contain itself, every operation works or says so",
          "[nn]") {
  const auto mirror = std::make_shared<Mirror>();
  mirror->unchecked.push_back(mirror);  // a plain vector's push_back checks nothing
  for (const Operation& operation : all_operations()) {
    INFO(operation.name);
    CHECK(works_or_refuses(operation, *mirror));
  }
  mirror->unchecked.clear();  // or the cycle would leak
}

TEST_CASE("a chain of 100,000 modules works or is refused, whichever end it is made from", "[nn]") {
  const int length = 100000;
  const auto first = std::make_shared<Link>();
  std::shared_ptr<Link> last = first;
  for (int i = 1; i < length; ++i) {
    const auto next = std::make_shared<Link>();
    last->next.set(next);
    last = next;
  }
  last.reset();
  for (const Operation& operation : all_operations()) {
    INFO(operation.name);
    CHECK(works_or_refuses(operation, *first));
  }
  CHECK(first->training());  // eval, which was refused, has changed nothing

  std::shared_ptr<nn::Sequential> chain = std::make_shared<nn::Sequential>();
  CHECK(throws(
      [&] {
        for (int i = 1; i < length; ++i) {
          const auto outer = std::make_shared<nn::Sequential>();
          outer->push_back(chain);
          chain = outer;
        }
      },
      {"more than 1000 modules"}));
  CHECK(chain->named_modules().size() >= 999);
  chain->eval();
  chain->zero_grad();
  CHECK((*chain)(Tensor::ones({1})).item<float>() == 1);
  CHECK(nn::clone(*chain).named_modules().size() == chain->named_modules().size());
}

TEST_CASE("modules that are shared along 2^100 paths are trained, moved and saved once", "[nn]") {
  const auto bottom = std::make_shared<nn::Sequential>(Link());
  std::shared_ptr<nn::Sequential> top = bottom;
  for (int i = 0; i < 100; ++i) {
    const auto above = std::make_shared<nn::Sequential>();
    above->push_back(top);
    above->push_back(top);
    top = above;
  }
  bottom->parameters()[0].set_grad(Tensor::ones({1}));
  top->eval();
  CHECK_FALSE(bottom->module("0").training());
  top->zero_grad();
  CHECK_FALSE(bottom->parameters()[0].has_grad());
  top->to(DType::f64);
  CHECK(bottom->parameters()[0].dtype() == DType::f64);
  CHECK(top->state_dict().size() == 1);
  CHECK(nn::clone(*top).named_modules().size() == 101);
}

TEST_CASE("100,000 modules in a row work", "[nn]") {
  const int length = 100000;
  nn::Sequential row;
  for (int i = 0; i < length; ++i) row.push_back(Link());
  row.eval();
  row.zero_grad();
  CHECK(row.parameters().size() == size_t(length));
  CHECK(row(Tensor::ones({1})).item<float>() == 1);
  nn::Sequential other = nn::clone(row);
  row.parameter("77.w").fill_(3);
  other.load_state_dict(row.state_dict());
  CHECK(other(Tensor::ones({1})).item<float>() == 3);
}

TEST_CASE("modules nested side by side and taken out again do not count as nested", "[nn]") {
  nn::Sequential wide;
  for (int i = 0; i < 3000; ++i) wide.push_back(nn::Sequential(nn::Tanh()));
  for (int round = 0; round < 3; ++round) {
    CHECK(wide.named_modules().size() == 6000);
    CHECK_NOTHROW(wide(Tensor::ones({1})));
  }
  struct Thrower : nn::ModuleOf<Thrower, nn::Layer> {
    Tensor forward(const Tensor&) override { fail("Thrower: no"); }
  };
  nn::Sequential thrower{nn::Tanh(), nn::Sequential(Thrower())};
  for (int round = 0; round < 1500; ++round) CHECK_THROWS_WITH(thrower(Tensor::ones({1})), "Thrower: no");
  CHECK(thrower.named_modules().size() == 3);
}

namespace {

struct Emptied {
  const char* name;
  std::function<void()> use;
};

}  // namespace

TEST_CASE("objects that were moved from or emptied throw", "[nn]") {
  const TempFolder folder;
  const std::string text = folder / "text.txt";
  std::ofstream(text) << "abcdefghijklmnopqrstuvwxyz";
  std::ofstream(text + ".bin") << "a b c d e f ";
  const Tensor x = Tensor::ones({2, 2}), ids = Tensor::zeros({1, 2}, {.dtype = DType::i64});

  nn::Linear linear(2, 2), linear_left = linear;
  const nn::Linear linear_taken = std::move(linear_left);
  nn::Embedding embedding(2, 2);
  const nn::Embedding embedding_taken = std::move(embedding);
  nn::LayerNorm norm(2);
  const nn::LayerNorm norm_taken = std::move(norm);
  nn::RMSNorm rms(2);
  const nn::RMSNorm rms_taken = std::move(rms);
  auto quantized = fp8::QuantizedLinear::from_linear(linear, fp8::E4M3);
  const auto quantized_taken = std::move(quantized);
  nn::Slot<nn::Layer> slot, slot_left(nn::Tanh{});
  const nn::Slot<nn::Layer> slot_taken = std::move(slot_left);
  nn::Sequential sequential(nn::Tanh{});
  const nn::Sequential sequential_taken = std::move(sequential);
  nn::ModuleList list({nn::Tanh(), nn::Tanh()});
  const nn::ModuleList list_taken = std::move(list);
  nn::ModuleDict dict({{"a", nn::Tanh()}, {"b", nn::Tanh()}});
  const nn::ModuleDict dict_taken = std::move(dict);
  nn::Sequential hollow(nn::Tanh{});
  hollow[0].set(nullptr);
  models::GPT gpt({.n_layer = 1, .n_head = 1, .n_embd = 2, .block_size = 2, .vocab_size = 3});
  models::GPT headless = gpt;
  headless.lm_head.set(nullptr);
  const models::GPT gpt_taken = std::move(gpt);
  models::CharDataset data(text, 2);
  const models::CharDataset data_taken = std::move(data);
  models::TokenDataset tokens(text + ".bin", 2, 65536);
  const models::TokenDataset tokens_taken = std::move(tokens);
  fp8::AmaxHistory history(3);
  const fp8::AmaxHistory history_taken = std::move(history);
  fp8::Quantizer quantizer{fp8::E4M3, fp8::AmaxHistory(3), {}, {}};
  const fp8::Quantizer quantizer_taken = std::move(quantizer);
  optim::AdamW adamw(linear.parameters(), {});
  const optim::AdamW adamw_taken = std::move(adamw);
  optim::SGD sgd(linear.parameters(), {.momentum = 0.5});
  const optim::SGD sgd_taken = std::move(sgd);
  optim::AdamW cleared(linear.parameters(), {});
  cleared.groups().clear();
  optim::AdamW no_lr(linear.parameters(), {});
  no_lr.groups()[0].lr.reset();
  const StateDict optimizer_state = adamw_taken.state_dict();

  const Emptied table[] = {
      {"Linear forward", [&] { linear_left(x); }},
      {"Linear in_features", [&] { linear_left.in_features(); }},
      {"Linear extra_repr", [&] { linear_left.extra_repr(); }},
      {"Linear to QuantizedLinear", [&] { fp8::QuantizedLinear::from_linear(linear_left, fp8::E4M3)(x); }},
      {"Embedding forward", [&] { embedding(ids); }},
      {"Embedding extra_repr", [&] { embedding.extra_repr(); }},
      {"LayerNorm forward", [&] { norm(x); }},
      {"LayerNorm extra_repr", [&] { norm.extra_repr(); }},
      {"RMSNorm forward", [&] { rms(x); }},
      {"RMSNorm extra_repr", [&] { rms.extra_repr(); }},
      {"QuantizedLinear forward", [&] { quantized(x); }},
      {"QuantizedLinear weight", [&] { quantized.weight(); }},
      {"QuantizedLinear bias", [&] { quantized.bias(); }},
      {"QuantizedLinear linear", [&] { quantized.linear(); }},
      {"QuantizedLinear linear_ptr", [&] { quantized.linear_ptr(); }},
      {"QuantizedLinear history", [&] { quantized.weight_history().size(); }},
      {"QuantizedLinear extra_repr", [&] { quantized.extra_repr(); }},
      {"QuantizedLinear parameters", [&] { quantized.parameters(); }},
      {"QuantizedLinear train", [&] { quantized.train(); }},
      {"QuantizedLinear zero_grad", [&] { quantized.zero_grad(); }},
      {"QuantizedLinear state_dict", [&] { quantized.state_dict(); }},
      {"QuantizedLinear load_state_dict", [&] { quantized.load_state_dict({}); }},
      {"QuantizedLinear copy", [&] { fp8::QuantizedLinear copy(quantized); }},
      {"QuantizedLinear clone", [&] { nn::clone(quantized); }},
      {"QuantizedLinear print", [&] { (std::ostringstream() << quantized); }},
      {"empty Slot", [&] { slot(x); }},
      {"empty Slot ->", [&] { slot->eval(); }},
      {"Slot", [&] { slot_left(x); }},
      {"Sequential at", [&] { sequential[0]; }},
      {"ModuleList at", [&] { list[0]; }},
      {"ModuleDict at", [&] { dict["a"]; }},
      {"Sequential with an emptied slot", [&] { hollow(x); }},
      {"GPT forward", [&] { gpt(ids); }},
      {"GPT loss", [&] { gpt.loss(ids, ids); }},
      {"GPT generate", [&] { gpt.generate(ids, 1); }},
      {"GPT decay_groups", [&] { optim::AdamW(gpt.decay_groups(0.1), {}); }},
      {"GPT without its head", [&] { headless(ids); }},
      {"GPT without its head, generate", [&] { headless.generate(ids, 1); }},
      {"CharDataset batch", [&] { data.batch("train", 1); }},
      {"CharDataset size", [&] { data.size("train"); }},
      {"TokenDataset batch", [&] { tokens.batch(1); }},
      {"TokenDataset epoch", [&] { tokens.epoch(1); }},
      {"AmaxHistory update", [&] { history.update(1.f); }},
      {"AmaxHistory amax", [&] { history.amax(); }},
      {"AmaxHistory size", [&] { history.size(); }},
      {"AmaxHistory length", [&] { history.length(); }},
      {"AmaxHistory clipped", [&] { history.clipped(); }},
      {"AmaxHistory reset", [&] { history.reset(); }},
      {"Quantizer apply", [&] { quantizer.apply(x, true); }},
      {"AdamW lr", [&] { adamw.lr(); }},
      {"AdamW set_lr", [&] { adamw.set_lr(1); }},
      {"AdamW step", [&] { adamw.step(); }},
      {"AdamW state_dict", [&] { adamw.state_dict(); }},
      {"AdamW load_state_dict", [&] { adamw.load_state_dict(optimizer_state); }},
      {"SGD lr", [&] { sgd.lr(); }},
      {"SGD step", [&] { sgd.step(); }},
      {"groups().clear(), lr", [&] { cleared.lr(); }},
      {"groups().clear(), set_lr", [&] { cleared.set_lr(1); }},
      {"groups().clear(), step", [&] { cleared.step(); }},
      {"a group's lr taken away", [&] { no_lr.lr(); }},
      {"an undefined parameter", [&] { optim::AdamW(std::vector<Tensor>(2), {}); }},
      {"Linear of an undefined weight", [&] { nn::Linear{Tensor()}; }},
      {"Linear of an undefined bias",
       [&] {
         nn::Linear{Tensor::ones({2, 2}), Tensor()};
       }},
      {"clip_grad_norm of an undefined tensor", [&] { nn::clip_grad_norm(std::vector<Tensor>(1), 1); }},
  };
  for (const Emptied& row : table) {
    INFO(row.name);
    try {
      row.use();
      FAIL_CHECK("nothing was thrown");
    } catch (const std::logic_error& e) {  // invalid_argument, or a container's out_of_range
      CHECK(std::string(e.what()).size() > 10);
    }
  }
}
