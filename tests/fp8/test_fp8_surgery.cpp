// quantize_model and dequantize_model on Sequential, ModuleDict and nested ones: what they replace, skip, keep and
// refuse.
#include "catch.h"
#include "errors.h"
#include "surgery_nets.h"

#include <altgrad/autograd/ops.h>
#include <altgrad/fp8/surgery.h>
#include <altgrad/nn/containers.h>
#include <altgrad/nn/surgery.h>

#include <sstream>

using namespace altgrad;
using namespace altgrad::fp8;

namespace {

Names layers_of(const nn::Module& root, const std::string& type) {
  Names names;
  for (auto& [name, module] : root.named_modules()) {
    if (module->type_name() == type) names.push_back(name);
  }
  return names;
}

// A parent whose child can only be a Linear.
struct Rigid final : nn::ModuleOf<Rigid> {
  nn::Slot<nn::Layer> loose;
  nn::Slot<nn::Linear> rigid;
  Rigid() : loose(nn::Linear(2, 2)), rigid(nn::Linear(2, 2)) {}
  void visit(nn::Visitor& v) override { v("loose", loose), v("rigid", rigid); }
};

}  // namespace

TEST_CASE("quantize_model replaces every Linear in a Sequential", "[fp8]") {
  nn::Sequential net = small_net();
  const SurgeryReport report = quantize_model(net, E4M3);
  REQUIRE(report.replaced == Names{"0", "2"});
  REQUIRE(report.skipped.empty());
  REQUIRE(layers_of(net, "QuantizedLinear") == Names{"0", "2"});
  REQUIRE(layers_of(net, "Linear").empty());
  REQUIRE(net.module("1").type_name() == "ReLU");
  REQUIRE(net(here::randn({3, 10})).shape() == Shape{3, 5});
}

TEST_CASE("quantize_model preserves weights", "[fp8]") {
  nn::Sequential net = small_net();
  const Snapshot before(net);
  quantize_model(net, E4M3);
  REQUIRE(Snapshot(net).same_parameters(before));
}

TEST_CASE("quantize_model honours one skip pattern in a ModuleDict", "[fp8]") {
  nn::ModuleDict dict = small_dict();
  const SurgeryReport report = quantize_model(dict, E4M3, {.skip_patterns = {"out"}});
  REQUIRE(report.replaced == Names{"layer1", "layer2"});
  REQUIRE(report.skipped == Names{"out"});
  REQUIRE(layers_of(dict, "QuantizedLinear") == report.replaced);
  REQUIRE(layers_of(dict, "Linear") == report.skipped);
}

TEST_CASE("quantize_model honours several skip patterns in a ModuleDict", "[fp8]") {
  nn::ModuleDict dict = small_dict();
  const SurgeryReport report = quantize_model(dict, E4M3, {.skip_patterns = {"out", "layer1"}});
  REQUIRE(report.replaced == Names{"layer2"});
  REQUIRE(report.skipped == Names{"layer1", "out"});
  REQUIRE(layers_of(dict, "Linear") == report.skipped);
}

TEST_CASE("quantize_model reaches a nested Sequential", "[fp8]") {
  nn::Sequential net(nn::Linear(4, 4), nn::Sequential(nn::Linear(4, 4), nn::Sequential(nn::Linear(4, 4))));
  REQUIRE(quantize_model(net, E4M3).replaced == Names{"0", "1.0", "1.1.0"});
  REQUIRE(layers_of(net, "Linear").empty());
  REQUIRE(layers_of(net, "QuantizedLinear") == Names{"0", "1.0", "1.1.0"});
}

TEST_CASE("quantize_model reaches a nested ModuleDict", "[fp8]") {
  struct Holder final : nn::ModuleOf<Holder> {
    nn::Slot<nn::ModuleDict> dict;
    nn::Slot<nn::ModuleList> list;
    void visit(nn::Visitor& v) override { v("dict", dict), v("list", list); }
  } holder;
  holder.dict = small_dict();
  holder.list = nn::ModuleList({nn::Linear(2, 2), small_net()});
  REQUIRE(quantize_model(holder, E4M3, {.skip_patterns = {"dict.out"}}).replaced ==
          Names{"dict.layer1", "dict.layer2", "list.0", "list.1.0", "list.1.2"});
  REQUIRE(layers_of(holder, "Linear") == Names{"dict.out"});
}

TEST_CASE("dequantize restores the same Linear objects and bits", "[fp8]") {
  nn::Sequential net = small_net();
  const Tensor x = here::randn({3, 10}), y = net(x);
  const Snapshot before(net);
  quantize_model(net, E4M3, {.input_format = E5M2});
  REQUIRE_FALSE(same_bits(net(x), y));
  REQUIRE(dequantize_model(net) == Names{"0", "2"});
  REQUIRE(Snapshot(net).same(before));
  REQUIRE(same_bits(net(x), y));
  REQUIRE(dequantize_model(net).empty());
}

TEST_CASE("dequantize restores nested layers, and the mode that they ran in", "[fp8]") {
  nn::Sequential net(nn::Linear(4, 4), nn::Sequential(nn::Linear(4, 4), nn::Sequential(nn::Linear(4, 4))));
  const Snapshot before(net);
  quantize_model(net, E4M3);
  net.eval();
  REQUIRE(dequantize_model(net) == Names{"0", "1.0", "1.1.0"});
  REQUIRE(Snapshot(net).same(before));
  for (auto& [name, module] : net.named_modules()) REQUIRE_FALSE(module->training());
}

TEST_CASE("quantized layers start in the mode of the layers they replace", "[fp8]") {
  nn::Sequential net = small_net();
  net.eval();
  quantize_model(net, E4M3);
  net(here::randn({2, 10}));
  const auto& layer = dynamic_cast<QuantizedLinear&>(net.module("0"));
  REQUIRE_FALSE(layer.training());
  REQUIRE(layer.weight_history().size() == 0);
}

TEST_CASE("E3M4 works, the layer's format is the one asked for", "[fp8]") {
  for (const char* name : {"E3M4", "E5M2", "E4M3", "float8_e4m3fnuz"}) {
    nn::Sequential net = small_net();
    quantize_model(net, format(name));
    for (const char* layer : {"0", "2"}) {
      REQUIRE(dynamic_cast<QuantizedLinear&>(net.module(layer)).format() == format(name));
    }
    REQUIRE(net(here::randn({3, 10})).shape() == Shape{3, 5});
  }
}

TEST_CASE("works on a deep copy while the source stays as it was", "[fp8]") {
  nn::Sequential net = small_net();
  const Snapshot before(net);
  nn::Sequential copy = nn::clone(net);
  quantize_model(copy, E4M3);
  copy.parameter("0.weight").fill_(3);
  copy(here::randn({2, 10}));
  REQUIRE(Snapshot(net).same(before));
  REQUIRE(layers_of(net, "Linear") == Names{"0", "2"});
  REQUIRE(layers_of(copy, "Linear").empty());
}

TEST_CASE("a deep copy of a quantized model has weights and histories of its own", "[fp8]") {
  nn::Sequential net = small_net();
  quantize_model(net, E4M3, {.input_format = E4M3});
  const Tensor x = here::randn({2, 10});
  net(x);
  nn::Sequential copy = nn::clone(net);
  const Snapshot before(net);
  REQUIRE(layers_of(copy, "QuantizedLinear") == Names{"0", "2"});
  REQUIRE(same_bits(copy(x), net(x)));
  net.module("0").load_state_dict(copy.module("0").state_dict());
  copy(x * 7.0);
  copy.parameter("0.weight").fill_(3);
  auto& a = dynamic_cast<QuantizedLinear&>(net.module("0"));
  auto& b = dynamic_cast<QuantizedLinear&>(copy.module("0"));
  REQUIRE(b.input_history().recorded() == a.input_history().recorded() + 1);
  REQUIRE(b.input_history().amax() == Approx(7 * a.input_history().amax()));
  REQUIRE(same_bits(a.weight(), before.values.at("0.weight")));
  dequantize_model(copy);
  REQUIRE(layers_of(net, "QuantizedLinear") == Names{"0", "2"});
  REQUIRE(layers_of(copy, "Linear") == Names{"0", "2"});
}

TEST_CASE("surgery twice changes nothing", "[fp8]") {
  nn::ModuleDict dict = small_dict();
  quantize_model(dict, E4M3, {.skip_patterns = {"out"}});
  const Snapshot once(dict);
  const SurgeryReport again = quantize_model(dict, E5M2, {.skip_patterns = {"out"}, .history_length = 3});
  REQUIRE(again.replaced.empty());
  REQUIRE(again.skipped == Names{"out"});
  REQUIRE(again.quantized_before == Names{"layer1", "layer2"});
  REQUIRE(Snapshot(dict).same(once));
  REQUIRE(again.skipped_before.empty());
  // A pattern that matches only what is quantized already is no mistake.
  REQUIRE(quantize_model(dict, E4M3, {.skip_patterns = {"layer1"}}).replaced == Names{"out"});
}

TEST_CASE("the report of a second surgery names what the first had skipped", "[fp8]") {
  nn::ModuleDict dict = small_dict();
  REQUIRE(quantize_model(dict, E4M3, {.skip_patterns = {"out", "layer2"}}).skipped_before.empty());
  const SurgeryReport second = quantize_model(dict, E5M2, {.skip_patterns = {"layer2"}});
  REQUIRE(second.replaced == Names{"out"});
  REQUIRE(second.skipped_before == Names{"out"});
  REQUIRE(second.skipped == Names{"layer2"});
  REQUIRE(second.quantized_before == Names{"layer1"});
  REQUIRE(dynamic_cast<QuantizedLinear&>(dict.module("layer1")).format() == E4M3);
  REQUIRE(dynamic_cast<QuantizedLinear&>(dict.module("out")).format() == E5M2);
  std::ostringstream out;
  out << second;
  REQUIRE(out.str() ==
          "replaced 1: out\nskipped 1: layer2\nof the replaced, skipped before 1: out\n"
          "quantized before 1: layer1\n");
}

TEST_CASE("a skip pattern is a run of whole components of a name", "[fp8]") {
  struct Blocks final : nn::ModuleOf<Blocks> {
    nn::Slot<nn::ModuleList> h{nn::ModuleList()};
    nn::Slot<nn::Layer> lm_head{nn::Linear(2, 2)}, my_lm_head{nn::Linear(2, 2)};
    Blocks() {
      for (int i = 0; i < 11; ++i) h->push_back(nn::Sequential(nn::Linear(2, 2), nn::Linear(2, 2)));
    }
    void visit(nn::Visitor& v) override { v("h", h), v("lm_head", lm_head), v("my_lm_head", my_lm_head); }
  };
  const auto skipped = [](Names patterns) {
    Blocks model;
    return quantize_model(model, E4M3, {.skip_patterns = std::move(patterns)}).skipped;
  };
  REQUIRE(skipped({"lm_head"}) == Names{"lm_head"});
  REQUIRE(skipped({"*lm_head"}) == Names{"lm_head", "my_lm_head"});
  REQUIRE(skipped({"h.1"}) == Names{"h.1.0", "h.1.1"});
  REQUIRE(skipped({"h.1*"}) == Names{"h.1.0", "h.1.1", "h.10.0", "h.10.1"});
  REQUIRE(skipped({"h.*.1"}).size() == 11);
  REQUIRE(skipped({"10.0"}) == Names{"h.10.0"});
  REQUIRE(skipped({"h"}).size() == 22);
  REQUIRE(skipped({"*"}).size() == 24);
  REQUIRE(skipped({"m*l*h*d"}) == Names{"my_lm_head"});
  for (const char* nothing :
       {"lm", "m_head", "h.11", "h.1.", ".h", "", "h..1", "head", "h.1.0.weight", "h.*.*.*"}) {
    INFO(nothing);
    REQUIRE(throws([&] { skipped({nothing}); }, {"matches no module"}));
  }
}

TEST_CASE("a skip pattern that matches nothing lists the candidates and changes nothing", "[fp8]") {
  nn::ModuleDict dict = small_dict();
  const Snapshot before(dict);
  REQUIRE(throws(
      [&] {
        quantize_model(dict, E4M3, {.skip_patterns = {"out", "lm_head"}});
      },
      {"quantize_model", "\"lm_head\"", "layer1", "layer2", "out"}));
  REQUIRE(Snapshot(dict).same(before));
}

TEST_CASE("quantizing a root that is itself a Linear points to from_linear", "[fp8]") {
  nn::Linear linear(3, 3);
  REQUIRE(throws([&] { quantize_model(linear, E4M3); }, {"Linear", "from_linear"}));
  auto quantized = QuantizedLinear::from_linear(linear, E4M3);
  REQUIRE(throws([&] { dequantize_model(quantized); }, {"QuantizedLinear", "linear_ptr"}));
}

TEST_CASE("bad options change nothing", "[fp8]") {
  nn::Sequential net = small_net();
  const Snapshot before(net);
  const Format nonsense{.exponent_bits = 40, .mantissa_bits = 3, .bias = 0, .name = "nonsense"};
  REQUIRE(throws([&] { quantize_model(net, nonsense); }, {"nonsense"}));
  REQUIRE(throws([&] { quantize_model(net, E4M3, {.input_format = nonsense}); }, {"nonsense"}));
  REQUIRE(throws([&] { quantize_model(net, E4M3, {.grad_format = nonsense}); }, {"nonsense"}));
  REQUIRE(throws([&] { quantize_model(net, float8_e8m0fnu); }, {"float8_e8m0fnu", "sign"}));
  REQUIRE(throws([&] { quantize_model(net, E4M3, {.history_length = 0}); }, {"history_length 0"}));
  REQUIRE(throws([&] { quantize_model(net, E4M3, {.scaling = Scaling(3)}); }, {"scaling is 3"}));
  REQUIRE(throws([&] { quantize_model(net, E4M3, {.rounding = Rounding(-1)}); }, {"rounding is -1"}));
  REQUIRE(throws([&] { quantize_model(net, E4M3, {.overflow = Overflow(77)}); }, {"overflow is 77"}));
  REQUIRE(throws([&] { quantize_model(net, E4M3, {.ste = Ste(2)}); }, {"ste is 2"}));
  REQUIRE(throws([&] { quantize_model(net, format("E9M9")); }, {"E9M9", "E4M3", "E5M2", "E3M4"}));
  REQUIRE(Snapshot(net).same(before));
}

TEST_CASE("bad options are refused even where there is nothing to replace", "[fp8]") {
  nn::Sequential empty;
  REQUIRE(throws([&] { quantize_model(empty, E4M3, {.history_length = 0}); }, {"history_length 0"}));
  REQUIRE(quantize_model(empty, E4M3).replaced.empty());
}

TEST_CASE("a place that takes only a Linear makes surgery throw and nothing has changed", "[fp8]") {
  Rigid model;
  const Snapshot before(model);
  REQUIRE(throws([&] { quantize_model(model, E4M3); }, {"rigid", "QuantizedLinear"}));
  REQUIRE(Snapshot(model).same(before));
  REQUIRE(quantize_model(model, E4M3, {.skip_patterns = {"rigid"}}).replaced == Names{"loose"});
}

TEST_CASE("a layer reached twice is replaced once, in both places, and a pattern may use either name",
          "[fp8]") {
  const auto shared = std::make_shared<nn::Linear>(4, 4);
  nn::Sequential net;
  net.push_back(shared);
  net.push_back(nn::ReLU());
  net.push_back(shared);
  REQUIRE(quantize_model(net, E4M3, {.skip_patterns = {"2"}}).skipped == Names{"0"});
  REQUIRE(quantize_model(net, E4M3).replaced == Names{"0"});
  REQUIRE(net[0].get() == net[2].get());
  REQUIRE(net[0]->type_name() == "QuantizedLinear");
  const nn::Sequential copy = nn::clone(net);
  REQUIRE(&copy.module("0") == &copy.module("2"));
  dequantize_model(net);
  REQUIRE(net[0].get() == shared);
  REQUIRE(net[2].get() == shared);
}

TEST_CASE("a surgery report and a quantized model print what was done", "[fp8]") {
  nn::ModuleDict dict = small_dict();
  std::ostringstream out;
  out << quantize_model(dict, E5M2, {.skip_patterns = {"out"}}) << dict;
  REQUIRE(out.str() ==
          "replaced 2: layer1, layer2\nskipped 1: out\n"
          "ModuleDict(\n"
          "  (layer1): QuantizedLinear(in_features=10, out_features=20, format=E5M2, quantize_input=false)\n"
          "  (layer2): QuantizedLinear(in_features=20, out_features=20, format=E5M2, quantize_input=false)\n"
          "  (out): Linear(in_features=20, out_features=5, bias=true)\n"
          ")");
}
