// Writes the fixture's model in every form that altgrad writes, each with the logits that altgrad computes of it, for
// check.py. usage: altgrad_interop FIXTURES OUT
#include <altgrad/altgrad.h>

#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

namespace ag = altgrad;
using ag::models::GPT;
using ag::models::Layout;
using ag::models::SaveOptions;

namespace {

struct Export {
  std::string fixtures, out;
  ag::Tensor ids = ag::load_safetensors(fixtures + "/expected.safetensors").at("ids");

  GPT model() const { return ag::models::load_gpt2(fixtures + "/gpt2"); }
  void logits(const std::string& name, GPT& model) const {
    model.eval();
    ag::save_safetensors(out + "/" + name + ".logits.safetensors", {{"ids", ids}, {"logits", model(ids)}});
  }
  void floats(const std::string& name, GPT model, const SaveOptions& options = {}) const {
    ag::models::save_gpt2(out + "/" + name, model, options);
    logits(name, model);
  }
  // In codes, after a step's forward: histories have seen weights and inputs.
  void codes(const std::string& name, const std::vector<ag::fp8::QuantizeOptions>& surgery,
             Layout layout) const {
    GPT model = this->model();
    for (const ag::fp8::QuantizeOptions& options : surgery)
      ag::fp8::quantize_model(model, ag::fp8::E4M3, options);
    model(ids);
    const ag::fp8::QuantizedState state = ag::fp8::quantized_state_dict(model);
    ag::models::save_gpt2(out + "/" + name, model.config(), state.tensors,
                          {.layout = layout, .dtypes = state.dtypes});
    logits(name, model);
  }
  void all() const {
    floats("gpt2", model());
    floats("gpt2_bf16", model(), {.dtype = ag::DType::bf16});
    floats("gpt2_shards", model(), {.shard_bytes = 40'000});
    floats("opt", model(), {.layout = Layout::opt});
    ag::manual_seed(1);
    for (const bool bias : {false, true}) {
      GPT own({.n_layer = 2, .n_head = 3, .n_embd = 24, .block_size = 32, .vocab_size = 61, .bias = bias});
      for (auto& [name, p] : own.named_parameters()) p.copy_(ag::Tensor::randn(p.shape()) * 0.3);
      floats(bias ? "gpt2_own" : "gpt2_biasless", own);
      floats(bias ? "opt_own" : "opt_biasless", own, {.layout = Layout::opt});
    }
    const ag::fp8::QuantizeOptions weights{.skip_patterns = {"lm_head"}},
        inputs_too{.skip_patterns = {"lm_head"}, .input_format = ag::fp8::E4M3};
    codes("opt_fp8", {weights}, Layout::opt);
    codes("opt_fp8_static", {inputs_too}, Layout::opt);
    codes("gpt2_fp8", {inputs_too}, Layout::gpt2);
    // Some layers' inputs, other layers' weights alone, and the rest as it is.
    codes("opt_fp8_some",
          {{.skip_patterns = {"lm_head", "attn.c_proj", "mlp"}, .input_format = ag::fp8::E4M3},
           {.skip_patterns = {"lm_head", "attn.c_proj", "h.1.mlp"}}},
          Layout::opt);
  }
};

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::fprintf(stderr, "usage: altgrad_interop FIXTURES OUT\n");
    return 2;
  }
  std::filesystem::create_directories(argv[2]);
  Export{argv[1], argv[2]}.all();
} catch (const std::exception& e) {
  std::fprintf(stderr, "altgrad_interop: %s\n", e.what());
  return 1;
}
