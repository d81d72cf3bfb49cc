// What fits is read once. Windows of a larger .bin file are read as they are drawn, not mapped: where another program
// cuts the file short, a map gives a signal.
#include <altgrad/models/data.h>

#include <altgrad/nn/internal/files.h>

#include <algorithm>
#include <array>
#include <bit>
#include <tuple>
#include <vector>

namespace altgrad::models {
namespace {

static_assert(std::endian::native == std::endian::little, "tokens of a .bin file are used as they lie in it");

constexpr int64_t token_size = sizeof(uint16_t);
constexpr int64_t most_held = int64_t(1) << 25;  // tokens of a .bin file, in memory

// Bytes before the tokens of llm.c's files: 256 int32 (dev/data/data_common.py there); 0 for all other files, nanoGPT's
// among them. What else llm.c writes begins with a number of its own and would be read as tokens too. No text begins
// with these numbers: their bytes are not UTF-8.
int64_t llmc_header_size(const detail::InputFile& file) {
  std::array<int32_t, 256> header = {};
  constexpr auto header_size = int64_t(sizeof header);
  file.read(0, header.data(), size_t(std::min(file.size(), header_size)));
  const auto [magic, version, count] = std::tuple(header[0], header[1], header[2]);
  constexpr std::pair<int32_t, const char*> others[] = {{20240326, "a model"},
                                                        {20240327, "a model's state for debugging"},
                                                        {20240328, "a tokenizer"},
                                                        {20240522, "an evaluation"},
                                                        {20240527, "the state of a training run"},
                                                        {20240801, "tokens of 32 bits"},
                                                        {20240803, "a model"}};
  for (const auto& [number, what] : others) {
    if (magic == number) fail("CharDataset: ", file.path(), " is ", what, " of llm.c, and not uint16 tokens");
  }
  if (magic != 20240520) return 0;
  if (version != 1) {
    fail("CharDataset: ", file.path(), " is a token file of llm.c of version ", version, "; 1 can be read");
  }
  if (file.size() < header_size || file.size() - header_size != count * token_size) {
    fail("CharDataset: ", file.path(), " has ", file.size(), " bytes; its header of ", header_size,
         " says that ", count, " uint16 tokens follow");
  }
  return header_size;
}

// As nanoGPT splits: int(n * (1 - val_fraction)).
int64_t train_tokens(int64_t n, double val_fraction) {
  return int64_t(std::min(double(n) * (1 - val_fraction), 0x1p62));
}

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

CharDataset::CharDataset(const std::string& path, int64_t block_size, double val_fraction)
    : block_size_(block_size) {
  if (block_size < 1) fail("CharDataset: block_size must be positive, got ", block_size);
  if (!(val_fraction >= 0 && val_fraction < 1)) {
    fail("CharDataset: val_fraction must be in [0, 1), got ", val_fraction);
  }
  const auto file = std::make_shared<const detail::InputFile>("CharDataset", path);
  header_size_ = llmc_header_size(*file);
  const bool binary = header_size_ > 0 || path.ends_with(".bin");
  const int64_t bytes_each = binary ? token_size : 1, bytes = file->size() - header_size_;
  if (bytes % bytes_each != 0) {
    fail("CharDataset: ", path, " has ", bytes, " bytes, which is no whole number of uint16 tokens");
  }
  size_ = bytes / bytes_each;
  if (!long_enough(size_, block_size, val_fraction)) {
    fail("CharDataset: ", path, " has ", bytes, " bytes", header_size_ ? " of tokens" : "", "; block_size ",
         block_size, " with val_fraction ", val_fraction, " needs at least ",
         tokens_needed(block_size, val_fraction) * bytes_each);
  }
  train_size_ = train_tokens(size_, val_fraction);

  if (binary && size_ <= most_held) {
    const std::shared_ptr<uint16_t[]> tokens(new uint16_t[size_t(size_)]);
    file->read(header_size_, tokens.get(), size_t(size_ * token_size));
    vocab_size_ = int64_t(*std::max_element(tokens.get(), tokens.get() + size_)) + 1;
    tokens_ = tokens;
    return;
  }
  if (binary) {
    file_ = file;
    std::vector<uint16_t> part(size_t(1) << 18);
    uint16_t largest = 0;
    for (int64_t at = 0; at < size_; at += int64_t(part.size())) {
      part.resize(std::min(part.size(), size_t(size_ - at)));
      file->read(header_size_ + at * token_size, part.data(), part.size() * token_size);
      largest = std::max(largest, *std::max_element(part.begin(), part.end()));
    }
    vocab_size_ = int64_t(largest) + 1;
    return;
  }
  std::string text(size_t(size_), '\0');
  file->read(0, text.data(), text.size());
  std::array<uint16_t, 256> token_of = {};
  for (const unsigned char byte : text) token_of[byte] = 1;
  for (size_t byte = 0; byte < 256; ++byte) {
    if (!token_of[byte]) continue;
    token_of[byte] = uint16_t(bytes_.size());
    bytes_.push_back(char(byte));
  }
  vocab_size_ = int64_t(bytes_.size());
  const std::shared_ptr<uint16_t[]> tokens(new uint16_t[text.size()]);
  std::transform(text.begin(), text.end(), tokens.get(), [&](unsigned char byte) { return token_of[byte]; });
  tokens_ = tokens;
}

void CharDataset::check_not_moved_from() const {
  if (!file_ && !tokens_) fail("CharDataset: it was moved from");
}

std::pair<int64_t, int64_t> CharDataset::range(std::string_view split) const {
  check_not_moved_from();
  if (split == "train") return {0, train_size_};
  if (split == "val") return {train_size_, size_ - train_size_};
  fail("CharDataset: there is no split \"", split, "\"; there are \"train\" and \"val\"");
}

int64_t CharDataset::size(std::string_view split) const { return range(split).second; }

std::pair<Tensor, Tensor> CharDataset::batch(std::string_view split, int64_t batch_size,
                                             Generator& generator) const {
  const auto [first, count] = range(split);
  if (batch_size < 1) fail("CharDataset: batch_size must be positive, got ", batch_size);
  if (count == 0) fail("CharDataset: the split \"", split, "\" is empty");
  const Tensor x = Tensor::empty({batch_size, block_size_}, {.dtype = DType::i64});
  const Tensor y = Tensor::empty({batch_size, block_size_}, {.dtype = DType::i64});
  const Tensor starts = Tensor::randint(count - block_size_, {batch_size}, Device::cpu(), generator);
  std::vector<uint16_t> window(size_t(block_size_) + 1);
  for (int64_t row = 0; row < batch_size; ++row) {
    read(first + starts.ptr<int64_t>()[row], window);
    std::copy(window.begin(), window.end() - 1, x.ptr<int64_t>() + row * block_size_);
    std::copy(window.begin() + 1, window.end(), y.ptr<int64_t>() + row * block_size_);
  }
  return {x, y};
}

void CharDataset::read(int64_t first, std::span<uint16_t> tokens) const {
  if (!file_) {
    std::copy_n(tokens_.get() + first, tokens.size(), tokens.begin());
    return;
  }
  const int64_t at = header_size_ + first * token_size;
  file_->read(at, tokens.data(), tokens.size_bytes());
  const uint16_t largest = *std::max_element(tokens.begin(), tokens.end());
  if (largest >= vocab_size_) {
    fail_runtime("CharDataset: ", file_->path(), " has token ", largest, " after byte ", at,
                 ", and had none above ", vocab_size_ - 1, " when it was opened");
  }
}

Tensor CharDataset::encode(std::string_view text) const {
  check_not_moved_from();
  if (bytes_.empty()) fail("encode: the file holds tokens, not text");
  const Tensor ids = Tensor::empty({int64_t(text.size())}, {.dtype = DType::i64});
  for (size_t i = 0; i < text.size(); ++i) {
    const size_t token = bytes_.find(text[i]);
    if (token == std::string::npos) {
      fail("encode: byte ", int(static_cast<unsigned char>(text[i])), " at ", i,
           " is not in the data's vocabulary");
    }
    ids.ptr<int64_t>()[i] = int64_t(token);
  }
  return ids;
}

std::string CharDataset::decode(const Tensor& ids) const {
  check_not_moved_from();
  const Tensor host = ids.to(Device::cpu());
  std::string text;
  for (const int64_t id : host.data<int64_t>()) {
    if (id < 0 || id >= vocab_size_) fail("decode: id ", id, " is outside [0, ", vocab_size_, ")");
    if (bytes_.empty()) {
      if (!text.empty()) text += ' ';
      text += std::to_string(id);
    } else {
      text += bytes_[size_t(id)];
    }
  }
  return text;
}

}  // namespace altgrad::models
