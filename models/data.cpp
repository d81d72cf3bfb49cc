// The text is kept as it was read; its bytes become tokens as they are drawn.
#include <altgrad/models/data.h>

#include <altgrad/models/internal/token_source.h>
#include <altgrad/nn/internal/files.h>

#include <array>
#include <tuple>

namespace altgrad::models {
namespace {

class TextTokens final : public detail::TokenSource {
 public:
  explicit TextTokens(std::string text) : text_(std::move(text)) {
    for (const unsigned char byte : text_) token_of_[byte] = 1;
    for (size_t byte = 0; byte < 256; ++byte) {
      if (!token_of_[byte]) continue;
      token_of_[byte] = uint8_t(bytes_.size());
      bytes_.push_back(char(byte));
    }
  }
  void read(size_t, int64_t first, std::span<int64_t> tokens) const override {
    for (size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] = token_of_[static_cast<unsigned char>(text_[size_t(first) + i])];
    }
  }
  const std::string& bytes() const { return bytes_; }  // of each token

 private:
  std::string text_, bytes_;
  std::array<uint8_t, 256> token_of_ = {};
};

}  // namespace

CharDataset::CharDataset(const std::string& path, int64_t block_size, double val_fraction) {
  if (block_size < 1) fail("CharDataset: block_size must be positive, got ", block_size);
  detail::check_val_fraction("CharDataset", val_fraction);
  if (detail::is_token_file(path)) {
    fail("CharDataset: ", path, " holds tokens and no text; models::TokenDataset reads them");
  }
  const detail::InputFile file("CharDataset", path);
  const int64_t n = file.size();
  detail::check_split(concat("CharDataset: ", path, " has ", n, " bytes"), n, block_size, val_fraction);
  std::string text(size_t(n), '\0');
  file.read(0, text.data(), text.size());
  const auto source = std::make_shared<const TextTokens>(std::move(text));
  bytes_ = source->bytes();
  std::tie(train_, val_) =
      TokenDataset(source, path, {{0, 0, n}}, block_size, int64_t(bytes_.size())).split(val_fraction);
}

const TokenDataset& CharDataset::dataset(std::string_view split) const {
  if (!train_.source_) fail("CharDataset: it was moved from");
  if (split == "train") return train_;
  if (split == "val") return val_;
  fail("CharDataset: there is no split \"", split, "\"; there are \"train\" and \"val\"");
}

std::pair<Tensor, Tensor> CharDataset::batch(std::string_view split, int64_t batch_size,
                                             Generator& generator) const {
  const TokenDataset& data = dataset(split);
  if (data.size() == 0) fail("CharDataset: the split \"", split, "\" is empty");
  return data.batch(batch_size, generator);
}

Tensor CharDataset::encode(std::string_view text) const {
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
    if (id < 0 || id >= vocab_size()) fail("decode: id ", id, " is outside [0, ", vocab_size(), ")");
    text += bytes_[size_t(id)];
  }
  return text;
}

}  // namespace altgrad::models
