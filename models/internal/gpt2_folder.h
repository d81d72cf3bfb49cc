// The parts of a GPT-2 folder, as loading and saving see them.
#pragma once

#include <altgrad/models/gpt2.h>
#include <altgrad/nn/internal/safetensors_file.h>

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace altgrad::models::detail {

inline constexpr const char *config_name = "config.json", *weights_name = "model.safetensors",
                            *index_name = "model.safetensors.index.json";
// What names in transformers' files may begin with, and names of GPT do.
inline constexpr std::string_view prefix = "transformer.";

// The text of config.json. Throws std::invalid_argument, naming field and value.
GPTConfig parse_config(const std::string& text);
// The text of the index: the file of each tensor. Throws std::invalid_argument where it is none, or names a file that
// is not in the folder itself.
std::map<std::string, std::string> parse_index(const std::string& text);

// Modules that are Linear, by their names in the files: those as they are, and those with codes for weights.
struct CodedLayers {
  std::vector<std::string> plain, weights, weights_and_inputs;
};
// What is written: the texts that transformers reads.
std::string config_text(const GPTConfig& config, Layout layout, DType dtype, const CodedLayers& layers);
std::string index_text(const std::map<std::string, std::string>& files, int64_t bytes);

struct Parameter {
  std::string name;  // without the prefix
  Shape shape;       // as GPT has it
};
// All parameters of a GPT, biases too.
std::vector<Parameter> parameters_of(const GPTConfig& config);
// Does the name (of a parameter) end with that of a weight that transformers keeps as (in, out)? By name alone:
// attn.c_proj is square.
bool is_conv1d(std::string_view name);

// The weights of a folder, open: each tensor's place by its name without the prefix. Masks are left out.
class Weights {
 public:
  explicit Weights(const std::string& folder);

  // Throws std::invalid_argument unless the tensors are a GPT's of this config, in shapes and dtypes, and lm_head, if any,
  // is equal to wte.
  void check(const GPTConfig& config) const;
  // Reads a parameter, in GPT's layout.
  void read(const std::string& name, const Tensor& to) const;

 private:
  using File = altgrad::detail::SafetensorsFile;
  struct Place {
    const File* file;
    const File::Entry* entry;
  };
  void open(const std::string& path);
  void add(const File& file);
  const Place& at(const std::string& name) const;
  void check_head() const;

  std::vector<std::unique_ptr<File>> files_;
  std::map<std::string, Place> places_;
};

}  // namespace altgrad::models::detail
