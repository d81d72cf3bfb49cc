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

}  // namespace

GPTConfig parse_config(const std::string& text) {
  const json object = parse_object(text);
  const Fields fields(object);
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
  if (fields.find("quantization_config"))
    fail("has a quantization_config: the weights are codes; fp8::load_quantized reads such");
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
    if (name.empty() || name == "." || name == ".." || std::filesystem::path(name).filename() != name)
      fail("weight_map: ", in_quotes(tensor), " is in ", in_quotes(name),
           ", which is no file of this folder");
    files.emplace(tensor, name);
  }
  return files;
}

}  // namespace altgrad::models::detail
