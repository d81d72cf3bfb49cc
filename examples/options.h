// The command line of train_gpt. A size is a recipe of model and training; every other flag overrides one
// value of it.
#pragma once

#include <altgrad/fp8/surgery.h>
#include <altgrad/models/gpt.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

// nanoGPT's recipes (config/train_shakespeare_char.py, its readme's variant for a CPU, config/train_gpt2.py).
struct Recipe {
  int64_t n_layer, n_head, n_embd, block, batch, steps, warmup;
  double lr, beta2, dropout;
};
inline const std::map<std::string, Recipe> recipes = {
    {"tiny", {4, 4, 128, 64, 12, 2000, 100, 1e-3, 0.99, 0.0}},
    {"baby", {6, 6, 384, 256, 64, 5000, 100, 1e-3, 0.99, 0.2}},
    {"gpt2", {12, 12, 768, 1024, 8, 600000, 2000, 6e-4, 0.95, 0.0}},
};

struct Options {
  std::string data, size = "tiny", format = "E4M3", grads = "none", scaling = "window", device = "cpu",
                    dtype = "f32", out = "out";
  std::optional<std::string> inputs, json;
  std::optional<int64_t> steps, batch, block;
  std::optional<double> lr, dropout;
  std::vector<std::string> skip = {"lm_head"};
  int64_t history = 16, threads = 0, eval_every = 250, eval_batches = 20, sample = 500;
  uint64_t seed = 1337;
  bool resume = false;

  // The recipe with what the flags override.
  Recipe recipe() const {
    Recipe r = recipes.at(size);
    r.steps = steps.value_or(r.steps);
    r.batch = batch.value_or(r.batch);
    r.block = block.value_or(r.block);
    r.lr = lr.value_or(r.lr);
    r.dropout = dropout.value_or(r.dropout);
    r.warmup = std::min(r.warmup, r.steps / 10);  // a short run warms up, too
    return r;
  }
  altgrad::models::GPTConfig model(int64_t vocab_size) const {
    const Recipe r = recipe();
    return {.n_layer = r.n_layer,
            .n_head = r.n_head,
            .n_embd = r.n_embd,
            .block_size = r.block,
            .vocab_size = vocab_size,
            .dropout = r.dropout,
            .bias = false,
            .activations = dtype == "bf16" ? altgrad::DType::bf16 : altgrad::DType::f32};
  }
  bool quantized() const { return format != "none"; }
  std::string input_format() const { return inputs.value_or(quantized() ? "E4M3" : "none"); }
  // Throws std::invalid_argument on an unknown format, listing those there are.
  altgrad::fp8::QuantizeOptions surgery() const {
    using namespace altgrad::fp8;
    const auto named = [](const std::string& name) {
      return name == "none" ? std::nullopt : std::optional<Format>(altgrad::fp8::format(name));
    };
    const std::map<std::string, Scaling> scalings = {
        {"window", Scaling::window}, {"delayed", Scaling::delayed}, {"current", Scaling::current}};
    return {.skip_patterns = skip == std::vector<std::string>{"none"} ? std::vector<std::string>{} : skip,
            .input_format = named(input_format()),
            .grad_format = named(grads),
            .scaling = scalings.at(scaling),
            .history_length = history};
  }
};

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

inline void add_flags(CLI::App& app, Options& o) {
  const auto positive = whole<int64_t>(1, int64_t(1) << 40);
  app.add_option(
      "--data", o.data,
      "text to train on, by byte, or tokens: nanoGPT's .bin (uint16), llm.c's; default: headers of Eigen");
  app.add_option("--size", o.size, "tiny (4 layers, 128 wide), baby (6, 384) or gpt2 (12, 768)")
      ->check(CLI::IsMember({"tiny", "baby", "gpt2"}))
      ->capture_default_str();
  app.add_option("--steps", o.steps, "training steps")->check(positive);
  app.add_option("--batch", o.batch, "sequences in a step")->check(positive);
  app.add_option("--block", o.block, "tokens in a sequence")->check(positive);
  app.add_option("--lr", o.lr, "highest learning rate; a cosine ends at a tenth of it")
      ->check(positive_number);
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
  app.add_option("--skip", o.skip, "names of layers to leave in f32; none: all are quantized")
      ->capture_default_str();
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
  app.add_option("--sample", o.sample, "characters of text to write at the end")
      ->check(whole<int64_t>(0, INT32_MAX))
      ->capture_default_str();
  app.add_option("--out", o.out,
                 "folder for checkpoint, metrics, curve and sample; files there are overwritten")
      ->capture_default_str();
  app.add_option("--json", o.json, "the metrics' file; default: metrics.jsonl in --out");
  app.add_flag("--resume", o.resume,
               "go on from the checkpoint in --out, with the same flags; --steps may be larger");
}
