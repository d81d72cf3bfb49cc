// The texts of vocabulary files, read into a Vocabulary. Errors name `file`, the path of what was read.
#pragma once

#include <altgrad/models/internal/bpe.h>
#include <altgrad/models/tokenizer.h>

#include <string>
#include <string_view>

namespace altgrad::detail {

// A file that text was read from.
struct NamedText {
  std::string name, text;
};

Vocabulary read_gpt2(const NamedText& vocab, const NamedText& merges);
Vocabulary read_ranks(const NamedText& file, const models::RanksOptions& options);
Vocabulary read_tokenizer_json(const NamedText& file);

// What gpt2 reads again: (vocab.json, merges.txt).
std::pair<std::string, std::string> gpt2_files(const Vocabulary& vocabulary);

}  // namespace altgrad::detail
