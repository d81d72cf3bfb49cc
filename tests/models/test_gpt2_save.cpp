// GPT-2 folders, written: what load_gpt2 reads back, what the OPT layout holds, and that an error leaves the folder as it
// was. (tests/interop loads such folders in transformers.)
#include "catch.h"
#include "errors.h"
#include "gpt2_folders.h"
#include "values.h"

#include <sys/stat.h>

#include <set>

using namespace altgrad;
using namespace gpt2_tests;
using models::Layout;
using models::save_gpt2;

namespace {

// Sizes that no loop over blocks divides.
GPT small_gpt(bool bias = true) {
  GPT model({.n_layer = 2,
             .n_head = 2,
             .n_embd = 6,
             .block_size = 5,
             .vocab_size = 7,
             .bias = bias,
             .gelu = Gelu::tanh});
  for (auto& [name, p] : model.named_parameters()) p.copy_(Tensor::randn(p.shape()));
  return model;
}

bool same_parameters(const GPT& a, const GPT& b) {
  const auto x = a.named_parameters(), y = b.named_parameters();
  return std::ranges::equal(
      x, y, [](const auto& p, const auto& q) { return p.first == q.first && same_bits(p.second, q.second); });
}

std::set<std::string> files_in(const TempFolder& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
    names.insert(entry.path().filename());
  return names;
}

// All that is in the folder, by name.
std::map<std::string, std::string> bytes_in(const TempFolder& folder) {
  std::map<std::string, std::string> bytes;
  for (const std::string& name : files_in(folder)) bytes[name] = read_bytes(folder / name);
  return bytes;
}

}  // namespace

TEST_CASE("what is saved as a GPT-2 folder is loaded again, bit for bit", "[gpt2]") {
  manual_seed(1);
  const TempFolder folder;
  const GPT model = small_gpt();
  save_gpt2(folder / "new", model);
  const GPT loaded = models::load_gpt2(folder / "new");
  CHECK(same_parameters(model, loaded));
  CHECK(loaded.config().gelu == Gelu::tanh);
  CHECK(loaded.config().n_head == 2);
  CHECK(loaded.config().block_size == 5);

  GPT erf({.n_layer = 1, .n_head = 1, .n_embd = 4, .block_size = 5, .vocab_size = 7});
  save_gpt2(folder / "new", erf);
  CHECK(models::load_gpt2(folder / "new").config().gelu == Gelu::erf);
}

TEST_CASE("a GPT-2 folder in bf16 holds the nearest numbers in half the memory", "[gpt2]") {
  manual_seed(2);
  const TempFolder folder;
  const GPT model = small_gpt(), loaded = (save_gpt2(folder.path(), model, {.dtype = DType::bf16}),
                                           models::load_gpt2(folder.path()));
  const auto after = loaded.named_parameters();
  size_t i = 0;
  for (const auto& [name, p] : model.named_parameters())
    CHECK(same_bits(p.detach().to(DType::bf16).to(DType::f32), after[i++].second));
  const StateDict stored = load_safetensors(folder / "model.safetensors", nullptr, {.keep_bf16 = true});
  for (const auto& [name, t] : stored) CHECK(t.dtype() == DType::bf16);
  CHECK(json::parse(read_bytes(folder / "config.json"))["dtype"] == "bfloat16");
}

TEST_CASE("a biasless GPT is saved with biases of zero and computes the same", "[gpt2]") {
  manual_seed(3);
  const TempFolder folder;
  GPT model = small_gpt(/*bias=*/false);
  save_gpt2(folder.path(), model);
  GPT loaded = models::load_gpt2(folder.path());
  CHECK(loaded.num_parameters() > model.num_parameters());
  const Tensor ids = Tensor::randint(7, {2, 5});
  CHECK(values(loaded(ids)) == values(model(ids)));
}

TEST_CASE("shards are as large as is said, and take the place of what was there", "[gpt2]") {
  manual_seed(4);
  const TempFolder folder;
  const GPT model = small_gpt();
  write_bytes(folder / "tokenizer.json", "the user's");
  save_gpt2(folder.path(), model);
  CHECK(files_in(folder) == std::set<std::string>{"config.json", "model.safetensors", "tokenizer.json"});

  save_gpt2(folder.path(), model, {.shard_bytes = 1000});
  CHECK(!std::filesystem::exists(folder / "model.safetensors"));  // loaders would take it first
  CHECK(read_bytes(folder / "tokenizer.json") == "the user's");
  CHECK(same_parameters(model, models::load_gpt2(folder.path())));
  const json index = json::parse(read_bytes(folder / "model.safetensors.index.json"));
  std::map<std::string, int64_t> bytes;
  for (const auto& [name, file] : index["weight_map"].items())
    bytes[file] += int64_t(load_safetensors(folder / file).at(name).nbytes());
  REQUIRE(bytes.size() > 2);
  CHECK(bytes.contains(concat("model-00001-of-0000", bytes.size(), ".safetensors")));
  int64_t total = 0;
  for (const auto& [file, size] : bytes) {
    CHECK(size <= 1000);
    total += size;
  }
  CHECK(total == 4 * model.num_parameters());
  CHECK(index["metadata"]["total_size"] == total);

  save_gpt2(folder.path(), model, {.shard_bytes = 1});  // a tensor is not cut
  CHECK(files_in(folder).size() == 3 + model.named_parameters().size());
  CHECK(same_parameters(model, models::load_gpt2(folder.path())));
  save_gpt2(folder.path(), model);
  CHECK(files_in(folder) == std::set<std::string>{"config.json", "model.safetensors", "tokenizer.json"});
}

TEST_CASE("the OPT layout is the same numbers under its names, two rows of zeros before the positions",
          "[gpt2]") {
  manual_seed(5);
  const TempFolder folder;
  const GPT model = small_gpt();
  save_gpt2(folder.path(), model, {.layout = Layout::opt});
  const StateDict opt = load_safetensors(folder / "model.safetensors"), own = model.state_dict();
  const auto same = [&](const std::string& theirs, const std::string& ours, int64_t first = 0,
                        int64_t rows = -1) {
    const Tensor& t = own.at("transformer." + ours);
    return same_bits(opt.at("model.decoder." + theirs),
                     t.detach().narrow(0, first, rows < 0 ? t.size(0) : rows));
  };
  CHECK(opt.size() == own.size() + 2 * 2 * 2);  // c_attn's weight and bias are three each
  CHECK(same("embed_tokens.weight", "wte.weight"));
  const Tensor positions = opt.at("model.decoder.embed_positions.weight");
  CHECK(values(positions.narrow(0, 0, 2)) == std::vector<double>(12, 0.0));
  CHECK(same_bits(positions.narrow(0, 2, 5), own.at("transformer.wpe.weight")));
  for (const std::string end : {".weight", ".bias"}) {
    for (const std::string i : {"0", "1"}) {
      const std::string layer = "layers." + i + ".", h = "h." + i + ".";
      CHECK(same(layer + "self_attn_layer_norm" + end, h + "ln_1" + end));
      CHECK(same(layer + "self_attn.q_proj" + end, h + "attn.c_attn" + end, 0, 6));
      CHECK(same(layer + "self_attn.k_proj" + end, h + "attn.c_attn" + end, 6, 6));
      CHECK(same(layer + "self_attn.v_proj" + end, h + "attn.c_attn" + end, 12, 6));
      CHECK(same(layer + "self_attn.out_proj" + end, h + "attn.c_proj" + end));
      CHECK(same(layer + "final_layer_norm" + end, h + "ln_2" + end));
      CHECK(same(layer + "fc1" + end, h + "mlp.c_fc" + end));
      CHECK(same(layer + "fc2" + end, h + "mlp.c_proj" + end));
    }
    CHECK(same("final_layer_norm" + end, "ln_f" + end));
  }
  const json config = json::parse(read_bytes(folder / "config.json"));
  CHECK(config["architectures"] == json{"OPTForCausalLM"});
  CHECK(config["activation_function"] == "gelu_new");
  CHECK(!config.contains("quantization_config"));
}

TEST_CASE("an error in saving leaves the folder as it was", "[gpt2]") {
  manual_seed(6);
  const TempFolder folder;
  const GPT model = small_gpt();
  save_gpt2(folder.path(), model, {.shard_bytes = 1000});
  const auto before = bytes_in(folder);
  const auto refuses = [&](const StateDict& state, const models::SaveOptions& options, std::string part) {
    return throws([&] { save_gpt2(folder.path(), model.config(), state, options); }, {"save_gpt2: ", part});
  };
  const StateDict good = model.state_dict();
  StateDict state = good;
  CHECK(refuses(good, {.dtype = DType::f64}, "dtype must be f32 or bf16, got f64"));
  CHECK(refuses(good, {.shard_bytes = 0}, "shard_bytes must be positive, got 0"));
  state.erase("transformer.h.1.ln_2.bias");
  CHECK(refuses(state, {}, "the state lacks transformer.h.1.ln_2.bias"));
  state["transformer.h.1.ln_2.bias"] = Tensor();
  CHECK(refuses(state, {}, "the state lacks transformer.h.1.ln_2.bias"));
  state["transformer.h.1.ln_2.bias"] = Tensor::zeros({5});
  CHECK(refuses(state, {}, "transformer.h.1.ln_2.bias is (5), and (6) by the config"));
  state["transformer.h.1.ln_2.bias"] = Tensor::zeros({6}, {.dtype = DType::i64});
  CHECK(refuses(state, {}, "transformer.h.1.ln_2.bias is i64"));
  state = good;
  state["transformer.h.2.ln_1.weight"] = Tensor::zeros({6});
  CHECK(refuses(state, {}, "\"transformer.h.2.ln_1.weight\", which GPT-2 has not"));
  state = good;
  state["lm_head.weight"] = Tensor::zeros({7, 6});
  CHECK(refuses(state, {}, "lm_head.weight differs"));
  state["lm_head.weight"] = good.at("transformer.wte.weight").copied();
  state["transformer.h.0.attn._auxiliary"] = Tensor::zeros({1});
  CHECK(bytes_in(folder) == before);

  SECTION("a file that may not be written") {
    const std::string last = folder / "config.json";
    REQUIRE(::chmod(last.c_str(), 0444) == 0);
    CHECK(throws<std::runtime_error>([&] { save_gpt2(folder.path(), model); },
                                     {"save_gpt2", last, "read-only"}));
    CHECK(bytes_in(folder) == before);
  }
  SECTION("a folder that is not there") {
    CHECK(throws<std::runtime_error>([&] { save_gpt2(folder / "a/b", model); },
                                     {"save_gpt2", "a/b", "No such file"}));
    write_bytes(folder / "file", "x");
    CHECK(throws<std::runtime_error>([&] { save_gpt2(folder / "file", model); }, {"save_gpt2", "file"}));
  }
  SECTION("what is right is written") {
    save_gpt2(folder.path(), model.config(), state);
    CHECK(same_parameters(model, models::load_gpt2(folder.path())));
  }
}
