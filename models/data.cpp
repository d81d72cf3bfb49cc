// Both kinds of file end as one array of uint16 tokens, so there is one way to draw a batch: text is
// translated once, a .bin file is used in place through its map.
#include <altgrad/models/data.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>

namespace altgrad::models {
namespace {

static_assert(std::endian::native == std::endian::little, "a .bin file is used as it lies in memory");

// A file as bytes: mapped, and unmapped when the last handle goes.
struct Mapped {
  std::shared_ptr<const char> data;
  int64_t size = 0;
};

Mapped map_file(const std::string& path) {
  const auto refuse = [&](int error) {
    fail_runtime("CharDataset: cannot read ", path, ": ", std::strerror(error));
  };
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe without writer would wait
  if (fd < 0) refuse(errno);
  const std::shared_ptr<void> closer(nullptr, [fd](void*) { ::close(fd); });
  struct stat info = {};
  if (::fstat(fd, &info) != 0) refuse(errno);
  if (S_ISDIR(info.st_mode)) refuse(EISDIR);
  if (!S_ISREG(info.st_mode)) fail_runtime("CharDataset: cannot read ", path, ": not a regular file");
  const int64_t size = info.st_size;
  if (size == 0) return {};  // an empty file has no map
  void* map = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (map == MAP_FAILED) refuse(errno);
  return {{static_cast<const char*>(map), [size](const char* p) { ::munmap(const_cast<char*>(p), size); }},
          size};
}

// As nanoGPT splits: int(n * (1 - val_fraction)).
int64_t train_tokens(int64_t n, double val_fraction) { return int64_t(double(n) * (1 - val_fraction)); }

// Does each split hold one window and the token after it?
bool long_enough(int64_t n, int64_t block_size, double val_fraction) {
  const int64_t train = train_tokens(n, val_fraction);
  return train > block_size && (val_fraction == 0 || n - train > block_size);
}

// The smallest such n: solved for n, and from just below it up to the first that serves, for rounding's sake.
int64_t tokens_needed(int64_t block_size, double val_fraction) {
  const double train = double(block_size + 1) / (1 - val_fraction);
  const double val = val_fraction == 0 ? 0 : double(block_size) / val_fraction;
  auto n = int64_t(std::min(std::max(train, val), 1e18)) - 1;
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
  const Mapped file = map_file(path);
  const bool binary = path.ends_with(".bin");
  const int64_t token_bytes = binary ? 2 : 1;
  if (file.size % token_bytes != 0) {
    fail("CharDataset: ", path, " has ", file.size, " bytes, which is no whole number of uint16 tokens");
  }
  size_ = file.size / token_bytes;
  if (!long_enough(size_, block_size, val_fraction)) {
    fail("CharDataset: ", path, " has ", file.size, " bytes; block_size ", block_size, " with val_fraction ",
         val_fraction, " needs at least ", tokens_needed(block_size, val_fraction) * token_bytes);
  }
  train_size_ = train_tokens(size_, val_fraction);

  if (binary) {
    tokens_ = {file.data, reinterpret_cast<const uint16_t*>(file.data.get())};  // keeps the map alive
    vocab_size_ = *std::max_element(tokens_.get(), tokens_.get() + size_) + 1;
    return;
  }
  const std::span<const unsigned char> text(reinterpret_cast<const unsigned char*>(file.data.get()), size_);
  std::array<uint16_t, 256> token_of = {};
  for (const unsigned char byte : text) token_of[byte] = 1;
  for (int byte = 0; byte < 256; ++byte) {
    if (!token_of[byte]) continue;
    token_of[byte] = uint16_t(bytes_.size());
    bytes_.push_back(char(byte));
  }
  vocab_size_ = int64_t(bytes_.size());
  const std::shared_ptr<uint16_t> tokens(new uint16_t[size_], std::default_delete<uint16_t[]>());
  std::transform(text.begin(), text.end(), tokens.get(), [&](unsigned char byte) { return token_of[byte]; });
  tokens_ = tokens;
}

std::pair<int64_t, int64_t> CharDataset::range(std::string_view split) const {
  if (!tokens_) fail("CharDataset: it was moved from");
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
  const Tensor starts = Tensor::randint(count - block_size_, {batch_size}, Device::cpu(), generator);
  const Tensor x = Tensor::empty({batch_size, block_size_}, {.dtype = DType::i64});
  const Tensor y = Tensor::empty({batch_size, block_size_}, {.dtype = DType::i64});
  for (int64_t row = 0; row < batch_size; ++row) {
    const uint16_t* window = tokens_.get() + first + starts.ptr<int64_t>()[row];
    std::copy_n(window, block_size_, x.ptr<int64_t>() + row * block_size_);
    std::copy_n(window + 1, block_size_, y.ptr<int64_t>() + row * block_size_);
  }
  return {x, y};
}

Tensor CharDataset::encode(std::string_view text) const {
  if (bytes_.empty()) fail("encode: a .bin file holds tokens, not text");
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
