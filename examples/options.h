// What train_gpt is asked to do. A size is a recipe of model and training; every other flag overrides one value of it.
#pragma once

#include <altgrad/fp8/surgery.h>
#include <altgrad/models/gpt.h>

#include <algorithm>
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
  std::string data, size = "tiny", format = "E4M3", grads = "none", scaling = "window", schedule = "cosine",
                    device = "cpu", dtype = "f32", out = "out";
  std::optional<std::string> val, tokenizer, init_from, inputs, json, csv, tensorboard, choices;
  std::optional<int64_t> vocab, steps, batch, block, patience;
  std::optional<double> lr, dropout, ema;
  std::vector<std::string> skip = {"lm_head"};
  int64_t accumulate = 1, history = 16, threads = 0, eval_every = 250, eval_batches = 20, sample = 500;
  uint64_t seed = 1337;
  bool native_fp8 = false, resume = false, eval_only = false;
  std::optional<altgrad::models::GPTConfig> sizes;  // a checkpoint's, which is gone on from

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
    return trained(sizes.value_or(altgrad::models::GPTConfig{.n_layer = r.n_layer,
                                                             .n_head = r.n_head,
                                                             .n_embd = r.n_embd,
                                                             .block_size = r.block,
                                                             .vocab_size = vocab_size,
                                                             .bias = false}));
  }
  // A model of these sizes as it is trained.
  altgrad::models::GPTConfig trained(altgrad::models::GPTConfig config) const {
    config.dropout = recipe().dropout;
    config.activations = dtype == "bf16" ? altgrad::DType::bf16 : altgrad::DType::f32;
    return config;
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
            .history_length = history,
            .native_fp8 = native_fp8};
  }
};
