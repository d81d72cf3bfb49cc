// A state becomes tensors of files in three steps: what is in it, where it goes in the layout, and the files, each tensor
// made as it is written. Nothing in the folder changes before all files are complete.
#include <altgrad/core/internal/utf8.h>
#include <altgrad/models/gpt2.h>
#include <altgrad/models/internal/gpt2_folder.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <regex>
#include <set>

namespace altgrad::models {
namespace detail {
namespace {

namespace fs = std::filesystem;
using altgrad::detail::AtomicFile;
using altgrad::detail::in_quotes;
using altgrad::detail::StoredTensor;

// ---- What is in a state ----

struct Source {
  Parameter parameter;
  Tensor tensor;                                    // zeros where a biasless model has none
  std::optional<Tensor> weight_scale, input_scale;  // of codes
};

Tensor checked_scale(const StateDict& state, const std::string& name) {
  const auto found = state.find(name);
  if (found == state.end() || !found->second.defined()) fail(name, " is missing, and its weight is in codes");
  const Tensor scale = found->second.detach().to(Device::cpu());
  if (scale.dtype() != DType::f32 || scale.numel() != 1 || scale.dim() > 1)
    fail(name, " must be f32 (1), one scale for the matrix, got ", scale.dtype(), ' ', scale.shape());
  const float value = scale.item<float>();
  if (!(value > 0 && std::isfinite(value))) fail(name, " is ", value, ", must be positive and finite");
  return scale.alias({1});
}

void check_codes(const std::string& name, const Tensor& codes, const StoredDTypes& dtypes) {
  const auto dtype = dtypes.find(name);
  if (dtype != dtypes.end() && dtype->second == "F8_E4M3") {
    const Tensor host = codes.detach().to(Device::cpu());
    const auto all = host.data<uint8_t>();
    const auto bad = std::ranges::find_if(all, [](uint8_t code) { return (code & 0x7F) == 0x7F; });
    if (bad != all.end()) fail(name, ": code ", int(*bad), " at element ", bad - all.begin(), " is NaN");
    return;
  }
  fail(name, " is in codes of ", dtype == dtypes.end() ? "no stored dtype" : dtype->second,
       ", and others load F8_E4M3 alone. There are two ways out: a file of your own (save_safetensors of the "
       "state, which "
       "fp8::load_quantized reads back), or the rounded values as bf16 (fp8::load_quantized of the state "
       "into the model, "
       "fp8::dequantize_model, and save_gpt2 of that with dtype bf16)");
}

// All parameters with their tensors. Throws where the state is not of this config.
std::vector<Source> sources(const GPTConfig& config, const StateDict& state, const SaveOptions& options) {
  std::vector<Source> all;
  std::set<std::string> known = {"lm_head.weight"};
  for (Parameter& p : parameters_of(config)) {
    const std::string name = std::string(prefix) + p.name;
    known.insert(name);
    Source source{p, {}, {}, {}};
    if (const auto found = state.find(name); found != state.end()) {
      source.tensor = found->second;
    } else if (!config.bias && name.ends_with(".bias")) {
      source.tensor = Tensor::zeros(p.shape);
    }
    const Tensor& t = source.tensor;
    if (!t.defined()) fail("the state lacks ", name);
    if (t.shape() != p.shape) fail(name, " is ", t.shape(), ", and ", p.shape, " by the config");
    const bool codes = t.dtype() == DType::u8 && is_conv1d(name);
    if (!codes && !has_gradient(t.dtype())) fail(name, " is ", t.dtype(), ", which is no floating dtype");
    if (codes) {
      check_codes(name, t, options.dtypes);
      if (!options.layout) {
        fail(name,
             " is in codes: the layout must be said. Layout::opt is what transformers loads; it reads codes "
             "of "
             "Layout::gpt2 as if they were numbers");
      }
      source.weight_scale = checked_scale(state, name + "_scale");
      known.insert(name + "_scale");
      const std::string input = name.substr(0, name.rfind('.')) + ".input_scale";
      if (state.contains(input)) source.input_scale = checked_scale(state, input);
      known.insert(input);
    }
    all.push_back(std::move(source));
  }
  for (const auto& [name, t] : state) {
    const bool auxiliary = name.substr(name.rfind('.') + 1).starts_with('_');
    if (!known.contains(name) && !auxiliary) fail("the state has ", in_quotes(name), ", which GPT-2 has not");
  }
  if (const auto head = state.find("lm_head.weight"); head != state.end()) {
    const Tensor a = head->second.detach().to(Device::cpu()), b = all[0].tensor.detach().to(Device::cpu());
    const bool same =
        a.shape() == b.shape() && a.dtype() == b.dtype() && std::memcmp(a.raw(), b.raw(), a.nbytes()) == 0;
    if (!same) fail("lm_head.weight differs from transformer.wte.weight; GPT-2 has one tensor for both");
  }
  return all;
}

// ---- Where it goes ----

// Rows of a parameter, under the name of their module there.
struct Target {
  std::string module;
  int64_t first, rows;
};

std::vector<Target> targets(Layout layout, const std::string& module, int64_t rows) {
  if (layout == Layout::gpt2) return {{std::string(prefix) + module, 0, rows}};
  const std::string decoder = "model.decoder.";
  static const std::map<std::string, std::string> outer = {
      {"wte", "embed_tokens"}, {"wpe", "embed_positions"}, {"ln_f", "final_layer_norm"}};
  if (const auto found = outer.find(module); found != outer.end())
    return {{decoder + found->second, 0, rows}};
  static const std::map<std::string, std::string> inner = {{"ln_1", "self_attn_layer_norm"},
                                                           {"attn.c_proj", "self_attn.out_proj"},
                                                           {"ln_2", "final_layer_norm"},
                                                           {"mlp.c_fc", "fc1"},
                                                           {"mlp.c_proj", "fc2"}};
  const size_t dot = module.find('.', 2);  // h.N.rest
  const std::string layer = decoder + "layers" + module.substr(1, dot), rest = module.substr(dot + 1);
  if (const auto found = inner.find(rest); found != inner.end()) return {{layer + found->second, 0, rows}};
  std::vector<Target> parts;  // c_attn's
  for (const char* part : {"q_proj", "k_proj", "v_proj"})
    parts.push_back({layer + "self_attn." + part, int64_t(parts.size()) * rows / 3, rows / 3});
  return parts;
}

// The tensors of all files, and, for codes, which layers compute with them.
struct Contents {
  std::vector<StoredTensor> tensors;
  CodedLayers layers;
};

Contents contents(const std::vector<Source>& sources, Layout layout, DType dtype) {
  Contents all;
  for (const Source& source : sources) {
    const std::string& name = source.parameter.name;
    const size_t dot = name.rfind('.');
    const bool codes = source.weight_scale.has_value(), turned = layout == Layout::gpt2 && is_conv1d(name),
               is_linear = is_conv1d(name), padded = layout == Layout::opt && name == "wpe.weight";
    for (const Target& target : targets(layout, name.substr(0, dot), source.parameter.shape[0])) {
      Shape shape = source.parameter.shape.with(0, target.rows + (padded ? 2 : 0));
      if (turned) shape = {shape[1], shape[0]};
      const auto make = [&source, target, codes, turned, padded, dtype] {
        const NoGrad off;
        Tensor t = source.tensor.detach().to(Device::cpu()).narrow(0, target.first, target.rows);
        if (padded) t = cat({Tensor::zeros({2, t.size(1)}, t.options()), t}, 0);
        if (!codes) t = t.to(dtype);
        return turned ? t.transpose() : t;
      };
      all.tensors.push_back({target.module + name.substr(dot),
                             codes ? "F8_E4M3" : altgrad::detail::stored_dtype(dtype), shape, make});
      if (!is_linear) continue;
      const auto add_scale = [&](const char* end, const Tensor& scale) {
        all.tensors.push_back({target.module + end, "F32", {1}, [scale] { return scale; }});
      };
      if (codes) add_scale(".weight_scale", *source.weight_scale);
      if (source.input_scale) add_scale(".input_scale", *source.input_scale);
      (!codes               ? all.layers.plain
       : source.input_scale ? all.layers.weights_and_inputs
                            : all.layers.weights)
          .push_back(target.module);
    }
  }
  return all;
}

// ---- Files ----

std::vector<std::vector<StoredTensor>> cut(std::vector<StoredTensor> tensors, int64_t shard_bytes) {
  std::vector<std::vector<StoredTensor>> shards(1);
  int64_t bytes = 0;
  for (StoredTensor& t : tensors) {
    if (bytes > 0 && bytes + t.nbytes() > shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += t.nbytes();
    shards.back().push_back(std::move(t));
  }
  return shards;
}

std::string shard_name(size_t i, size_t count) {
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, count);
  return count == 1 ? weights_name : name;
}

// The new files of a folder, complete, under other names.
class NewFiles {
 public:
  explicit NewFiles(fs::path folder) : folder_(std::move(folder)) {
    std::error_code error;
    made_ = fs::create_directory(folder_, error);
    if (!made_ && !fs::is_directory(folder_))
      fail_runtime("save_gpt2: cannot write ", folder_.string(), ": ",
                   error ? error.message() : "not a folder");
  }
  ~NewFiles() {
    files_.clear();
    std::error_code ignored;
    if (made_ && names_.empty()) fs::remove(folder_, ignored);
  }
  NewFiles(const NewFiles&) = delete;
  NewFiles& operator=(const NewFiles&) = delete;

  AtomicFile& add(const std::string& name) {
    files_.emplace_back(name, std::make_unique<AtomicFile>("save_gpt2", folder_ / name));
    return *files_.back().second;
  }
  void add(const std::string& name, const std::string& text) { add(name).write(text.data(), text.size()); }
  // Puts them in their places, and removes weights that are not among them: loaders would take those first.
  void commit() {
    for (auto& [name, file] : files_) {
      file->commit();
      names_.insert(name);
    }
    static const std::regex weights(
        R"(model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json)");
    for (const auto& entry : fs::directory_iterator(folder_)) {
      const std::string name = entry.path().filename();
      if (std::regex_match(name, weights) && !names_.contains(name)) fs::remove(entry.path());
    }
  }

 private:
  fs::path folder_;
  bool made_ = false;
  std::vector<std::pair<std::string, std::unique_ptr<AtomicFile>>> files_;
  std::set<std::string> names_;  // of those in their places
};

void check(const SaveOptions& options) {
  if (options.dtype != DType::f32 && options.dtype != DType::bf16)
    fail("dtype must be f32 or bf16, got ", options.dtype);
  if (options.shard_bytes < 1) fail("shard_bytes must be positive, got ", options.shard_bytes);
}

}  // namespace
}  // namespace detail

void save_gpt2(const std::string& folder, const GPTConfig& config, const StateDict& state,
               const SaveOptions& options) try {
  detail::check(options);
  const Layout layout = options.layout.value_or(Layout::gpt2);
  const std::vector<detail::Source> sources = detail::sources(config, state, options);
  detail::Contents contents = detail::contents(sources, layout, options.dtype);
  const auto shards = detail::cut(std::move(contents.tensors), options.shard_bytes);

  detail::NewFiles files(folder);
  std::map<std::string, std::string> places;
  int64_t bytes = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = detail::shard_name(i, shards.size());
    for (const auto& tensor : shards[i]) {
      places[tensor.name] = name;
      bytes += tensor.nbytes();
    }
    write_safetensors(files.add(name), name, shards[i], {{"format", "pt"}});
  }
  if (shards.size() > 1) files.add(detail::index_name, detail::index_text(places, bytes));
  files.add(detail::config_name, detail::config_text(config, layout, options.dtype, contents.layers));
  files.commit();
} catch (const std::invalid_argument& e) {
  fail("save_gpt2: ", e.what());
}

void save_gpt2(const std::string& folder, const GPT& model, const SaveOptions& options) {
  save_gpt2(folder, model.config(), model.state_dict(), options);
}

}  // namespace altgrad::models
