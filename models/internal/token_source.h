// Where the tokens of a data set come from: files of tokens (token_files.cpp), or text (data.cpp).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace altgrad::detail {

// Any number of threads may read it.
class TokenSource {
 public:
  virtual ~TokenSource() = default;
  // The tokens of a file from the first one given. Throws std::runtime_error where the file has changed so that they
  // cannot be read, or one is not below the vocabulary.
  virtual void read(size_t file, int64_t first, std::span<int64_t> tokens) const = 0;
};

struct TokenFiles {
  std::shared_ptr<const TokenSource> source;
  std::vector<int64_t> sizes;  // in tokens
  int64_t vocab_size;
};

// The files of a path or glob, in the order of their names. Throws as TokenDataset's constructor does.
TokenFiles open_token_files(const std::string& path, std::optional<int64_t> vocab_size);

// Does a file hold tokens, as TokenDataset reads them? llm.c's do by their first bytes, others by their name.
bool is_token_file(const std::string& path);

// Throws std::invalid_argument unless val_fraction is in [0, 1).
void check_val_fraction(const char* who, double val_fraction);
// The tokens of n that train, as nanoGPT splits: int(n * (1 - val_fraction)).
int64_t train_tokens(int64_t n, double val_fraction);
// Throws std::invalid_argument, saying how many there must be, where n tokens are so few that a split holds no window
// of block_size tokens and the one after it. `what` they are: "CharDataset: FILE has 7 bytes".
void check_split(const std::string& what, int64_t n, int64_t block_size, double val_fraction);

}  // namespace altgrad::detail
