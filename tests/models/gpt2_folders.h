// Folders of GPT-2, made of the fixture that transformers wrote (tests/interop): its tensors, config and index may be
// changed before they are written.
#pragma once

#include <altgrad/models/gpt2.h>

#include <nlohmann/json.hpp>

#include <vector>

#include "temp_folder.h"

namespace gpt2_tests {

using namespace altgrad;
using models::GPT;
using models::GPTConfig;
using nlohmann::json;

inline const std::string interop = ALTGRAD_SOURCE_DIR "/tests/interop/";
inline const std::string fixture = interop + "gpt2", expected_file = interop + "expected.safetensors";

class Folder {
 public:
  json config = json::parse(read_bytes(fixture + "/config.json"));
  StateDict tensors = load_safetensors(fixture + "/model.safetensors");

  std::string path() const { return folder_.path(); }
  std::string operator/(const std::string& name) const { return folder_ / name; }
  void write_config() const { write_bytes(folder_ / "config.json", config.dump()); }
  // As one file.
  void write() const {
    write_config();
    save_safetensors(folder_ / "model.safetensors", tensors, {{"format", "pt"}});
  }
  static std::string shard(size_t i) { return concat("model-0000", i + 1, "-of-00003.safetensors"); }
  // As three files, which hold the tensors in turn. Gives the index.
  json write_shards() const {
    write_config();
    StateDict parts[3];
    json index = {{"metadata", {{"total_size", 1}}}, {"weight_map", json::object()}};
    size_t i = 0;
    for (const auto& [name, t] : tensors) {
      parts[i][name] = t;
      index["weight_map"][name] = shard(i);
      i = (i + 1) % 3;
    }
    for (i = 0; i < 3; ++i) save_safetensors(folder_ / shard(i), parts[i]);
    write_index(index);
    return index;
  }
  void write_index(const json& index) const {
    write_bytes(folder_ / "model.safetensors.index.json", index.dump());
  }

 private:
  TempFolder folder_;
};

}  // namespace gpt2_tests
