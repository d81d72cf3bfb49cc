// The model of a checkpoint of train_gpt, or of a GPT-2 folder of Hugging Face's.
#pragma once

#include <altgrad/altgrad.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>

#include "options.h"

constexpr const char* model_help =
    "a GPT-2 folder of Hugging Face's, a folder that train_gpt wrote, or a checkpoint, with the averages of "
    "its weights where it has some";

constexpr const char* alphabet_setting = "alphabet of --data";

// The sizes of a model and its GELU, which a checkpoint holds as text.
inline std::string sizes_text(const altgrad::models::GPTConfig& c) {
  return nlohmann::json{{"n_layer", c.n_layer},
                        {"n_head", c.n_head},
                        {"n_embd", c.n_embd},
                        {"block_size", c.block_size},
                        {"vocab_size", c.vocab_size},
                        {"bias", c.bias},
                        {"gelu", c.gelu == altgrad::Gelu::tanh ? "tanh" : "erf"}}
      .dump();
}

// Those of such a text, of a file's model. Throws an exception where it is none, or the file holds other layers: a model
// of a billion layers would be made before they are missed.
inline altgrad::models::GPTConfig sizes_of(const std::string& text, const std::string& file) {
  const auto c = nlohmann::json::parse(text);
  const auto size = [&](const char* name) {
    if (!c.at(name).is_number_integer()) altgrad::fail(name, " is no whole number");
    return c.at(name).get<int64_t>();
  };
  if (c.at("gelu") != "tanh" && c.at("gelu") != "erf") altgrad::fail("gelu is neither tanh nor erf");
  const altgrad::models::GPTConfig config = {
      .n_layer = size("n_layer"),
      .n_head = size("n_head"),
      .n_embd = size("n_embd"),
      .block_size = size("block_size"),
      .vocab_size = size("vocab_size"),
      .bias = c.at("bias"),
      .gelu = c.at("gelu") == "tanh" ? altgrad::Gelu::tanh : altgrad::Gelu::erf};
  std::set<std::string> layers;
  const auto look = [&, layer = std::string_view("model.transformer.h.")](std::string_view name) {
    if (name.starts_with(layer)) layers.emplace(name.substr(0, name.find('.', layer.size())));
    return false;
  };
  altgrad::load_safetensors(file, nullptr, {.only = look});
  if (int64_t(layers.size()) != config.n_layer)
    altgrad::fail("n_layer is ", config.n_layer, ", the tensors have ", layers.size(), " layers");
  return config;
}

// Of a checkpoint, under the surgery that it was trained with. `alphabet` becomes the hash of what its tokens stand for, or
// empty. Throws std::invalid_argument where the file is none of train_gpt's.
inline altgrad::models::GPT load_model(const std::string& path, std::string* alphabet = nullptr) {
  namespace ag = altgrad;
  namespace fs = std::filesystem;
  std::error_code error;
  if (fs::exists(fs::path(path) / "config.json", error)) return ag::models::load_gpt2(path);
  const std::string file =
      fs::is_directory(path, error) ? (fs::path(path) / "checkpoint.safetensors").string() : path;
  if (!fs::exists(file, error))
    ag::fail_runtime("--model: there is no ", file, ", and no config.json of a GPT-2");
  ag::Metadata metadata = ag::load_safetensors_metadata(file);
  Options trained;
  ag::models::GPTConfig config;
  ag::fp8::QuantizeOptions surgery;
  std::optional<ag::fp8::Format> format;
  try {
    const auto settings = nlohmann::json::parse(metadata["extra.settings"]);
    trained.size = settings.at("--size");
    trained.block = settings.at("--block").get<int64_t>();
    trained.format = settings.at("--format");
    trained.inputs = settings.at("--inputs").get<std::string>();
    trained.grads = settings.at("--grads");
    trained.scaling = settings.at("--scaling");
    trained.history = settings.at("--history");
    trained.skip = settings.at("--skip").get<std::vector<std::string>>();
    if (trained.quantized()) format = ag::fp8::format(trained.format), surgery = trained.surgery();
    if (alphabet) *alphabet = settings.value(alphabet_setting, "");
    if (const auto sizes = metadata.find("extra.model"); sizes != metadata.end()) {
      config = sizes_of(sizes->second, file);
    } else {  // of before the sizes were kept
      config = trained.model(settings.at("vocabulary of --data"));
      config.activations = {};
    }
  } catch (const std::exception& e) {
    ag::fail("--model: ", file, " is no checkpoint of train_gpt: ", e.what());
  }
  ag::models::GPT model = [&] {
    const ag::nn::init::Skip all_are_loaded;
    return ag::models::GPT(config);
  }();
  if (format) ag::fp8::quantize_model(model, *format, surgery);
  ag::StateDict state;
  for (const std::string prefix : {"ema.", "model."}) {  // averages take the place of weights
    const auto is_used = [&](std::string_view name) {
      return name.starts_with(prefix) && !state.contains(std::string(name.substr(prefix.size())));
    };
    for (const auto& [name, tensor] : ag::load_safetensors(file, nullptr, {.only = is_used}))
      state.emplace(name.substr(prefix.size()), tensor);
  }
  model.load_state_dict(state);
  return model;
}
