// The settings of a run that its checkpoints hold: a run may be resumed with the same ones only.
#pragma once

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "corpus.h"
#include "options.h"

constexpr const char *hash_setting = "hash of --data", *dtype_setting = "--dtype";

// All that a run depends on but --steps, which may be raised to train longer.
inline nlohmann::ordered_json run_settings(const Options& o, const Corpus& corpus) {
  const Recipe r = o.recipe();
  return {{"--size", o.size},
          {"vocabulary of --data", corpus.data.vocab_size()},
          {"tokens of --data", corpus.data.size("train") + corpus.data.size("val")},
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
          {dtype_setting, o.dtype}};
}

// As JSON text; what is not UTF-8, a flag's bytes, is replaced.
inline std::string settings_text(const nlohmann::ordered_json& settings) {
  return settings.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

// For errors: not longer than a line.
inline std::string shortened(const std::string& text) {
  return text.size() <= 100 ? text : text.substr(0, 100) + "...";
}

// Throws std::invalid_argument where `saved`, the text in the checkpoint at `path`, is not that of these settings.
inline void require_settings(const nlohmann::ordered_json& settings, const std::string& saved,
                             const std::string& path) {
  const auto foreign = [&] { altgrad::fail("--resume: ", path, " is not a checkpoint of this program"); };
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
      if (name == dtype_setting && value == "f32") continue;
      altgrad::fail("--resume: ", path, " does not say its ", name);
    }
    const std::string was = settings_text(there[name]), is = settings_text(value);
    if (was != is)
      altgrad::fail("--resume: ", path, " has ", name, " ", shortened(was), ", not ", shortened(is));
  }
}
