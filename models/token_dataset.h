// Tokens to train on, in files of any size and number: nanoGPT's and llm.c's. Opening them reads a few bytes of each;
// their tokens are read as batches ask for them, so that data may be larger than memory.
//
//   models::TokenDataset train("fineweb_train_*.bin", /*block_size=*/1024, /*vocab_size=*/50257);
//   auto [x, y] = train.batch(8);                              // windows at random places
//   const models::TokenEpoch epoch = train.epoch(/*order_seed=*/1);
//   for (int64_t i = 0; i + 8 <= epoch.size(); i += 8) {       // every window once; may begin at any i
//     auto [x, y] = epoch.batch(i, 8);
//   }
#pragma once

#include <altgrad/core/tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace altgrad::detail {
class TokenSource;
}

ALTGRAD_API_BEGIN
namespace altgrad::models {

class TokenEpoch;

/// One split of the data. A window is block_size tokens and the one after them, all of one file. What is drawn is read
/// in that moment: batch, and TokenEpoch::batch, throw std::runtime_error where a file has been cut short or replaced by
/// one of another size, and where a token is not below vocab_size(), with its file and the byte where it lies.
class TokenDataset {
 public:
  /// path: a file, or a glob pattern of files, which are taken in the order of their names. Each holds little-endian
  /// tokens: uint16 in those whose name ends in ".bin" (nanoGPT); uint16 or uint32 behind a header of 256 int32, the
  /// first of them 20240520 and 1, or 20240801 and 7, and the number of tokens (llm.c; any name).
  /// vocab_size: tokens are below it. Where it is not given it is the "vocab_size" of the JSON file meta.json in the
  /// same folder. Throws std::runtime_error where a file cannot be read or no file matches; std::invalid_argument
  /// where block_size or vocab_size < 1, there is no vocabulary, or two folders' differ, no file holds a window, or a
  /// file is not of one of these kinds, of another version, or of another size than its header says.
  TokenDataset(const std::string& path, int64_t block_size, std::optional<int64_t> vocab_size = {});

  int64_t block_size() const { return block_size_; }
  int64_t vocab_size() const { return vocab_size_; }
  int64_t size() const;  ///< tokens, of all files

  /// x and y, both (batch_size, block_size) i64: windows at random places, each place as likely as any other; y is one
  /// token further than x. A pure function of the generator's state.
  std::pair<Tensor, Tensor> batch(int64_t batch_size, Generator& generator = default_generator()) const;

  /// The windows that begin at multiples of block_size in their files, each once, in an order that depends on the seed
  /// alone. So each token but a file's first, and up to block_size at its end, is predicted once.
  TokenEpoch epoch(uint64_t order_seed) const;

  /// The first int(size() * (1 - val_fraction)) tokens to train on, and the rest, which is empty for a val_fraction of 0.
  /// Throws std::invalid_argument where val_fraction is not in [0, 1), or a part that is not empty has no window.
  std::pair<TokenDataset, TokenDataset> split(double val_fraction) const;

 private:
  friend class CharDataset;
  friend class TokenEpoch;

  // Consecutive tokens of a file.
  struct Part {
    size_t file;
    int64_t first, count;
    int64_t places = 0,
            windows = 0;  // where a window may begin, and those of an epoch; of this part and all before it
  };
  // A window and the token after it.
  struct Window {
    size_t file;
    int64_t first;
  };
  TokenDataset() = default;
  TokenDataset(std::shared_ptr<const detail::TokenSource> source, std::string path, std::vector<Part> parts,
               int64_t block_size, int64_t vocab_size);
  void check_not_moved_from() const;
  int64_t places() const { return parts_.empty() ? 0 : parts_.back().places; }
  int64_t windows() const { return parts_.empty() ? 0 : parts_.back().windows; }
  Window place(int64_t i) const;
  Window window(int64_t i) const;
  std::pair<Tensor, Tensor> room(int64_t batch_size) const;
  void read(Window window, const std::pair<Tensor, Tensor>& xy, int64_t row) const;

  std::shared_ptr<const detail::TokenSource> source_;
  std::string path_;  // for errors
  std::vector<Part> parts_;
  int64_t block_size_ = 0, vocab_size_ = 0;
};

/// A pass over the data. It keeps no list of its order: a place in it is a number to save, and to go on from.
class TokenEpoch {
 public:
  int64_t size() const { return data_.windows(); }  ///< windows
  /// x and y, both (batch_size, block_size) i64: the windows [first, first + batch_size) of the order. Throws
  /// std::invalid_argument where they are not all in [0, size()), or there are none.
  std::pair<Tensor, Tensor> batch(int64_t first, int64_t batch_size) const;

 private:
  friend class TokenDataset;
  TokenEpoch(TokenDataset data, uint64_t order_seed) : data_(std::move(data)), seed_(order_seed) {}

  TokenDataset data_;
  uint64_t seed_;
};

}  // namespace altgrad::models
ALTGRAD_API_END
