// GPT-2 folders of transformers, read: what the model computes against what transformers does, and the forms that such
// folders come in. (What is wrong with one is in test_gpt2_errors.cpp.)
#include "allocations.h"
#include "catch.h"
#include "errors.h"
#include "gpt2_folders.h"
#include "values.h"

#include <altgrad/models/internal/gpt2_folder.h>

#include <cmath>

using namespace altgrad;
using namespace gpt2_tests;

namespace {

double largest_difference(const Tensor& a, const Tensor& b) {
  const auto x = values(a), y = values(b);
  REQUIRE(x.size() == y.size());
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) worst = std::max(worst, std::abs(x[i] - y[i]));
  return worst;
}

bool same_parameters(const GPT& a, const GPT& b) {
  const auto x = a.named_parameters(), y = b.named_parameters();
  if (x.size() != y.size()) return false;
  for (size_t i = 0; i < x.size(); ++i)
    if (x[i].first != y[i].first || !same_bits(x[i].second, y[i].second)) return false;
  return true;
}

}  // namespace

TEST_CASE("a GPT-2 folder gives the model that transformers computes, in logits, loss and gradients",
          "[gpt2]") {
  GPT model = models::load_gpt2(fixture);
  const GPTConfig& config = model.config();
  CHECK(config.n_layer == 2);
  CHECK(config.n_head == 2);
  CHECK(config.n_embd == 32);
  CHECK(config.block_size == 64);
  CHECK(config.vocab_size == 61);
  CHECK(config.bias);
  CHECK(config.dropout == 0);
  CHECK(config.gelu == Gelu::tanh);
  CHECK(model.training());
  CHECK(model.parameter("lm_head.weight").is(model.parameter("transformer.wte.weight")));

  const StateDict expected = load_safetensors(expected_file);
  const Tensor &ids = expected.at("ids"), &targets = expected.at("targets");
  CHECK(largest_difference(model(ids), expected.at("logits")) < 1e-5);
  model.to(DType::f64);
  CHECK(largest_difference(model(ids), expected.at("logits")) < 1e-12);

  Tape tape;
  const Tensor loss = model.loss(ids, targets);
  CHECK(loss.item<double>() == Approx(expected.at("loss").item<double>()).epsilon(1e-13));
  tape.backward(loss);
  for (const auto& [name, p] : model.named_parameters()) {
    INFO(name);
    const Tensor& grad = expected.at("grad." + name);
    REQUIRE(p.grad().shape() == grad.shape());
    double largest = 0;
    for (const double g : values(grad)) largest = std::max(largest, std::abs(g));
    CHECK(largest_difference(p.grad(), grad) < 1e-6 * largest);
  }
}

TEST_CASE("a GPT-2 folder continues a text with transformers' tokens", "[gpt2]") {
  const StateDict expected = load_safetensors(expected_file);
  const Tensor prompt = expected.at("ids").narrow(0, 0, 1).reshape({-1}), next = expected.at("greedy");
  GPT model = models::load_gpt2(fixture);
  const Tensor text = model.generate(prompt, next.numel(), {.temperature = 0});
  CHECK(same_bits(text.narrow(0, prompt.numel(), next.numel()), next));
}

TEST_CASE("the forms that GPT-2 folders come in give the same model", "[gpt2]") {
  const GPT model = models::load_gpt2(fixture);
  Folder folder;
  SECTION("without the prefix, and with masks, as on the hub") {
    folder.tensors.clear();
    for (const auto& [name, t] : load_safetensors(fixture + "/model.safetensors"))
      folder.tensors[name.substr(std::string("transformer.").size())] = t;
    for (const char* layer : {"0", "1"}) {
      folder.tensors[concat("h.", layer, ".attn.bias")] = Tensor::ones({1, 1, 64, 64}, {.dtype = DType::u8});
      folder.tensors[concat("h.", layer, ".attn.masked_bias")] = Tensor::full({}, -1e4);
    }
  }
  SECTION("with a head that is equal") {
    folder.tensors["lm_head.weight"] = folder.tensors.at("transformer.wte.weight");
  }
  SECTION("in shards") {
    folder.write_shards();
    CHECK(same_parameters(models::load_gpt2(folder.path()), model));
    return;
  }
  SECTION("with fields that change nothing") {
    folder.config = json::parse(R"({"model_type":"gpt2","n_layer":2,"n_head":2,"n_embd":32,"n_positions":64,
      "vocab_size":61,"activation_function":"gelu_pytorch_tanh","n_inner":128,"attn_pdrop":0.5,"n_ctx":3,"use_cache":false,
      "pruned_heads":{},"tie_word_embeddings":null,"reorder_and_upcast_attn":true,"something":[1,{"new":null}]})");
  }
  folder.write();
  CHECK(same_parameters(models::load_gpt2(folder.path()), model));
}

TEST_CASE("weights of 16 bits are widened exactly, transposed or not", "[gpt2]") {
  Folder folder;
  StateDict stored;
  for (auto& [name, t] : folder.tensors) {
    const Tensor bits = Tensor::empty(t.shape(), {.dtype = DType::bf16});
    // bf16 numbers from 2^-14 up are numbers of f16, too.
    for (float& x : t.data<float>())
      x = std::abs(x) < 0x1p-14f ? 0 : std::bit_cast<float>(std::bit_cast<uint32_t>(x) & 0xFFFF0000);
    std::ranges::transform(t.data<float>(), bits.ptr<uint16_t>(), [](float x) {
      const auto u = std::bit_cast<uint32_t>(x);
      return uint16_t((u >> 16 & 0x8000) | (x == 0 ? 0 : ((u >> 23 & 255) - 112) << 10 | (u >> 13 & 1023)));
    });
    stored[name] = bits;
  }
  folder.write();
  const GPT wide = models::load_gpt2(folder.path());
  const std::string path = folder / "model.safetensors";
  save_safetensors(path, stored);
  std::string bytes = read_bytes(path);
  for (size_t at = 0; (at = bytes.find("\"BF16\"", at)) != bytes.npos;) bytes.replace(at, 6, "\"F16\" ");
  write_bytes(path, bytes);
  CHECK(same_parameters(models::load_gpt2(folder.path()), wide));
  for (auto& [name, t] : folder.tensors) t = t.to(DType::bf16);
  folder.write();
  CHECK(same_parameters(models::load_gpt2(folder.path()), wide));
}

TEST_CASE("the GELU is the config's", "[gpt2]") {
  Folder folder;
  for (const auto& [name, form] :
       {std::pair("gelu_new", Gelu::tanh), {"gelu_pytorch_tanh", Gelu::tanh}, {"gelu", Gelu::erf}}) {
    folder.config["activation_function"] = name;
    folder.write();
    CHECK(models::load_gpt2(folder.path()).config().gelu == form);
  }
}

TEST_CASE("an import draws no random numbers", "[gpt2]") {
  const auto before = default_generator().state();
  models::load_gpt2(fixture);
  CHECK(default_generator().state() == before);
}

TEST_CASE("opening 20 GB of shards reads their headers alone", "[gpt2]") {
  const TempFolder folder;
  constexpr int64_t numbers = int64_t(1) << 29;
  json index;
  for (int i = 0; i < 10; ++i) {
    const std::string name = concat("t", i), file = concat("shard-", i);
    index["weight_map"][name] = file;
    const std::string header = concat("{\"", name, "\":{\"dtype\":\"F32\",\"shape\":[", numbers,
                                      "],\"data_offsets\":[0,", 4 * numbers, "]}}");
    const uint64_t size = header.size();
    write_bytes(folder / file, std::string(reinterpret_cast<const char*>(&size), 8) + header);
    std::filesystem::resize_file(folder / file,
                                 8 + size + 4 * size_t(numbers));  // a hole, which takes no room
  }
  write_bytes(folder / "model.safetensors.index.json", index.dump());
  heap_watch();
  const models::detail::Weights weights(folder.path());
  CHECK(heap_peak() < 1'000'000);
  CHECK(throws([&] { weights.check({.n_layer = 1}); }, {"n_layer is 1, the weights hold 0 layers"}));
}
