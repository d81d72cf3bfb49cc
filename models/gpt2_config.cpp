// config.json and the index of shards: JSON that anybody may have written. What changes the maths must be what GPT
// computes; what is not known here is let pass, as transformers does.
#include <altgrad/core/internal/utf8.h>
#include <altgrad/models/internal/gpt2_folder.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>

namespace altgrad::models::detail {
namespace {

using altgrad::detail::in_quotes;
using altgrad::detail::printable;
using nlohmann::json;

json parse_object(const std::string& text) {
  json object;
  try {
    object = json::parse(text);
  } catch (const json::parse_error& e) {
    fail("is not JSON, from byte ", e.byte, " on");
  } catch (const json::out_of_range&) {
    fail("has a number that is too large for a double");
  }
  if (!object.is_object()) fail("is not a JSON object");
  return object;
}

// For errors. Not of lists and objects, which may be nested deeper than the stack.
std::string shown(const json& value) {
  return value.is_structured() ? concat("a JSON ", value.type_name()) : printable(value.dump());
}

// The members of config.json. One that is null counts as absent, as Python's None does.
class Fields {
 public:
  explicit Fields(const json& object) : object_(object) {}

  const json* find(const char* name) const {
    const auto field = object_.find(name);
    return field == object_.end() || field->is_null() ? nullptr : &*field;
  }
  int64_t size(const char* name) const {
    const json* value = find(name);
    if (!value) fail("has no ", name);
    const bool fits = value->is_number_unsigned() && value->get<uint64_t>() <= INT32_MAX;
    if (!fits || *value == 0)
      fail(name, " must be a whole number from 1 to ", INT32_MAX, ", got ", shown(*value));
    return value->get<int64_t>();
  }
  // Refuses another value than what GPT computes; absence means that one to transformers, too.
  void require(const char* name, const json& ours) const {
    const json* value = find(name);
    if (value && *value != ours) fail(name, " is ", shown(*value), "; GPT computes ", ours.dump(), " only");
  }

 private:
  const json& object_;
};

void check_architecture(const Fields& fields) {
  const json* architectures = fields.find("architectures");
  if (!architectures && !fields.find("model_type")) fail("has no model_type");
  fields.require("model_type", "gpt2");
  if (!architectures) return;
  const bool known = architectures->is_array() && std::ranges::any_of(*architectures, [](const json& name) {
                       return name == "GPT2LMHeadModel" || name == "GPT2Model";
                     });
  const json& first =
      architectures->is_array() && !architectures->empty() ? architectures->front() : *architectures;
  if (!known) fail("architectures is ", shown(first), "; GPT2LMHeadModel and GPT2Model are read");
}

Gelu activation(const Fields& fields) {
  const json* name = fields.find("activation_function");
  if (!name || *name == "gelu_new" || *name == "gelu_pytorch_tanh") return Gelu::tanh;
  if (*name == "gelu") return Gelu::erf;
  fail("activation_function is ", shown(*name), "; gelu_new, gelu_pytorch_tanh and gelu are read");
}

// As compressed-tensors has it (quantization/quant_config.py): one scale for a tensor, of F8_E4M3.
json quantization(const CodedLayers& layers) {
  const json rounded = {
      {"num_bits", 8}, {"type", "float"}, {"strategy", "tensor"}, {"symmetric", true}, {"dynamic", false}};
  const bool alike = layers.weights.empty() || layers.weights_and_inputs.empty();
  json groups = json::object();
  const auto add = [&](const std::vector<std::string>& names, const json& inputs) {
    if (names.empty()) return;
    groups[concat("group_", groups.size())] = {{"targets", alike ? json::array({"Linear"}) : json(names)},
                                               {"weights", rounded},
                                               {"input_activations", inputs}};
  };
  add(layers.weights, nullptr);
  add(layers.weights_and_inputs, rounded);
  json ignored = layers.plain;
  ignored.push_back("lm_head");
  return {{"quant_method", "compressed-tensors"},
          {"format", "float-quantized"},
          {"quantization_status", "compressed"},
          {"ignore", ignored},
          {"config_groups", groups}};
}

}  // namespace

GPTConfig parse_config(const std::string& text) {
  const json object = parse_object(text);
  const Fields fields(object);
  // First, as the FP8 folders that save_gpt2 writes for others are OPT's besides.
  if (fields.find("quantization_config"))
    fail(
        "has a quantization_config: the weights are codes, which are not read from such folders; a file of "
        "save_safetensors keeps codes for altgrad (fp8::quantized_state_dict, load_quantized)");
  check_architecture(fields);
  const GPTConfig config{.n_layer = fields.size("n_layer"),
                         .n_head = fields.size("n_head"),
                         .n_embd = fields.size("n_embd"),
                         .block_size = fields.size("n_positions"),
                         .vocab_size = fields.size("vocab_size"),
                         .gelu = activation(fields)};
  if (config.n_embd % config.n_head != 0)
    fail("n_embd ", config.n_embd, " is not a multiple of n_head ", config.n_head);
  fields.require("n_inner", 4 * config.n_embd);
  fields.require("layer_norm_epsilon", 1e-5);
  fields.require("scale_attn_weights", true);
  fields.require("scale_attn_by_inverse_layer_idx", false);
  fields.require("add_cross_attention", false);
  fields.require("tie_word_embeddings", true);
  fields.require("pruned_heads", json::object());
  return config;
}

std::map<std::string, std::string> parse_index(const std::string& text) {
  const json object = parse_object(text);
  const auto map = object.find("weight_map");
  if (map == object.end() || !map->is_object()) fail("has no weight_map that is a JSON object");
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string()) fail("weight_map: the file of ", in_quotes(tensor), " is ", shown(file));
    const auto& name = file.get_ref<const std::string&>();
    const bool wild = std::ranges::any_of(name, [](unsigned char c) { return c < 0x20 || c == 0x7F; });
    if (wild || name.empty() || name == "." || name == ".." || std::filesystem::path(name).filename() != name)
      fail("weight_map: ", in_quotes(tensor), " is in ", in_quotes(name),
           ", which is no file of this folder");
    files.emplace(tensor, name);
  }
  return files;
}

std::string config_text(const GPTConfig& config, Layout layout, DType dtype, const CodedLayers& layers) {
  // <|endoftext|>, where the vocabulary is GPT-2's.
  const json end = config.vocab_size >= 50257 ? json(50256) : json();
  json fields = {{"activation_function", config.gelu == Gelu::tanh ? "gelu_new" : "gelu"},
                 {"bos_token_id", end},
                 {"eos_token_id", end},
                 {"tie_word_embeddings", true},
                 {"dtype", dtype == DType::bf16 ? "bfloat16" : "float32"},
                 {"vocab_size", config.vocab_size}};
  if (layout == Layout::gpt2) {
    fields.update({{"model_type", "gpt2"},
                   {"architectures", {"GPT2LMHeadModel"}},
                   {"n_layer", config.n_layer},
                   {"n_head", config.n_head},
                   {"n_embd", config.n_embd},
                   {"n_positions", config.block_size},
                   {"layer_norm_epsilon", 1e-5},
                   {"embd_pdrop", config.dropout},
                   {"resid_pdrop", config.dropout},
                   {"attn_pdrop", 0.0}});
  } else {
    fields.update({{"model_type", "opt"},
                   {"architectures", {"OPTForCausalLM"}},
                   {"num_hidden_layers", config.n_layer},
                   {"num_attention_heads", config.n_head},
                   {"hidden_size", config.n_embd},
                   {"word_embed_proj_dim", config.n_embd},
                   {"ffn_dim", 4 * config.n_embd},
                   {"max_position_embeddings", config.block_size},
                   {"do_layer_norm_before", true},
                   {"dropout", config.dropout},
                   {"attention_dropout", 0.0},
                   {"pad_token_id", nullptr}});
  }
  if (!layers.weights.empty() || !layers.weights_and_inputs.empty())
    fields["quantization_config"] = quantization(layers);
  return fields.dump(2) + '\n';
}

std::string index_text(const std::map<std::string, std::string>& files, int64_t bytes) {
  return json{{"metadata", {{"total_size", bytes}}}, {"weight_map", files}}.dump(2) + '\n';
}

}  // namespace altgrad::models::detail
