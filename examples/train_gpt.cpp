// Trains a small GPT on text, its Linear layers in simulated 8-bit floats. Writes a checkpoint, the metrics,
// the loss curve and a sample of text to a folder. Ctrl-C, SIGTERM and a terminal that goes away stop it after
// the step, and it saves; --resume goes on, bit for bit as if it had never stopped: the learning rate depends on
// the step alone, batches and dropout on the generator that is in the checkpoint, and evaluation and sampling
// draw from generators of their own.
#include <filesystem>

#include "flags.h"
#include "signals.h"
#include "training.h"

namespace fs = std::filesystem;

int main(int argc, char** argv) {
  CLI::App app("Trains a small GPT on text, its Linear layers in simulated 8-bit floats.", "train_gpt");
  Options options;
  add_flags(app, options);
  app.set_version_flag(
      "--version", [] { return ag::concat(ag::build_info()); },
      "Print the version, how it was built, what it runs on");
  try {
    app.parse(argc, argv);
    const fs::path checkpoint = fs::path(options.out) / "checkpoint.safetensors";
    std::error_code error;
    const bool has_checkpoint = fs::exists(checkpoint, error);
    // Other people's weights are measured as they are.
    if (options.eval_only && !has_checkpoint && app.count("--format") == 0) options.format = "none";
    if (!options.quantized() &&
        (options.input_format() != "none" || options.grads != "none" || options.native_fp8)) {
      ag::fail("--inputs, --grads and --native-fp8 need a --format for the weights");
    }
    const bool given_dtype = app.count("--dtype") > 0, given_native = app.count("--native-fp8") > 0;
    if (const char* asked = options.eval_only ? "--eval-only" : options.resume ? "--resume" : nullptr) {
      if (has_checkpoint)
        take_settings(app, options, checkpoint, asked + (": " + checkpoint.string()));
      else if (!(options.eval_only && options.init_from))
        ag::fail_runtime(asked, ": there is no ", checkpoint.string());
    }
    if (options.device == "cpu") {
      if (options.eval_only) {  // what a GPU has trained: parameters are f32
        if (!given_dtype) options.dtype = "f32";
        if (!given_native) options.native_fp8 = false;
      }
      if (options.dtype == "bf16") ag::fail("--dtype bf16 needs --device cuda");
      if (options.native_fp8) ag::fail("--native-fp8 needs --device cuda");
    }
    if (options.native_fp8 && !ag::fp8::has_native_fp8(ag::Device::cuda()))
      ag::fail("--native-fp8 needs a GPU of compute capability 8.9 or higher");
    if (options.threads > 0) ag::set_num_threads(int(options.threads));
    watch_signals();
    Run run(options);
    return options.eval_only ? evaluate_only(run) : Training(run, config_of(app)).train();
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    std::fprintf(stderr, "train_gpt: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "train_gpt: %s\n", error.what());
    return 1;
  }
}
