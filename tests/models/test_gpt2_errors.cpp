// What is wrong with a GPT-2 folder is said with the file, the field and the value, and nothing worse happens: each way by
// hand, and config.json and the index with random changes.
#include "catch.h"
#include "errors.h"
#include "fuzz.h"
#include "gpt2_folders.h"

#include <altgrad/models/internal/gpt2_folder.h>

#include <cstdlib>
#include <random>

using namespace altgrad;
using namespace gpt2_tests;

namespace {

// Is the folder refused with these parts in the text, "load_gpt2: " and the folder's path among them?
template <class E = std::invalid_argument>
bool refused(const Folder& folder, std::vector<std::string> parts) {
  try {
    models::load_gpt2(folder.path());
  } catch (const E& e) {
    const std::string text = e.what();
    parts.insert(parts.end(), {"load_gpt2: ", folder.path()});
    for (const std::string& part : parts) {
      if (text.find(part) == text.npos) {
        UNSCOPED_INFO("the error lacks \"" << part << "\": " << text);
        return false;
      }
    }
    return text.size() < 1500;
  } catch (const std::exception& e) {
    UNSCOPED_INFO("an error of another type: " << e.what());
    return false;
  }
  UNSCOPED_INFO("nothing was thrown");
  return false;
}

}  // namespace

TEST_CASE("a config.json that is none is refused", "[gpt2]") {
  Folder folder;
  folder.write();
  const std::string path = folder / "config.json";
  const auto refused_text = [&](const std::string& text, const char* why) {
    write_bytes(path, text);
    return refused(folder, {path, why});
  };
  CHECK(refused_text("", "is not JSON, from byte 1 on"));
  CHECK(refused_text("{\"n_layer\": 2", "is not JSON, from byte 14 on"));
  CHECK(refused_text("{} x", "is not JSON"));
  CHECK(refused_text("{\"\xFF\": 2}", "is not JSON"));
  CHECK(refused_text("{\"n_layer\": 1e400}", "a number that is too large"));
  CHECK(refused_text("[1]", "is not a JSON object"));
  CHECK(refused_text("3", "is not a JSON object"));
  CHECK(refused_text("{}", "has no model_type"));
  CHECK(refused_text(std::string(1'000'000, '['), "is not JSON"));
  const std::string deep =
      "{\"model_type\": " + std::string(1'000'000, '[') + std::string(1'000'000, ']') + "}";
  CHECK(refused_text(deep, "model_type is a JSON array"));
  std::filesystem::remove(path);
  CHECK(refused<std::runtime_error>(folder, {path, "No such file or directory"}));
}

TEST_CASE("a config.json with a size that is missing or wrong is refused with field and value", "[gpt2]") {
  Folder folder;
  folder.write();
  const auto refused_with = [&](const char* field, const json& value, const std::string& why) {
    const json before = folder.config;
    folder.config[field] = value;
    folder.write_config();
    folder.config = before;
    return refused(folder, {"config.json: ", why});
  };
  for (const char* field : {"n_layer", "n_head", "n_embd", "n_positions", "vocab_size"}) {
    CAPTURE(field);
    const std::string range = concat(field, " must be a whole number from 1 to 2147483647, got ");
    CHECK(refused_with(field, nullptr, concat("has no ", field)));
    CHECK(refused_with(field, "12", range + "\"12\""));
    CHECK(refused_with(field, 2.0, range + "2.0"));
    CHECK(refused_with(field, 0, range + "0"));
    CHECK(refused_with(field, -1, range + "-1"));
    CHECK(refused_with(field, true, range + "true"));
    CHECK(refused_with(field, {{"a", 1}}, range + "a JSON object"));
    CHECK(refused_with(field, 2147483648, range + "2147483648"));
    CHECK(refused_with(field, 18446744073709551615u, range + "18446744073709551615"));
  }
  CHECK(refused_with("n_head", 3, "n_embd 32 is not a multiple of n_head 3"));
}

TEST_CASE("a config.json that asks for other maths is refused with field and value", "[gpt2]") {
  Folder folder;
  folder.write();
  const auto refused_with = [&](const char* field, const json& value, std::vector<std::string> why) {
    const json before = folder.config;
    folder.config[field] = value;
    folder.write_config();
    folder.config = before;
    why.insert(why.end(), {"config.json: ", field});
    return refused(folder, why);
  };
  CHECK(refused_with("model_type", "gpt_neo", {"\"gpt_neo\"", "\"gpt2\" only"}));
  CHECK(refused_with("architectures", {"GPT2DoubleHeadsModel"},
                     {"\"GPT2DoubleHeadsModel\"", "GPT2LMHeadModel"}));
  CHECK(refused_with("architectures", json::array(), {"a JSON array"}));
  CHECK(refused_with("activation_function", "relu", {"\"relu\"", "gelu_new"}));
  CHECK(refused_with("activation_function", 3, {"is 3;"}));
  CHECK(refused_with("n_inner", 96, {"is 96; GPT computes 128 only"}));
  CHECK(refused_with("layer_norm_epsilon", 1e-6, {"is 1e-06; GPT computes 1e-05 only"}));
  CHECK(refused_with("scale_attn_weights", false, {"is false; GPT computes true only"}));
  CHECK(refused_with("scale_attn_weights", "true", {"is \"true\";"}));
  CHECK(refused_with("scale_attn_by_inverse_layer_idx", true, {"is true;"}));
  CHECK(refused_with("add_cross_attention", true, {"is true;"}));
  CHECK(refused_with("tie_word_embeddings", false, {"is false;"}));
  CHECK(refused_with("pruned_heads", {{"0", {1}}}, {"a JSON object"}));
  CHECK(refused_with("quantization_config", {{"quant_method", "fp8"}},
                     {"codes, which are not read", "load_quantized"}));
}

TEST_CASE("weights that are not those of the config are refused with their names", "[gpt2]") {
  Folder folder;
  StateDict& t = folder.tensors;
  const auto is_refused = [&](std::vector<std::string> parts) {
    folder.write();
    return refused(folder, std::move(parts));
  };
  const std::string differ = "the weights are not those of this config";
  SECTION("a layer fewer or more") {
    folder.config["n_layer"] = 1;
    CHECK(is_refused({"n_layer is 1, the weights hold 2 layers"}));
    folder.config["n_layer"] = 2147483647;  // not a moment is spent on them
    CHECK(is_refused({"n_layer is 2147483647, the weights hold 2 layers"}));
  }
  SECTION("sizes") {
    folder.config["n_embd"] = 2147483646;
    CHECK(is_refused({}));
    folder.config["n_embd"] = 64;
    CHECK(is_refused({differ, "mismatched: wte.weight, by the config (61, 64), in the file (61, 32)",
                      "and 20 more that are mismatched"}));
  }
  SECTION("missing, unexpected, of another shape and dtype") {
    t.erase("transformer.ln_f.bias");
    t["transformer.h.1.attn.rotary\x1b"] = Tensor::zeros({1});
    t["transformer.h.0.attn.c_proj.bias"] = Tensor::zeros({33});
    t["transformer.h.0.mlp.c_fc.weight"] = Tensor::zeros({128, 32});
    t["transformer.h.1.ln_1.bias"] = Tensor::zeros({32}, {.dtype = DType::f64});
    CHECK(is_refused({differ, "missing: ln_f.bias", "unexpected: h.1.attn.rotary\\x1b",
                      "h.0.attn.c_proj.bias, by the config (32), in the file (33)",
                      "h.0.mlp.c_fc.weight, by the config (32, 128), in the file (128, 32)",
                      "h.1.ln_1.bias is F64; F32, F16 and BF16 are read"}));
  }
  SECTION("with and without the prefix") {
    t["ln_f.bias"] = t.at("transformer.ln_f.bias");
    CHECK(is_refused({"\"transformer.ln_f.bias\" is there with and without"}));
  }
  SECTION("a head of its own") {
    const Tensor head = t.at("transformer.wte.weight").copied();
    t["lm_head.weight"] = head;
    head.data<float>().back() = std::nextafter(head.data<float>().back(), 9.f);
    CHECK(is_refused({"lm_head.weight differs from wte.weight"}));
    t["lm_head.weight"] = Tensor::zeros({61, 31});
    CHECK(is_refused({"lm_head.weight differs from wte.weight"}));
    t["lm_head.weight"] = Tensor::zeros({61, 32}, {.dtype = DType::u8});
    CHECK(is_refused({"lm_head.weight differs from wte.weight"}));
  }
  SECTION("codes without a quantization_config") {
    t["transformer.h.0.attn.c_attn.weight"] = Tensor::zeros({32, 96}, {.dtype = DType::u8});
    folder.write();
    save_safetensors(folder / "model.safetensors", t, {},
                     {{"transformer.h.0.attn.c_attn.weight", "F8_E4M3"}});
    CHECK(refused(folder, {"h.0.attn.c_attn.weight is F8_E4M3; F32, F16 and BF16 are read"}));
  }
  SECTION("not a safetensors file") {
    folder.write();
    write_bytes(folder / "model.safetensors", "version https://git-lfs.github.com/spec/v1\n");
    CHECK(refused(folder, {folder / "model.safetensors", "header"}));
  }
  SECTION("none at all") {
    folder.write_config();
    CHECK(
        refused<std::runtime_error>(folder, {"neither model.safetensors nor model.safetensors.index.json"}));
  }
}

TEST_CASE("an index that differs from its shards is refused with the tensor and the file", "[gpt2]") {
  Folder folder;
  const std::string name = "transformer.h.0.ln_1.bias";
  const json index = folder.write_shards();
  models::load_gpt2(folder.path());
  const auto refused_with = [&](const json& file, std::vector<std::string> parts) {
    json changed = index;
    changed["weight_map"][name] = file;
    folder.write_index(changed);
    return refused(folder, std::move(parts));
  };
  const std::string own = index["weight_map"][name], other = Folder::shard(own == Folder::shard(0) ? 1 : 0);
  SECTION("places") {
    for (const char* file :
         {"../model.safetensors", "/etc/passwd", "sub/model.safetensors", "", ".", "..", "a/", "\x1b[2J"}) {
      CAPTURE(file);
      CHECK(refused_with(file, {"\"" + name + "\"", "no file of this folder"}));
    }
    CHECK(refused_with(3, {"weight_map", name, "is 3"}));
    CHECK(refused_with(json::array(), {"weight_map", name, "a JSON array"}));
    CHECK(refused_with(other, {own + " holds \"" + name + "\"", "is in " + other}));
  }
  SECTION("a file that is not there") {
    json changed = index;
    changed["weight_map"][name] = "nowhere.safetensors";
    folder.write_index(changed);
    std::filesystem::remove(folder / own);
    CHECK(refused<std::runtime_error>(folder, {"load_gpt2: cannot read " + (folder / own), "No such file"}));
  }
  SECTION("a tensor in two shards") {
    Metadata metadata;
    StateDict shard = load_safetensors(folder / other, &metadata);
    shard[name] = folder.tensors.at(name);
    save_safetensors(folder / other, shard, metadata);
    CHECK(refused(folder, {other + " holds \"" + name + "\"", "the index says is in " + own}));
  }
  SECTION("a shard with an extra one") {
    StateDict shard = load_safetensors(folder / own);
    shard["extra"] = Tensor::zeros({1});
    save_safetensors(folder / own, shard);
    CHECK(refused(folder, {own + " holds \"extra\"", "does not list"}));
  }
  SECTION("a shard that lacks one") {
    StateDict shard = load_safetensors(folder / own);
    shard.erase(name);
    save_safetensors(folder / own, shard);
    CHECK(refused(folder, {"\"" + name + "\" is in " + own, "does not hold it"}));
  }
  SECTION("no index") {
    write_bytes(folder / "model.safetensors.index.json", "{}");
    CHECK(refused(folder, {"model.safetensors.index.json", "weight_map"}));
    write_bytes(folder / "model.safetensors.index.json", R"({"weight_map": ["a"]})");
    CHECK(refused(folder, {"model.safetensors.index.json", "weight_map"}));
    write_bytes(folder / "model.safetensors.index.json", "{");
    CHECK(refused(folder, {"model.safetensors.index.json", "not JSON"}));
  }
}

namespace {

// Calls f with the text and random changes of it: bytes, cuts, parts that come twice, pieces of JSON.
template <class F>
void fuzz(const std::string& text, F f) {
  const int64_t count = fuzz_changes(100'000);
  const std::vector<std::string> pieces = {
      "null",    "-1",          "0",    "1e400", "\"\"", "{}",  "[", "18446744073709551616",
      "\\u0000", "\"n_head\":", "\xFF", "true",  "2.5",  "../", ",", "}"};
  std::mt19937_64 random(13);
  for (int64_t i = 0; i < count; ++i) {
    std::string changed = text;
    for (uint64_t changes = 1 + random() % 4; changes > 0 && !changed.empty(); --changes) {
      const size_t at = random() % changed.size(), length = random() % 12;
      switch (random() % 5) {
        case 0: changed[at] = char(random()); break;
        case 1: changed.erase(at, length); break;
        case 2: changed.insert(at, changed.substr(random() % changed.size(), length)); break;
        case 3: changed.replace(at, length, pieces[random() % pieces.size()]); break;
        default: changed.resize(random() % 20 == 0 ? at : changed.size());
      }
    }
    f(changed);
  }
}

// Calls f. Does it return true, or throw std::invalid_argument with a text of one line, as a terminal may show it?
template <class F>
bool sound(F f) {
  try {
    return f();
  } catch (const std::invalid_argument& e) {
    const std::string text = e.what();
    return text.size() < 500 && std::ranges::all_of(text, [](char c) { return c >= 0x20 && c < 0x7F; });
  }
}

}  // namespace

TEST_CASE("a config.json with random changes is read or refused, never worse", "[gpt2]") {
  int64_t read = 0;
  fuzz(read_bytes(fixture + "/config.json"), [&](const std::string& text) {
    const bool good = sound([&] {
      const GPTConfig c = models::detail::parse_config(text);
      ++read;
      return c.n_layer > 0 && c.n_head > 0 && c.n_embd % c.n_head == 0 && c.block_size > 0 &&
             c.vocab_size > 0;
    });
    if (!good) FAIL(text);
  });
  CHECK(read > 1000);
}

TEST_CASE("an index with random changes is read or refused, never worse", "[gpt2]") {
  int64_t read = 0;
  const std::string index =
      R"({"metadata":{"total_size":7},"weight_map":{"a":"model-00001-of-00002.safetensors",
    "b":"model-00002-of-00002.safetensors","c":"model-00001-of-00002.safetensors"}})";
  fuzz(index, [&](const std::string& text) {
    const bool good = sound([&] {
      const auto files = models::detail::parse_index(text);
      ++read;
      return std::ranges::all_of(files, [](const auto& entry) {
        const std::string& file = entry.second;
        return !file.empty() && file != "." && file != ".." && file.find('/') == file.npos;
      });
    });
    if (!good) FAIL(text);
  });
  CHECK(read > 1000);
}
