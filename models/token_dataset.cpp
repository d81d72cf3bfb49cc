// Which tokens a batch has. Windows are counted over all files: the number of one gives its file by bisection.
#include <altgrad/models/token_dataset.h>

#include <altgrad/models/internal/permutation.h>
#include <altgrad/models/internal/token_source.h>

#include <algorithm>
#include <span>

namespace altgrad {
namespace detail {
namespace {

// Does each split hold one window and the token after it?
bool long_enough(int64_t n, int64_t block_size, double val_fraction) {
  const int64_t train = train_tokens(n, val_fraction);
  return train > block_size && (val_fraction == 0 || n - train > block_size);
}

// The smallest such n: solved for n, and from just below it up to the first that serves, for rounding's sake. At most
// 4e18, whose bytes can still be counted.
int64_t tokens_needed(int64_t block_size, double val_fraction) {
  const double train = (double(block_size) + 1) / (1 - val_fraction);
  const double val = val_fraction == 0 ? 0 : double(block_size) / val_fraction;
  auto n = int64_t(std::min(std::max(train, val), 4e18)) - 1;
  for (int i = 0; i < 4 && !long_enough(n, block_size, val_fraction); ++i) ++n;
  return n;
}

}  // namespace

void check_val_fraction(const char* who, double val_fraction) {
  if (!(val_fraction >= 0 && val_fraction < 1)) {
    fail(who, ": val_fraction must be in [0, 1), got ", val_fraction);
  }
}

int64_t train_tokens(int64_t n, double val_fraction) {
  return int64_t(std::min(double(n) * (1 - val_fraction), 0x1p62));
}

void check_split(const std::string& what, int64_t n, int64_t block_size, double val_fraction) {
  if (long_enough(n, block_size, val_fraction)) return;
  fail(what, "; block_size ", block_size, " with val_fraction ", val_fraction, " needs at least ",
       tokens_needed(block_size, val_fraction));
}

}  // namespace detail

namespace models {

TokenDataset::TokenDataset(const std::string& path, int64_t block_size, std::optional<int64_t> vocab_size) {
  if (block_size < 1) fail("TokenDataset: block_size must be positive, got ", block_size);
  if (vocab_size && *vocab_size < 1) fail("TokenDataset: vocab_size must be positive, got ", *vocab_size);
  const detail::TokenFiles files = detail::open_token_files(path, vocab_size);
  std::vector<Part> parts;
  for (size_t i = 0; i < files.sizes.size(); ++i) parts.push_back({i, 0, files.sizes[i]});
  *this = TokenDataset(files.source, path, std::move(parts), block_size, files.vocab_size);
  if (windows() == 0) {
    fail("TokenDataset: ", path, " has ", size(), " tokens",
         parts_.size() == 1 ? "" : concat(" in ", parts_.size(), " files"), "; block_size ", block_size,
         " needs at least ", uint64_t(block_size) + 1, parts_.size() == 1 ? "" : " in one file");
  }
}

TokenDataset::TokenDataset(std::shared_ptr<const detail::TokenSource> source, std::string path,
                           std::vector<Part> parts, int64_t block_size, int64_t vocab_size)
    : source_(std::move(source)),
      path_(std::move(path)),
      parts_(std::move(parts)),
      block_size_(block_size),
      vocab_size_(vocab_size) {
  int64_t places = 0, windows = 0;
  for (Part& part : parts_) {
    part.places = places += std::max<int64_t>(part.count - block_size, 0);
    part.windows = windows += std::max<int64_t>(part.count - 1, 0) / block_size;
  }
}

void TokenDataset::check_not_moved_from() const {
  if (!source_) fail("TokenDataset: it was moved from");
}

int64_t TokenDataset::size() const {
  check_not_moved_from();
  int64_t n = 0;
  for (const Part& part : parts_) n += part.count;
  return n;
}

TokenDataset::Window TokenDataset::place(int64_t i) const {
  const auto part = std::ranges::upper_bound(parts_, i, {}, &Part::places);
  const int64_t before = part == parts_.begin() ? 0 : part[-1].places;
  return {part->file, part->first + i - before};
}

TokenDataset::Window TokenDataset::window(int64_t i) const {
  const auto part = std::ranges::upper_bound(parts_, i, {}, &Part::windows);
  const int64_t before = part == parts_.begin() ? 0 : part[-1].windows;
  return {part->file, part->first + (i - before) * block_size_};
}

std::pair<Tensor, Tensor> TokenDataset::room(int64_t batch_size) const {
  const Shape shape{batch_size, block_size_};
  return {Tensor::empty(shape, {.dtype = DType::i64}), Tensor::empty(shape, {.dtype = DType::i64})};
}

void TokenDataset::read(Window window, const std::pair<Tensor, Tensor>& xy, int64_t row) const {
  std::vector<int64_t> tokens(size_t(block_size_) + 1);
  source_->read(window.file, window.first, tokens);
  std::copy(tokens.begin(), tokens.end() - 1, xy.first.ptr<int64_t>() + row * block_size_);
  std::copy(tokens.begin() + 1, tokens.end(), xy.second.ptr<int64_t>() + row * block_size_);
}

// Where memory does not suffice, the generator has not moved.
std::pair<Tensor, Tensor> TokenDataset::batch(int64_t batch_size, Generator& generator) const {
  check_not_moved_from();
  if (batch_size < 1) fail("batch: batch_size must be positive, got ", batch_size);
  if (places() == 0) fail("batch: this part of ", path_, " is empty");
  const auto xy = room(batch_size);
  const Tensor starts = Tensor::randint(places(), {batch_size}, Device::cpu(), generator);
  for (int64_t row = 0; row < batch_size; ++row) read(place(starts.ptr<int64_t>()[row]), xy, row);
  return xy;
}

TokenEpoch TokenDataset::epoch(uint64_t order_seed) const {
  check_not_moved_from();
  return {*this, order_seed};
}

std::pair<Tensor, Tensor> TokenEpoch::batch(int64_t first, int64_t batch_size) const {
  if (first < 0 || batch_size < 1 || first > size() || batch_size > size() - first) {
    fail("TokenEpoch: windows from ", first, " on, ", batch_size, " of them, are not all in [0, ", size(),
         ")");
  }
  const auto xy = data_.room(batch_size);
  const detail::Permutation order(uint64_t(size()), seed_);
  for (int64_t row = 0; row < batch_size; ++row) {
    data_.read(data_.window(int64_t(order(uint64_t(first + row)))), xy, row);
  }
  return xy;
}

std::pair<TokenDataset, TokenDataset> TokenDataset::split(double val_fraction) const {
  detail::check_val_fraction("TokenDataset: split", val_fraction);
  const int64_t n = size(), cut = detail::train_tokens(n, val_fraction);
  std::pair<std::vector<Part>, std::vector<Part>> parts;
  int64_t before = 0;  // tokens of the parts before
  for (const Part& part : parts_) {
    const int64_t train = std::clamp<int64_t>(cut - before, 0, part.count);
    if (train > 0) parts.first.push_back({part.file, part.first, train});
    if (train < part.count) parts.second.push_back({part.file, part.first + train, part.count - train});
    before += part.count;
  }
  std::pair<TokenDataset, TokenDataset> splits = {
      {source_, path_, std::move(parts.first), block_size_, vocab_size_},
      {source_, path_, std::move(parts.second), block_size_, vocab_size_}};
  const std::string what = concat("TokenDataset: split: ", path_, " has ", n, " tokens");
  detail::check_split(what, n, block_size_, val_fraction);
  if (splits.first.windows() == 0 || (val_fraction > 0 && splits.second.windows() == 0)) {
    fail(what, " in ", parts_.size(), " files; with val_fraction ", val_fraction, " a part holds no ",
         block_size_, " tokens and one more of one file");
  }
  return splits;
}

}  // namespace models
}  // namespace altgrad
