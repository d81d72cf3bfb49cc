// Text to train on, one byte a token, or the `.bin` files of tokens that nanoGPT and llm.c train on; batches of random
// windows.
// Every batch is a pure function of the generator's state, so a run is repeated by repeating its seed.
#pragma once

#include <altgrad/core/tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace altgrad::detail {
class InputFile;
}

ALTGRAD_API_BEGIN
namespace altgrad::models {

class CharDataset {
 public:
  /// Any file: its distinct bytes, in order, are tokens 0, 1, ... Two kinds hold little-endian uint16 tokens instead:
  /// one of llm.c, whatever its name, that begins with 256 int32, the first of them 20240520, 1 and the number of
  /// tokens; and a path that ends in ".bin", all of it (nanoGPT). Text and up to 64 MiB of tokens are read once and do
  /// not change after that; more tokens are read as batches ask for them. The first 1 - val_fraction of the tokens are
  /// the "train" split, the rest is "val". Throws std::runtime_error where the file cannot be read;
  /// std::invalid_argument where block_size < 1, val_fraction is not in [0, 1), a split has fewer than block_size + 1
  /// tokens (a val_fraction of 0 leaves "val" empty), or the file is another one of llm.c's, of another version, or of
  /// another size than its header says.
  CharDataset(const std::string& path, int64_t block_size, double val_fraction = 0.1);

  int64_t block_size() const { return block_size_; }
  /// Distinct bytes; the largest token + 1 in a file of tokens.
  int64_t vocab_size() const { return vocab_size_; }
  /// Tokens in a split. Throws std::invalid_argument unless it is "train" or "val", as batch does.
  int64_t size(std::string_view split) const;

  /// x and y, both (batch_size, block_size) i64: windows at random places; y is one token further than x. Throws
  /// std::runtime_error where a file of more than 64 MiB of tokens has been cut short since it was opened, or written
  /// anew with larger tokens.
  std::pair<Tensor, Tensor> batch(std::string_view split, int64_t batch_size,
                                  Generator& generator = default_generator()) const;

  /// text -> ids (length) i64. Throws std::invalid_argument on a byte that is not in the file, and for files of
  /// tokens.
  Tensor encode(std::string_view text) const;
  /// ids of any shape -> text; for files of tokens these as decimal numbers. Throws std::invalid_argument on
  /// an id out of range.
  std::string decode(const Tensor& ids) const;

 private:
  void check_not_moved_from() const;
  // First token and number of tokens of a split.
  std::pair<int64_t, int64_t> range(std::string_view split) const;
  // The tokens from the first one given.
  void read(int64_t first, std::span<uint16_t> tokens) const;

  std::shared_ptr<const detail::InputFile> file_;  // of tokens that are not held
  int64_t header_size_ = 0;                        // its bytes before the tokens
  std::shared_ptr<const uint16_t[]> tokens_;       // that are held
  std::string bytes_;                              // of each token of text
  int64_t size_ = 0, train_size_ = 0, block_size_, vocab_size_ = 0;
};

}  // namespace altgrad::models
ALTGRAD_API_END
