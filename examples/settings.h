// The settings of a run that its checkpoints hold: a run may be resumed with the same ones only.
#pragma once

#include <altgrad/models/gpt2.h>
#include <altgrad/nn/safetensors.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "corpus.h"
#include "load_model.h"
#include "options.h"

constexpr const char* hash_setting = "hash of --data";

// The flags that a run depends on.
inline nlohmann::ordered_json flag_settings(const Options& o) {
  const Recipe r = o.recipe();
  return {{"--size", o.size},
          {"--steps", r.steps},
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
          {"--init-from", o.init_from.value_or("")},
          {"--native-fp8", o.native_fp8}};
}

// All that a run depends on.
inline nlohmann::ordered_json run_settings(const Options& o, const Corpus& corpus) {
  nlohmann::ordered_json settings = flag_settings(o);
  settings.update({{"vocabulary of --data", corpus.vocab_size()},
                   {"tokens of --data", corpus.train.size() + corpus.val.size()},
                   {hash_setting, corpus.hash}});
  if (!corpus.tokenizer && !corpus.texts.empty()) settings[alphabet_setting] = texts_hash(corpus.texts);
  return settings;
}

// What checkpoints of before there was such a setting were made with.
inline const nlohmann::ordered_json& earlier_settings() {
  static const nlohmann::ordered_json settings = {{"--dtype", "f32"},
                                                  {"--accumulate", 1},
                                                  {"--schedule", "cosine"},
                                                  {"--ema", 0.0},
                                                  {"--native-fp8", false}};
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

// Those of a checkpoint. `where` is what errors begin with. Throws std::invalid_argument where it has none.
inline nlohmann::ordered_json saved_settings(const altgrad::Metadata& metadata, const std::string& where) {
  const auto foreign = [&] { altgrad::fail(where, " is not a checkpoint of this program"); };
  // No setting is more than a list. What is nested deeper is not read to its end: printing it would recurse.
  const auto flat = [&](int depth, nlohmann::json::parse_event_t, const nlohmann::json&) {
    if (depth > 2) foreign();
    return true;
  };
  const auto text = metadata.find("extra.settings");
  const auto saved = nlohmann::ordered_json::parse(text == metadata.end() ? "" : text->second, flat,
                                                   /*allow_exceptions=*/false);
  if (!saved.is_object()) foreign();
  return saved;
}

// Throws std::invalid_argument where those of a checkpoint are not these.
inline void require_settings(const nlohmann::ordered_json& settings, const nlohmann::ordered_json& saved,
                             const std::string& where) {
  for (const auto& [name, value] : settings.items()) {
    if (!saved.contains(name)) {
      if (name == hash_setting || name == alphabet_setting) continue;  // a checkpoint of before there was one
      if (earlier_settings().contains(name) && earlier_settings()[name] == value) continue;
      altgrad::fail(where, " does not say its ", name);
    }
    const std::string was = settings_text(saved[name]), is = settings_text(value);
    if (was != is) altgrad::fail(where, " has ", name, " ", shortened(was), ", not ", shortened(is));
  }
}

// Sets the flags that were not given, which `app` reads to `o`, to the checkpoint's. Throws std::invalid_argument where
// what it says is no value of such a flag, or its model has other sizes than one that --init-from names.
inline void take_settings(CLI::App& app, Options& o, const std::string& checkpoint,
                          const std::string& where) {
  const altgrad::Metadata metadata = altgrad::load_safetensors_metadata(checkpoint);
  const nlohmann::ordered_json saved = saved_settings(metadata, where), flags = flag_settings(o);
  if (const auto sizes = metadata.find("extra.model"); sizes != metadata.end()) {
    try {
      o.sizes = sizes_of(sizes->second, checkpoint);
    } catch (const std::exception& e) {
      altgrad::fail(where, " has a model of ", shortened(settings_text(sizes->second)),
                    ", which are no sizes: ", e.what());
    }
    if (o.init_from) {  // whose weights are not needed, but there is no other way to its sizes
      const std::string has = sizes_text(*o.sizes),
                        is = sizes_text(altgrad::models::load_gpt2(*o.init_from).config());
      if (has != is) altgrad::fail(where, " has a model of ", has, ", ", *o.init_from, " one of ", is);
    }
  }
  for (const auto& [name, _] : flags.items()) {
    CLI::Option* const flag = app.get_option(name);
    // Flags depend on others, a --block on its --size.
    if (flag->count() > 0 || !saved.contains(name) || saved[name] == flag_settings(o)[name]) continue;
    try {
      for (const auto& value :
           saved[name].is_array() ? saved[name] : nlohmann::ordered_json::array({saved[name]}))
        flag->add_result(value.is_string() ? value.get<std::string>() : settings_text(value));
      flag->run_callback();
    } catch (const CLI::Error&) {
      altgrad::fail(where, " has ", name, " ", shortened(settings_text(saved[name])),
                    ", which is no value of it");
    }
  }
}
