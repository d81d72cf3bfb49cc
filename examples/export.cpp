// Hands a model on: writes a GPT-2 or a checkpoint of train_gpt as a folder that Hugging Face's transformers loads, in f32,
// bf16, or with the weights of its Linear layers in FP8 codes, as vLLM and compressed-tensors have them.
#include <altgrad/altgrad.h>

#include <CLI/CLI.hpp>

#include "load_model.h"
#include "open_tokenizer.h"

namespace ag = altgrad;

namespace {

struct Flags {
  std::string model, out, tokenizer, dtype = "f32";
};

void write(const Flags& flags) {
  std::error_code error;
  if (std::filesystem::equivalent(flags.model, flags.out, error))
    ag::fail("--out is --model: what is there would be overwritten");
  ag::models::GPT model = load_model(flags.model);
  // First, as it may be one that has no such files.
  if (!flags.tokenizer.empty()) open_tokenizer(flags.tokenizer).save(flags.out);
  const bool in_codes = flags.dtype == "fp8";
  if (in_codes) {
    // What was quantized in training keeps its histories, and its inputs' scales with them.
    const ag::fp8::SurgeryReport report =
        ag::fp8::quantize_model(model, ag::fp8::E4M3, {.skip_patterns = {"lm_head"}});
    const ag::fp8::QuantizedState state = ag::fp8::quantized_state_dict(model);
    ag::models::save_gpt2(flags.out, model.config(), state.tensors,
                          {.layout = ag::models::Layout::opt, .dtypes = state.dtypes});
    std::printf("%zu Linear layers in E4M3, in OPT's layout: %s\n",
                report.replaced.size() + report.quantized_before.size(), flags.out.c_str());
  } else {
    ag::models::save_gpt2(flags.out, model,
                          {.dtype = flags.dtype == "bf16" ? ag::DType::bf16 : ag::DType::f32});
    std::printf("%ld parameters in %s, as GPT2LMHeadModel: %s\n", long(model.num_parameters()),
                flags.dtype.c_str(), flags.out.c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Writes a GPT as a folder that Hugging Face's transformers loads.", "export");
  Flags flags;
  app.add_option("--model", flags.model, model_help)->required();
  app.add_option("--out", flags.out, "the folder")->required();
  app.add_option("--dtype", flags.dtype, "f32, bf16, or fp8: E4M3 codes in OPT's layout, whose Linears load")
      ->check(CLI::IsMember({"f32", "bf16", "fp8"}))
      ->capture_default_str();
  app.add_option(
      "--tokenizer", flags.tokenizer,
      "written beside: a folder of vocab.json and merges.txt, or a tokenizer.json; default: --model, "
      "where it has one");
  try {
    app.parse(argc, argv);
    if (flags.tokenizer.empty() && has_tokenizer(flags.model)) flags.tokenizer = flags.model;
    write(flags);
    return 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    std::fprintf(stderr, "export: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "export: %s\n", error.what());
    return 1;
  }
}
