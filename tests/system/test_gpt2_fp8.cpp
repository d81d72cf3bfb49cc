// GPT-2 folders in codes of 8 bits: what a model under surgery becomes in both layouts, and what is refused. (tests/interop
// computes with such folders in transformers.)
#include "catch.h"
#include "errors.h"
#include "models/gpt2_folders.h"
#include "values.h"

#include <altgrad/fp8/quantized_state.h>
#include <altgrad/fp8/surgery.h>

#include <cmath>

using namespace altgrad;
using namespace gpt2_tests;
using fp8::QuantizedState;
using models::Layout;
using models::save_gpt2;

namespace {

GPT loaded(const std::string& folder) { return on_device(models::load_gpt2(folder)); }
Tensor ids() { return on_device(load_safetensors(expected_file).at("ids")); }

// The fixture in codes, after a step's forward.
QuantizedState quantized(const fp8::Format& format, const fp8::QuantizeOptions& options) {
  GPT model = loaded(fixture);
  fp8::quantize_model(model, format, options);
  model(ids());
  return fp8::quantized_state_dict(model);
}
const fp8::QuantizeOptions weights_alone{.skip_patterns = {"lm_head"}};
const fp8::QuantizeOptions inputs_too{.skip_patterns = {"lm_head"}, .input_format = fp8::E4M3};

GPTConfig config() { return models::load_gpt2(fixture).config(); }

struct Saved {
  Metadata metadata;
  StoredDTypes dtypes;
  StateDict tensors;
  json quantization;
  Saved(const TempFolder& folder, const QuantizedState& state, Layout layout) {
    save_gpt2(folder.path(), config(), state.tensors, {.layout = layout, .dtypes = state.dtypes});
    tensors = load_safetensors(folder / "model.safetensors", &metadata, &dtypes);
    quantization = json::parse(read_bytes(folder / "config.json"))["quantization_config"];
  }
};

}  // namespace

TEST_CASE("the OPT folder of a model in E4M3 holds its codes, one scale for q, k and v", "[gpt2]") {
  const TempFolder folder;
  const QuantizedState state = quantized(fp8::E4M3, inputs_too);
  const Saved saved(folder, state, Layout::opt);
  const StateDict& opt = saved.tensors;
  CHECK(saved.dtypes.size() == 2 * 6);
  for (const auto& [name, dtype] : saved.dtypes) CHECK(dtype == "F8_E4M3");
  for (const std::string i : {"0", "1"}) {
    const std::string layer = "model.decoder.layers." + i + ".", h = "transformer.h." + i + ".";
    const auto same = [&](const std::string& theirs, const std::string& ours, int64_t first, int64_t rows) {
      const Tensor codes = state.tensors.at(h + ours + ".weight").narrow(0, first, rows);
      return same_bits(opt.at(layer + theirs + ".weight"), codes) &&
             same_bits(opt.at(layer + theirs + ".weight_scale"),
                       state.tensors.at(h + ours + ".weight_scale")) &&
             same_bits(opt.at(layer + theirs + ".input_scale"), state.tensors.at(h + ours + ".input_scale"));
    };
    CHECK(same("self_attn.q_proj", "attn.c_attn", 0, 32));
    CHECK(same("self_attn.k_proj", "attn.c_attn", 32, 32));
    CHECK(same("self_attn.v_proj", "attn.c_attn", 64, 32));
    CHECK(same("self_attn.out_proj", "attn.c_proj", 0, 32));
    CHECK(same("fc1", "mlp.c_fc", 0, 128));
    CHECK(same("fc2", "mlp.c_proj", 0, 32));
  }
  CHECK(opt.size() == 2 * (6 * 4 + 4) + 4);
  const json rounded = {
      {"num_bits", 8}, {"type", "float"}, {"strategy", "tensor"}, {"symmetric", true}, {"dynamic", false}};
  CHECK(
      saved.quantization ==
      json{{"quant_method", "compressed-tensors"},
           {"format", "float-quantized"},
           {"quantization_status", "compressed"},
           {"ignore", {"lm_head"}},
           {"config_groups",
            {{"group_0", {{"targets", {"Linear"}}, {"weights", rounded}, {"input_activations", rounded}}}}}});
  CHECK(throws([&] { models::load_gpt2(folder.path()); }, {"quantization_config"}));
}

TEST_CASE("layers that are not in codes are ignored by name, and inputs are rounded where a scale says so",
          "[gpt2]") {
  const TempFolder folder;
  GPT model = loaded(fixture);
  fp8::quantize_model(model, fp8::E4M3,
                      {.skip_patterns = {"lm_head", "mlp", "h.1"}, .input_format = fp8::E4M3});
  fp8::quantize_model(model, fp8::E4M3, {.skip_patterns = {"lm_head", "mlp"}});
  model(ids());
  const Saved saved(folder, fp8::quantized_state_dict(model), Layout::opt);
  const auto layers = [](const std::string& i, std::initializer_list<const char*> names) {
    json all = json::array();
    for (const char* name : names) all.push_back("model.decoder.layers." + i + "." + name);
    return all;
  };
  const auto attention = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"};
  const json& groups = saved.quantization["config_groups"];
  REQUIRE(groups.size() == 2);
  CHECK(groups["group_0"]["targets"] == layers("1", attention));
  CHECK(groups["group_0"]["input_activations"].is_null());
  CHECK(groups["group_1"]["targets"] == layers("0", attention));
  CHECK(!groups["group_1"]["input_activations"].is_null());
  json ignored = layers("0", {"fc1", "fc2"});
  for (const auto& name : layers("1", {"fc1", "fc2"})) ignored.push_back(name);
  ignored.push_back("lm_head");
  CHECK(saved.quantization["ignore"] == ignored);
}

TEST_CASE("codes in GPT-2's own layout are transposed, where that is asked for", "[gpt2]") {
  const TempFolder folder;
  const QuantizedState state = quantized(fp8::E4M3, weights_alone);
  const Saved saved(folder, state, Layout::gpt2);
  for (const auto& [name, dtype] : state.dtypes) {
    CHECK(saved.dtypes.at(name) == "F8_E4M3");
    CHECK(same_bits(saved.tensors.at(name), state.tensors.at(name).transpose()));
    CHECK(same_bits(saved.tensors.at(name + "_scale"), state.tensors.at(name + "_scale")));
  }
  CHECK(saved.quantization["ignore"] == json{"lm_head"});
  CHECK(throws([&] { models::load_gpt2(folder.path()); }, {"quantization_config"}));
}

TEST_CASE("codes that others do not load are refused with two ways out, which lead out", "[gpt2]") {
  const TempFolder folder;
  for (const fp8::Format& format : {fp8::E5M2, fp8::E3M4}) {
    const QuantizedState state = quantized(format, weights_alone);
    CHECK(throws(
        [&] {
          save_gpt2(folder / "new", config(), state.tensors, {.layout = Layout::opt, .dtypes = state.dtypes});
        },
        {"save_gpt2: transformer.h.0.attn.c_attn.weight is in codes of ",
         format == fp8::E5M2 ? "F8_E5M2" : "no stored dtype", "F8_E4M3 alone", "a file of your own",
         "fp8::load_quantized", "fp8::dequantize_model", "bf16"}));
    CHECK(folder.num_files() == 0);

    GPT model = loaded(fixture);
    fp8::quantize_model(model, format, weights_alone);
    fp8::load_quantized(model, state);
    fp8::dequantize_model(model);
    save_gpt2(folder / "new", model, {.dtype = DType::bf16});
    const std::string name = "transformer.h.0.attn.c_attn.weight";
    const GPT rounded = loaded(folder / "new");
    const Tensor numbers =
        fp8::decode(state.tensors.at(name), format, state.tensors.at(name + "_scale").item<float>());
    CHECK(same_bits(rounded.parameter(name), numbers.to(DType::bf16).to(DType::f32)));
    std::filesystem::remove_all(folder / "new");
  }
}

TEST_CASE("a state whose codes or scales are wrong is refused, and no folder is made", "[gpt2]") {
  const TempFolder folder;
  const QuantizedState good = quantized(fp8::E4M3, inputs_too);
  const std::string name = "transformer.h.1.mlp.c_fc.weight";
  const auto refuses = [&](const std::string& key, const Tensor& t, std::initializer_list<std::string> parts,
                           std::optional<Layout> layout = Layout::opt) {
    StateDict tensors = good.tensors;
    tensors[key] = t;
    return throws(
        [&] { save_gpt2(folder / "new", config(), tensors, {.layout = layout, .dtypes = good.dtypes}); },
        parts);
  };
  CHECK(refuses(name, good.tensors.at(name), {"the layout must be said", "Layout::opt"}, {}));
  for (const std::string& scale : {name + "_scale", std::string("transformer.h.1.mlp.c_fc.input_scale")}) {
    CHECK(refuses(scale, Tensor(), {scale, "is missing"}));
    CHECK(refuses(scale, here::full({1}, 0), {scale, "is 0, must be positive and finite"}));
    CHECK(refuses(scale, here::full({1}, -2), {scale, "is -2"}));
    CHECK(refuses(scale, here::full({1}, NAN), {scale, "is nan"}));
    CHECK(refuses(scale, here::ones({128, 1}), {scale, "must be f32 (1)", "(128, 1)"}));
    CHECK(refuses(scale, here::ones({1}, {.dtype = DType::f64}), {scale, "f64"}));
  }
  const Tensor codes = host(good.tensors.at(name).copied());
  codes.data<uint8_t>()[5] = 0xFF;
  CHECK(refuses(name, on_device(codes), {name, "code 255 at element 5 is NaN"}));
  CHECK(refuses("transformer.wte.weight", here::zeros({61, 32}, {.dtype = DType::u8}), {"wte.weight is u8"}));
  CHECK(refuses("transformer.h.0.ln_1.weight_scale", here::ones({1}),
                {"ln_1.weight_scale", "which GPT-2 has not"}));
  CHECK(refuses(name, here::zeros({128, 32}), {"c_fc.input_scale", "which GPT-2 has not"}));
  CHECK(folder.num_files() == 0);
}
