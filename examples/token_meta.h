// What the tokens of data stand for, as prepare says it in the meta.json beside them.
#pragma once

#include <altgrad/models/data.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "data_hash.h"

struct TokenMeta {
  std::string file;
  std::optional<int64_t> vocab_size = {};
  std::string tokenizer = {};           // "bytes", "characters", a path, or empty
  std::vector<std::string> texts = {};  // of each token, where these are bytes or characters
};

// None where there is no such file. Throws std::invalid_argument, which names it, where it holds something else. It may be
// another program's, and leave out any of this.
inline std::optional<TokenMeta> token_meta(const std::filesystem::path& folder) {
  using Json = nlohmann::json;
  TokenMeta meta = {.file = (folder / "meta.json").string()};
  std::error_code error;
  if (!std::filesystem::exists(meta.file, error)) return {};
  std::ostringstream text;
  text << std::ifstream(meta.file, std::ios::binary).rdbuf();
  const Json json = Json::parse(text.view(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) altgrad::fail(meta.file, " is not a JSON object");
  const auto wrong = [&](const char* what) { altgrad::fail(meta.file, ": ", what); };
  const Json size = json.value("vocab_size", Json()), tokenizer = json.value("tokenizer", Json());
  if (!size.is_null()) {
    if (!size.is_number_unsigned() || size.get<uint64_t>() - 1 >= INT64_MAX)
      wrong("\"vocab_size\" must be a whole number above 0");
    meta.vocab_size = size.get<int64_t>();
  }
  if (!tokenizer.is_null()) {
    if (!tokenizer.is_string()) wrong("\"tokenizer\" must be a text");
    meta.tokenizer = tokenizer;
  }
  if (meta.tokenizer == "bytes") {
    if (meta.vocab_size.value_or(256) != 256) wrong("\"vocab_size\" of bytes must be 256");
    for (int byte = 0; byte < 256; ++byte) meta.texts.emplace_back(1, char(byte));
  }
  if (meta.tokenizer == "characters") {
    const Json characters = json.value("characters", Json());
    const auto is_text = [](const Json& value) { return value.is_string(); };
    if (!characters.is_array() || !std::ranges::all_of(characters, is_text) ||
        int64_t(characters.size()) != meta.vocab_size)
      wrong("\"characters\" must be a list of vocab_size texts");
    meta.texts = characters;
  }
  return meta;
}

// The bytes that the tokens of a text stand for.
inline std::vector<std::string> texts_of(const altgrad::models::CharDataset& chars) {
  std::vector<std::string> texts;
  for (int64_t id = 0; id < chars.vocab_size(); ++id)
    texts.push_back(chars.decode(altgrad::Tensor::from({id}, {1})));
  return texts;
}

inline std::string texts_hash(const std::vector<std::string>& texts) {
  Fnv1a hash;
  for (const std::string& text : texts) hash.add(text.c_str(), text.size() + 1);
  return hash.text();
}

// Throws std::invalid_argument where `text` holds what is no token of `name`.
inline altgrad::Tensor encode_texts(const std::vector<std::string>& texts, std::string_view text,
                                    const std::string& name) {
  std::vector<int64_t> ids;
  while (!text.empty()) {  // no character's UTF-8 begins with another's
    const auto token =
        std::ranges::find_if(texts, [&](const std::string& t) { return !t.empty() && text.starts_with(t); });
    if (token == texts.end()) altgrad::fail(text.substr(0, 20), " begins with what is not in ", name);
    ids.push_back(token - texts.begin());
    text.remove_prefix(token->size());
  }
  return altgrad::Tensor::from(ids, {int64_t(ids.size())});
}
