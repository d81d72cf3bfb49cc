// The settings of a run that its checkpoints hold: a run may be resumed with the same ones only.
#pragma once

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "corpus.h"
#include "options.h"

constexpr const char* hash_setting = "hash of --data";

// All that a run depends on but --steps, which may be raised to train longer.
inline nlohmann::ordered_json run_settings(const Options& o, const Corpus& corpus) {
  const Recipe r = o.recipe();
  return {{"--size", o.size},
          {"vocabulary of --data", corpus.vocab_size()},
          {"tokens of --data", corpus.train.size() + corpus.val.size()},
          {hash_setting, corpus.hash},
          {"--block", r.block},
          {"--dropout", r.dropout},
          {"--batch", r.batch},
          {"--lr", r.lr},
          {"--seed", o.seed},
          {"--format", o.format},
          {"--inputs", o.input_format()},
          {"--grads", o.grads},
          {"--scaling", o.scaling},
          {"--history", o.history},
          {"--skip", o.skip},
          {"--dtype", o.dtype},
          {"--accumulate", o.accumulate},
          {"--schedule", o.schedule},
          {"--ema", o.ema.value_or(0)},
          {"--init-from", o.init_from.value_or("")}};
}

// What checkpoints of before there was such a setting were made with.
inline const nlohmann::ordered_json& earlier_settings() {
  static const nlohmann::ordered_json settings = {
      {"--dtype", "f32"}, {"--accumulate", 1}, {"--schedule", "cosine"}, {"--ema", 0.0}, {"--init-from", ""}};
  return settings;
}

// What tells the data, but for the vocabulary.
inline void forget_data(nlohmann::ordered_json& settings) {
  settings.erase("tokens of --data");
  settings.erase(hash_setting);
}

// As JSON text; what is not UTF-8, a flag's bytes, is replaced.
inline std::string settings_text(const nlohmann::ordered_json& settings) {
  return settings.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

// For errors: not longer than a line.
inline std::string shortened(const std::string& text) {
  return text.size() <= 100 ? text : text.substr(0, 100) + "...";
}

// Throws std::invalid_argument where `saved`, the text in a checkpoint, is not that of these settings. `where` is what
// errors begin with.
inline void require_settings(const nlohmann::ordered_json& settings, const std::string& saved,
                             const std::string& where) {
  const auto foreign = [&] { altgrad::fail(where, " is not a checkpoint of this program"); };
  // No setting is more than a list. What is nested deeper is not read to its end: printing it would recurse.
  const auto flat = [&](int depth, nlohmann::json::parse_event_t, const nlohmann::json&) {
    if (depth > 2) foreign();
    return true;
  };
  const auto there = nlohmann::ordered_json::parse(saved, flat, /*allow_exceptions=*/false);
  if (!there.is_object()) foreign();
  for (const auto& [name, value] : settings.items()) {
    if (!there.contains(name)) {
      if (name == hash_setting) continue;  // a checkpoint of before there was one
      if (earlier_settings().contains(name) && earlier_settings()[name] == value) continue;
      altgrad::fail(where, " does not say its ", name);
    }
    const std::string was = settings_text(there[name]), is = settings_text(value);
    if (was != is) altgrad::fail(where, " has ", name, " ", shortened(was), ", not ", shortened(is));
  }
}
