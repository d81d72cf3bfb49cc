// What a model makes of data that it was not trained on: loss, perplexity, bits per byte, and choices between endings.
#pragma once

#include <altgrad/models/gpt.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numbers>
#include <optional>
#include <string>
#include <vector>

#include "corpus.h"
#include "progress.h"
#include "signals.h"

struct Evaluation {
  double loss = 0;  // in nats a token
  int64_t windows = 0;
  std::optional<double> bits_per_byte;  // where the text of the tokens is known
};

// Of every window of the validation data, each token of which counts the same. None where it was stopped.
inline std::optional<Evaluation> evaluate_all(altgrad::models::GPT& model, const Corpus& corpus,
                                              int64_t batch, altgrad::Device device) {
  const altgrad::models::TokenEpoch epoch = corpus.val.epoch(0);
  Evaluation result;
  result.windows = epoch.size();
  std::optional<int64_t> bytes = 0;
  Progress progress(0, (epoch.size() + batch - 1) / batch);
  for (int64_t first = 0; first < epoch.size(); first += batch) {
    if (stop_asked) return {};
    const int64_t rows = std::min(batch, epoch.size() - first);
    const auto start = std::chrono::steady_clock::now();
    const auto [x, y] = epoch.batch(first, rows);
    const double loss = model.loss(x.to(device), y.to(device)).item<double>();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    result.loss += loss * double(rows) / double(epoch.size());
    if (bytes) bytes = corpus.bytes(y) ? std::optional(*bytes + *corpus.bytes(y)) : std::nullopt;
    progress.update(first / batch + 1, loss, double(x.numel()) / time.count());
  }
  const double tokens = double(epoch.size()) * double(corpus.val.block_size());
  if (bytes) result.bits_per_byte = result.loss / std::numbers::ln2 * tokens / double(*bytes);
  return result;
}

// A question of HellaSwag's form (Zellers et al., "HellaSwag: can a machine really finish your sentence?", 2019).
struct Choice {
  altgrad::Tensor context;               // tokens
  std::vector<altgrad::Tensor> endings;  // each with the space before it
  size_t label;                          // the right one
};

// A file of JSON lines: "context", or, as in HellaSwag's own files, "ctx"; "endings"; "label", counted from 0. Throws
// std::runtime_error where the file cannot be read; std::invalid_argument, with the line, where one is something else, or
// cannot be scored: a context of no token, an ending of none or of more than block_size.
inline std::vector<Choice> read_choices(const std::string& path, const Corpus& corpus) {
  std::ifstream in(path, std::ios::binary);
  std::string text;
  if (!in) altgrad::fail_runtime("--choices: cannot read ", path, ": ", std::strerror(errno));
  std::vector<Choice> choices;
  for (int64_t number = 1; std::getline(in, text); ++number) {
    const auto wrong = [&](const auto&... what) {
      altgrad::fail("--choices: ", path, ", line ", number, ": ", what...);
    };
    const auto line = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!line.is_object()) wrong("not a JSON object");
    const char* const context = line.contains("context") ? "context" : "ctx";
    if (!line.contains(context) || !line[context].is_string()) wrong("\"context\" must be a text");
    if (!line.contains("endings") || !line["endings"].is_array() || line["endings"].empty())
      wrong("\"endings\" must be a list of texts");
    const size_t endings = line["endings"].size();
    if (!line.contains("label") || !line["label"].is_number_unsigned() ||
        line["label"].get<uint64_t>() >= endings)
      wrong("\"label\" must be a whole number from 0 to ", endings - 1);
    Choice& choice = choices.emplace_back();
    choice.label = line["label"].get<size_t>();
    try {
      choice.context = corpus.encode(line[context].get<std::string>());
      for (const auto& ending : line["endings"]) {
        if (!ending.is_string()) wrong("\"endings\" must be a list of texts");
        choice.endings.push_back(corpus.encode(" " + ending.get<std::string>()));
      }
    } catch (const std::invalid_argument& error) {
      wrong(error.what());
    }
    if (choice.context.numel() == 0) wrong("the context is empty");
    for (const altgrad::Tensor& ending : choice.endings) {
      if (ending.numel() > corpus.val.block_size())
        wrong("an ending has ", ending.numel(), " tokens, more than a --block of ", corpus.val.block_size());
    }
  }
  if (choices.empty()) altgrad::fail_runtime("--choices: ", path, " is empty or cannot be read");
  return choices;
}

// The mean log-likelihood of an ending's tokens, each after the context and those before it, as far as the model sees.
inline double log_likelihood(altgrad::models::GPT& model, const altgrad::Tensor& context,
                             const altgrad::Tensor& ending, altgrad::Device device) {
  const int64_t n = context.numel() + ending.numel() - 1, seen = std::min(n, model.config().block_size);
  std::vector<int64_t> ids(context.data<int64_t>().begin(), context.data<int64_t>().end());
  ids.insert(ids.end(), ending.data<int64_t>().begin(), ending.data<int64_t>().end());
  std::vector<int64_t> x(ids.end() - 1 - seen, ids.end() - 1), y(ids.end() - seen, ids.end());
  std::fill(y.begin(), y.end() - ending.numel(), -100);  // left out of the loss
  using altgrad::Tensor;
  return -model.loss(Tensor::from(x, {1, seen}).to(device), Tensor::from(y, {1, seen}).to(device))
              .item<double>();
}

// How many of the choices have the right ending as the likeliest. None where it was stopped.
inline std::optional<int64_t> count_right(altgrad::models::GPT& model, const std::vector<Choice>& choices,
                                          altgrad::Device device) {
  int64_t right = 0;
  for (const Choice& choice : choices) {
    if (stop_asked) return {};
    std::vector<double> scores;
    for (const altgrad::Tensor& ending : choice.endings)
      scores.push_back(log_likelihood(model, choice.context, ending, device));
    right += std::max_element(scores.begin(), scores.end()) == scores.begin() + int64_t(choice.label);
  }
  return right;
}
