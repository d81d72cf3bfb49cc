// Text to train on, one byte a token, in batches of random windows. Every batch is a pure function of the generator's
// state, so a run is repeated by repeating its seed.
#pragma once

#include <altgrad/models/token_dataset.h>

#include <string>
#include <string_view>
#include <utility>

ALTGRAD_API_BEGIN
namespace altgrad::models {

class CharDataset {
 public:
  /// Any file: its distinct bytes, in order, are tokens 0, 1, ... It is read once and does not change after that. The
  /// first 1 - val_fraction of the tokens are the "train" split, the rest is "val". Throws std::runtime_error where the
  /// file cannot be read; std::invalid_argument where block_size < 1, val_fraction is not in [0, 1), a split has fewer
  /// than block_size + 1 tokens (a val_fraction of 0 leaves "val" empty), or the file holds tokens: these are for
  /// TokenDataset.
  CharDataset(const std::string& path, int64_t block_size, double val_fraction = 0.1);

  int64_t block_size() const { return train_.block_size(); }
  int64_t vocab_size() const { return train_.vocab_size(); }  ///< distinct bytes
  /// Tokens in a split. Throws std::invalid_argument unless it is "train" or "val", as batch and dataset do.
  int64_t size(std::string_view split) const { return dataset(split).size(); }
  /// A split by itself, which has epochs too.
  const TokenDataset& dataset(std::string_view split) const;

  /// x and y, both (batch_size, block_size) i64: windows at random places; y is one token further than x.
  std::pair<Tensor, Tensor> batch(std::string_view split, int64_t batch_size,
                                  Generator& generator = default_generator()) const;

  /// text -> ids (length) i64. Throws std::invalid_argument on a byte that is not in the file.
  Tensor encode(std::string_view text) const;
  /// ids of any shape -> text. Throws std::invalid_argument on an id out of range.
  std::string decode(const Tensor& ids) const;

 private:
  TokenDataset train_, val_;
  std::string bytes_;  // of each token
};

}  // namespace altgrad::models
ALTGRAD_API_END
