// The command line of train_gpt, and the same as a file: --config reads one, and a run writes the one that repeats it.
#pragma once

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <optional>
#include <sstream>
#include <string>

#include "options.h"

// A check that a flag is a whole number in plain digits. CLI11 itself takes -1 for 2^64 - 1, 010 for 8 and what is too
// large for the largest number there is.
template <class T>
auto whole(T least, T most) {
  return [=](const std::string& text) {
    T value{};
    std::from_chars(text.data(), text.data() + text.size(), value);
    if (least <= value && value <= most && std::to_string(value) == text) return std::string();
    return altgrad::concat("must be a whole number from ", least, " to ", most, ", got ", text);
  };
}

// A check that a flag is a number above 0 that is finite: CLI11's own takes inf.
inline std::string positive_number(const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool good =
      error == std::errc() && end == text.data() + text.size() && value > 0 && std::isfinite(value);
  return good ? "" : altgrad::concat("must be a number above 0, got ", text);
}

// A check that a flag is a number between 0 and 1, and neither.
inline std::string fraction(const std::string& text) {
  const std::string wrong = positive_number(text);
  return wrong.empty() && std::strtod(text.c_str(), nullptr) < 1
             ? ""
             : altgrad::concat("must be a number between 0 and 1, got ", text);
}

// A config file, every key of which must be a flag that may stand in one: CLI11 itself says of others that "INI was not
// able to parse" them, and not in which file.
class ConfigFile final : public CLI::ConfigTOML {
 public:
  explicit ConfigFile(const CLI::App& app) : app_(app) {}
  std::vector<CLI::ConfigItem> from_config(std::istream& in) const override {
    std::vector<CLI::ConfigItem> items = CLI::ConfigTOML::from_config(in);
    for (const CLI::ConfigItem& item : items) {
      const CLI::Option* flag = item.parents.empty() ? app_.get_option_no_throw("--" + item.name) : nullptr;
      if (!flag || !flag->get_configurable()) {
        throw CLI::ConfigError(altgrad::concat(app_["--config"]->as<std::string>(),
                                               ": no flag that a file may set is called ",
                                               item.parents.empty() ? item.name : item.parents.front()));
      }
    }
    return items;
  }

 private:
  const CLI::App& app_;
};

inline void add_flags(CLI::App& app, Options& o) {
  const auto positive = whole<int64_t>(1, int64_t(1) << 40);
  app.config_formatter(std::make_shared<ConfigFile>(app));
  app.set_config("--config", "", "file of flags, NAME = VALUE (TOML or INI); the command line overrides it");
  app.add_option(
      "--data", o.data,
      "text to train on, by byte; or tokens, nanoGPT's or llm.c's: a .bin file, a glob of them, or a "
      "folder with train*.bin and val*.bin; default: headers of Eigen");
  app.add_option("--val", o.val,
                 "tokens to validate on: a .bin file or a glob; default: the last tenth of --data");
  app.add_option("--vocab", o.vocab, "tokens are below it; default: that of meta.json beside --data")
      ->check(positive);
  app.add_option(
      "--tokenizer", o.tokenizer,
      "what makes text of tokens, and tokens of a text in --data: a folder of vocab.json and merges.txt, a "
      "tokenizer.json, or a file of ranks; default: --init-from, where it has one, or what meta.json beside "
      "--data names");
  app.add_option("--init-from", o.init_from,
                 "begin with the weights of a GPT-2 folder of Hugging Face's, and with its sizes, which a "
                 "checkpoint to go on from must have, too; --size then gives the recipe of training alone");
  app.add_option("--size", o.size, "tiny (4 layers, 128 wide), baby (6, 384) or gpt2 (12, 768)")
      ->check(CLI::IsMember({"tiny", "baby", "gpt2"}))
      ->capture_default_str();
  app.add_option("--steps", o.steps, "training steps")->check(positive);
  app.add_option("--batch", o.batch, "sequences in a step")->check(positive);
  app.add_option("--accumulate", o.accumulate, "batches whose gradients make a step")
      ->check(whole<int64_t>(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--block", o.block, "tokens in a sequence")->check(positive);
  app.add_option("--lr", o.lr, "highest learning rate; all schedules but a constant end at a tenth of it")
      ->check(positive_number);
  app.add_option("--schedule", o.schedule,
                 "cosine, linear, constant or wsd (constant, and a line down over the last fifth)")
      ->check(CLI::IsMember({"cosine", "linear", "constant", "wsd"}))
      ->capture_default_str();
  app.add_option("--ema", o.ema,
                 "keep averages of the weights with this decay, 0.999 say; evaluate and sample with them")
      ->check(fraction);
  app.add_option("--dropout", o.dropout, "probability, of embeddings and residual branches")
      ->check(CLI::Range(0., 1.));
  app.add_option("--format", o.format, "of the Linear layers' weights; none: f32")->capture_default_str();
  app.add_option("--inputs", o.inputs,
                 "format of their inputs, or none; default E4M3, none with --format none");
  app.add_option("--grads", o.grads, "format of their output gradients, or none")->capture_default_str();
  app.add_option("--scaling", o.scaling, "window, delayed or current")
      ->check(CLI::IsMember({"window", "delayed", "current"}))
      ->capture_default_str();
  app.add_option("--history", o.history, "steps that an amax is remembered")
      ->check(positive)
      ->capture_default_str();
  app.add_flag(
      "--native-fp8", o.native_fp8,
      "multiply E4M3 and E5M2 by a GPU's FP8 tensor cores, of weights, inputs and gradients; without it "
      "products of the same numbers have f32 sums");
  app.add_option("--skip", o.skip, "names of layers to leave in f32; none: all are quantized")
      ->default_str("lm_head");
  app.add_option("--seed", o.seed, "of all randomness")
      ->check(whole<uint64_t>(0, UINT64_MAX))
      ->capture_default_str();
  app.add_option("--threads", o.threads, "default: all cores")->check(whole<int64_t>(1, 1024));
  app.add_option("--device", o.device, "cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--dtype", o.dtype, "of activations: f32, or, on a GPU, bf16; parameters are f32")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
  app.add_option("--eval-every", o.eval_every, "steps between evaluations, each followed by a checkpoint")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--eval-batches", o.eval_batches,
                 "batches in an evaluation; the final one has ten times as many")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--patience", o.patience, "stop after so many evaluations without a better one")
      ->check(positive);
  app.add_option(
      "--choices", o.choices,
      "JSON lines of context, endings and label, as HellaSwag's: says how often the right ending is "
      "the likeliest");
  app.add_option("--sample", o.sample, "characters of text to write at the end")
      ->check(whole<int64_t>(0, INT32_MAX))
      ->capture_default_str();
  app.add_option("--out", o.out,
                 "folder for checkpoint, metrics, curve and sample; files there are overwritten")
      ->capture_default_str();
  app.add_option("--json", o.json, "the metrics' file; default: metrics.jsonl in --out");
  app.add_option("--csv", o.csv, "a file of the metrics as CSV, too");
  app.add_option("--tensorboard", o.tensorboard, "a folder for the metrics as TensorBoard reads them, too");
  app.add_flag("--resume", o.resume,
               "go on from the checkpoint in --out: flags of model, training and formats that are not given "
               "are its; --steps may be larger")
      ->configurable(false);
  app.add_flag("--eval-only", o.eval_only,
               "train nothing: evaluate the checkpoint in --out, with its flags as --resume has them, or, "
               "where there is none, what --init-from names, in f32 unless there is a --format, on all of "
               "the validation data")
      ->configurable(false);
}

// The flags of a run as a config file has them, defaults too, but for those that have no value: CLI11 writes "" for
// these, and would read that as one.
inline std::string config_text(const CLI::App& app) {
  std::istringstream lines(app.config_to_str(/*default_also=*/true));
  std::string text;
  for (std::string line; std::getline(lines, line);) {
    if (!line.ends_with("=\"\"")) text += line + '\n';
  }
  return text;
}

// The config file that repeats a run. None where CLI11's reader would read other values: it ends one at a #, say.
inline std::optional<std::string> config_of(const CLI::App& app) {
  const std::string text = config_text(app);
  CLI::App again;
  Options options;
  add_flags(again, options);
  std::istringstream in(text);
  try {
    again.parse_from_stream(in);
  } catch (const CLI::Error&) {
    return {};
  }
  return config_text(again) == text ? std::optional(text) : std::nullopt;
}
