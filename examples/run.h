// What a run is made of: data, model, optimizer, averages, and how far it is; how these are saved and resumed.
#pragma once

#include <altgrad/altgrad.h>

#include <charconv>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "corpus.h"
#include "evaluation.h"
#include "load_model.h"
#include "options.h"
#include "settings.h"

namespace ag = altgrad;

// The shortest text that from_chars reads as this very number.
inline std::string exact(double value) {
  char digits[32];
  return {digits, std::to_chars(digits, digits + sizeof digits, value).ptr};
}

// A number of a checkpoint's metadata; what it must be is said in an error.
template <class T>
T saved_number(const ag::Metadata& metadata, const std::string& key, const char* what,
               const std::string& where) {
  const auto found = metadata.find("extra." + key);
  const std::string text = found == metadata.end() ? "" : found->second;
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= 0)) {
    ag::fail(where, ": \"", key, "\" must be ", what, ", got \"", shortened(text), "\"");
  }
  return value;
}

struct Run {
  // Throws where the options, the data or the choices are wrong; makes no file.
  explicit Run(const Options& options)
      : o(options),
        recipe(o.recipe()),
        device(o.device == "cuda" ? ag::Device::cuda() : ag::Device::cpu()),
        corpus(open_corpus(o)),
        model(initial_model()),
        opt(model.decay_groups(0.1), {.lr = recipe.lr, .betas = {0.9, recipe.beta2}, .weight_decay = 0.1}) {
    if (o.ema) ema.emplace(model, *o.ema);
    if (o.choices) choices = read_choices(*o.choices, corpus);
  }

  const Options o;
  const Recipe recipe;
  const ag::Device device;
  const Corpus corpus;
  std::vector<Choice> choices;
  ag::fp8::SurgeryReport report;
  ag::models::GPT model;
  ag::optim::AdamW opt;
  std::optional<ag::optim::Ema> ema;

  int64_t step = 0;
  double best_val_loss = std::numeric_limits<double>::infinity();
  int64_t evaluations_since_best = 0;

  std::string file(const char* name) const { return (std::filesystem::path(o.out) / name).string(); }
  std::string checkpoint() const { return file("checkpoint.safetensors"); }

  std::string title() const {
    const std::string size = o.init_from ? *o.init_from + ", a" : o.size;
    if (!o.quantized()) return size + " GPT in " + o.dtype;
    const auto name = [&](const std::string& format) { return format == "none" ? o.dtype : format; };
    return size + " GPT, " + o.format + " weights, " + name(o.input_format()) + " inputs, " + name(o.grads) +
           " gradients" + (o.native_fp8 ? ", native FP8" : "");
  }

  void save(const std::string& path) const {
    ag::nn::save_checkpoint(path, model, opt,
                            {.step = step,
                             .generator = ag::default_generator().state(),
                             .extra = {{"settings", settings_text(run_settings(o, corpus))},
                                       {"model", sizes_text(model.config())},
                                       {"best_val_loss", exact(best_val_loss)},
                                       {"evaluations_since_best", std::to_string(evaluations_since_best)}}},
                            ema ? &*ema : nullptr);
  }

  // From the checkpoint, for `flag`, which errors name.
  void load(const std::string& flag) {
    const std::string path = checkpoint(), where = flag + ": " + path;
    const ag::Metadata metadata = ag::load_safetensors_metadata(path);
    nlohmann::ordered_json settings = run_settings(o, corpus);
    settings.erase("--steps");      // more may be made than were asked for
    settings.erase("--init-from");  // the weights that it began with have been trained since
    const nlohmann::ordered_json saved = saved_settings(metadata, where);
    if (o.eval_only) {  // parameters are f32: they may be evaluated in any of these
      settings.erase("--dtype");
      settings.erase("--native-fp8");
    }
    // Other data may be evaluated, of that vocabulary: where it is known what its tokens stand for, if they are the same.
    if (o.eval_only && (corpus.texts.empty() || saved.contains(alphabet_setting))) forget_data(settings);
    require_settings(settings, saved, where);
    best_val_loss = saved_number<double>(metadata, "best_val_loss", "a loss", where);
    if (metadata.contains("extra.evaluations_since_best")) {  // earlier checkpoints have none
      evaluations_since_best =
          saved_number<int64_t>(metadata, "evaluations_since_best", "a whole number", where);
    }
    const ag::nn::TrainingState state = ag::nn::load_checkpoint(path, model, opt, ema ? &*ema : nullptr);
    if (state.step > recipe.steps && !o.eval_only) {
      ag::fail(where, " is at step ", state.step, ", past --steps ", recipe.steps);
    }
    step = state.step;
    ag::default_generator().set_state(state.generator);
    ag::rounding_generator().set_state(state.rounding);
  }

 private:
  // Throws where its model cannot be trained on this data.
  ag::models::GPT initialised_from(const std::string& folder) const {
    const ag::models::GPT loaded = ag::models::load_gpt2(folder);
    const ag::models::GPTConfig config = o.trained(loaded.config());
    if (config.vocab_size < corpus.vocab_size()) {
      ag::fail("--init-from: ", folder, " has a vocabulary of ", config.vocab_size, ", ", corpus.name,
               " one of ", corpus.vocab_size(), "; is --tokenizer the model's?");
    }
    if (config.block_size < recipe.block) {
      ag::fail("--init-from: ", folder, " sees ", config.block_size, " tokens at most, --block is ",
               recipe.block);
    }
    // The tensors themselves, so that there is one copy: what a new model would be filled with is never touched.
    const ag::nn::init::Skip all_are_there;
    ag::models::GPT gpt(config);
    for (const auto& [name, weight] : loaded.named_parameters()) gpt.parameter(name) = weight;
    gpt.parameter("lm_head.weight") = gpt.parameter("transformer.wte.weight");  // one tensor there, too
    return gpt;
  }
  // Seeds everything: the same weights and, later, the same batches for the same --seed.
  ag::models::GPT initial_model() {
    ag::manual_seed(o.seed);
    ag::models::GPT gpt = o.init_from && !o.sizes ? initialised_from(*o.init_from)
                                                  : ag::models::GPT(o.model(corpus.vocab_size()));
    gpt.to(device);
    if (o.quantized()) report = ag::fp8::quantize_model(gpt, ag::fp8::format(o.format), o.surgery());
    return gpt;
  }
};

// For as long as it lives, a run's model is as it is to be evaluated: in eval mode, with its averages where there are any.
class Evaluated {
 public:
  explicit Evaluated(Run& run) : run_(run) {
    if (run_.ema) run_.ema->swap();
    run_.model.eval();
  }
  ~Evaluated() {
    run_.model.train();
    if (run_.ema) run_.ema->swap();
  }
  Evaluated(const Evaluated&) = delete;
  Evaluated& operator=(const Evaluated&) = delete;

 private:
  Run& run_;
};

// How many of the choices' right endings are the likeliest; none where it was stopped.
inline std::optional<double> print_accuracy(Run& run) {
  const Evaluated evaluated(run);
  const std::optional<int64_t> right = count_right(run.model, run.choices, run.device);
  if (!right) return {};
  const double accuracy = double(*right) / double(run.choices.size());
  std::printf("Right endings in %s: %ld of %zu, accuracy %.4f\n", run.o.choices->c_str(), long(*right),
              run.choices.size(), accuracy);
  return accuracy;
}

// --eval-only, of the checkpoint, or, where there is none, of what --init-from names: exit status.
inline int evaluate_only(Run& run) {
  std::error_code error;
  if (!run.o.init_from || std::filesystem::exists(run.checkpoint(), error)) run.load("--eval-only");
  std::printf("%s, %s at step %ld\n", run.title().c_str(), run.ema ? "averaged weights" : "weights",
              long(run.step));
  std::optional<Evaluation> all;
  {
    const Evaluated evaluated(run);
    all = evaluate_all(run.model, run.corpus, run.recipe.batch, run.device);
  }
  if (!all) return 130;
  std::printf("Validation loss %.4f, perplexity %.4f", all->loss, std::exp(all->loss));
  if (all->bits_per_byte) std::printf(", bits per byte %.4f", *all->bits_per_byte);
  std::printf(", over %ld windows of %ld tokens\n", long(all->windows), long(run.recipe.block));
  return !run.o.choices || print_accuracy(run) ? 0 : 130;
}
