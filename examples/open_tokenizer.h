// A tokenizer, by the path of what others keep it in.
#pragma once

#include <altgrad/models/tokenizer.h>

#include <filesystem>
#include <string>

inline bool has_tokenizer(const std::string& folder) {
  std::error_code error;
  for (const char* file : {"vocab.json", "encoder.json", "tokenizer.json"})
    if (std::filesystem::exists(std::filesystem::path(folder) / file, error)) return true;
  return false;
}

// Is there something that open_tokenizer may open?
inline bool is_tokenizer(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error) || has_tokenizer(path);
}

// A folder of vocab.json and merges.txt or of tokenizer.json alone, a tokenizer.json itself, or a file of ranks. Throws
// as Tokenizer's functions do.
inline altgrad::models::Tokenizer open_tokenizer(const std::string& path) {
  using altgrad::models::Tokenizer;
  namespace fs = std::filesystem;
  std::error_code error;
  if (fs::is_directory(path, error)) {
    const fs::path folder = path, json = folder / "tokenizer.json";
    const bool alone =
        !fs::exists(folder / "vocab.json", error) && !fs::exists(folder / "encoder.json", error);
    return alone && fs::exists(json, error) ? Tokenizer::json(json) : Tokenizer::gpt2(path);
  }
  if (path.ends_with(".json")) return Tokenizer::json(path);
  const Tokenizer plain = Tokenizer::ranks(path, {.special_tokens = {}});
  constexpr int64_t gpt2_ranks = 50256;  // whose files leave out <|endoftext|>
  return plain.vocab_size() == gpt2_ranks ? Tokenizer::ranks(path) : plain;
}
