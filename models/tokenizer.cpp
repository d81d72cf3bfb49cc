// Tokenizers from files, special tokens within text, ids back to text. What ordinary text becomes is bpe.cpp's.
#include <altgrad/models/tokenizer.h>

#include <altgrad/core/error.h>
#include <altgrad/core/internal/utf8.h>
#include <altgrad/models/internal/bpe.h>
#include <altgrad/models/internal/vocabulary_files.h>
#include <altgrad/nn/internal/files.h>

#include <algorithm>
#include <array>
#include <filesystem>

namespace altgrad::models {
namespace {

// The tokens that text is searched for. At one place the longest counts.
class TokenSearch {
 public:
  TokenSearch(const detail::Vocabulary& vocabulary, const EncodeOptions& options) {
    for (const auto& token : vocabulary.added) add(token);
    if (options.special != Special::allowed && !options.allowed.empty()) {
      fail("encode: allowed lists tokens, and special is not Special::allowed");
    }
    for (const auto& token : vocabulary.special)
      if (options.special == Special::all) add(token);
    for (const std::string& text : options.allowed) {
      const auto token = vocabulary.special.find(text);
      if (token == vocabulary.special.end())
        fail("encode: allowed has ", detail::in_quotes(text), ", which is no special token");
      add(*token);
    }
    for (auto& tokens : by_first_byte_) {
      std::sort(tokens.begin(), tokens.end(),
                [](const Token* a, const Token* b) { return a->first.size() > b->first.size(); });
    }
  }

  using Token = std::pair<const std::string, int64_t>;
  // The first token in text, and where it is; null and the text's end where there is none.
  std::pair<const Token*, size_t> find(std::string_view text) const {
    if (empty_) return {nullptr, text.size()};
    for (size_t at = 0; at < text.size(); ++at) {
      for (const Token* token : by_first_byte_[static_cast<unsigned char>(text[at])])
        if (text.substr(at).starts_with(token->first)) return {token, at};
    }
    return {nullptr, text.size()};
  }

 private:
  void add(const Token& token) {
    by_first_byte_[static_cast<unsigned char>(token.first[0])].push_back(&token);
    empty_ = false;
  }
  std::array<std::vector<const Token*>, 256> by_first_byte_;
  bool empty_ = true;
};

constexpr std::string_view replacement = "\xEF\xBF\xBD";  // U+FFFD

// Bytes of a character that begins with this one; 1 where none does.
size_t length_after(unsigned char first) {
  return first < 0xC2 || first > 0xF4 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

// Bytes at the beginning, not UTF-8, for which one U+FFFD stands: as far as they could begin a character (Unicode 15,
// section 3.9, "maximal subparts").
size_t invalid_part(std::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  const size_t length = length_after(first);
  const unsigned lowest = first == 0xE0   ? 0xA0
                          : first == 0xF0 ? 0x90
                                          : 0x80,
                 highest = first == 0xED   ? 0x9F
                           : first == 0xF4 ? 0x8F
                                           : 0xBF;
  size_t n = 1;
  while (n < length && n < text.size()) {
    const auto byte = static_cast<unsigned char>(text[n]);
    if (byte < (n == 1 ? lowest : 0x80) || byte > (n == 1 ? highest : 0xBF)) break;
    ++n;
  }
  return n;
}

// Could more bytes make a character of these?
bool could_go_on(std::string_view text) {
  return text.size() < length_after(static_cast<unsigned char>(text[0])) && invalid_part(text) == text.size();
}

// Takes characters from the front of bytes; what could be the beginning of one is left there unless it is the end.
std::string take_text(std::string& bytes, bool at_end) {
  std::string text;
  std::string_view rest = bytes;
  while (!rest.empty()) {
    size_t length = size_t(detail::utf8_length(rest));
    if (length > 0) {
      text += rest.substr(0, length);
    } else {
      if (!at_end && could_go_on(rest)) break;
      length = invalid_part(rest);
      text += replacement;
    }
    rest.remove_prefix(length);
  }
  bytes.erase(0, bytes.size() - rest.size());
  return text;
}

void append_token(const char* who, const detail::Vocabulary& vocabulary, int64_t id, std::string& bytes) {
  const int64_t n = int64_t(vocabulary.tokens.size());
  if (id < 0 || id >= n) fail(who, ": id ", id, " is outside [0, ", n, ")");
  if (vocabulary.tokens[size_t(id)].empty()) fail(who, ": no token has the id ", id);
  bytes += vocabulary.tokens[size_t(id)];
}

detail::NamedText read_text(const std::string& who, const std::string& path) {
  const detail::InputFile file(who, path);
  detail::NamedText read{concat(who, ": ", path), std::string(size_t(file.size()), '\0')};
  file.read(0, read.text.data(), read.text.size());
  return read;
}

std::shared_ptr<const detail::Bpe> make_bpe(const std::string& who, detail::Vocabulary vocabulary) {
  const detail::Pattern pattern(who, vocabulary.pattern);
  return std::make_shared<const detail::Bpe>(who, std::move(vocabulary), pattern);
}

}  // namespace

Tokenizer Tokenizer::gpt2(const std::string& folder) {
  const std::string who = "Tokenizer::gpt2";
  const auto path = [&](const char* name) { return (std::filesystem::path(folder) / name).string(); };
  const auto is_there = [&](const char* name) {
    std::error_code error;
    return std::filesystem::exists(path(name), error);
  };
  if (!is_there("vocab.json") && !is_there("encoder.json")) {
    fail_runtime(who, ": ", folder, " has neither vocab.json nor encoder.json",
                 is_there("tokenizer.json") ? "; its tokenizer.json is for Tokenizer::json" : "");
  }
  const bool hugging_face = is_there("vocab.json");
  return Tokenizer(make_bpe(who, read_gpt2(read_text(who, path(hugging_face ? "vocab.json" : "encoder.json")),
                                           read_text(who, path(hugging_face ? "merges.txt" : "vocab.bpe")))));
}

Tokenizer Tokenizer::ranks(const std::string& file, const RanksOptions& options) {
  return Tokenizer(make_bpe("Tokenizer::ranks", read_ranks(read_text("Tokenizer::ranks", file), options)));
}

Tokenizer Tokenizer::json(const std::string& file) {
  return Tokenizer(make_bpe("Tokenizer::json", read_tokenizer_json(read_text("Tokenizer::json", file))));
}

void Tokenizer::save(const std::string& folder) const {
  const detail::Vocabulary& v = bpe_->vocabulary();
  if (v.pattern != gpt2_pattern || v.whole_pieces || !v.added.empty()) {
    fail(
        "Tokenizer::save: vocab.json and merges.txt are for GPT-2's pattern and for merges alone, and this "
        "tokenizer has ",
        v.pattern != gpt2_pattern ? "another pattern"
        : v.whole_pieces          ? "ranks of whole pieces"
                                  : "added tokens");
  }
  const auto [vocab, merges] = gpt2_files(v);
  if (detail::read_gpt2({"Tokenizer::save: vocab.json", vocab}, {"Tokenizer::save: merges.txt", merges})
          .special != v.special)
    fail("Tokenizer::save: a special token is not of the form <...>");

  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail_runtime("Tokenizer::save: cannot create ", folder, ": ", error.message());
  const std::filesystem::path to = folder;
  detail::AtomicFile vocab_file("Tokenizer::save", to / "vocab.json"),
      merges_file("Tokenizer::save", to / "merges.txt");
  vocab_file.write(vocab.data(), vocab.size());
  merges_file.write(merges.data(), merges.size());
  vocab_file.commit();
  merges_file.commit();
}

int64_t Tokenizer::vocab_size() const { return int64_t(bpe_->vocabulary().tokens.size()); }

const std::map<std::string, int64_t>& Tokenizer::special_tokens() const { return bpe_->vocabulary().special; }

Tensor Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  const TokenSearch search(bpe_->vocabulary(), options);
  auto encoder = bpe_->take_encoder();
  std::vector<int32_t> found;
  found.reserve(text.size() / 3 + 8);
  while (!text.empty()) {
    const auto [token, at] = search.find(text);
    encoder->encode(text.substr(0, at), found);
    text.remove_prefix(at);
    if (!token) break;
    found.push_back(int32_t(token->second));
    text.remove_prefix(token->first.size());
  }
  bpe_->give_back(std::move(encoder));
  const Tensor ids = Tensor::empty({int64_t(found.size())}, {.dtype = DType::i64});
  std::copy(found.begin(), found.end(), ids.ptr<int64_t>());
  return ids;
}

std::string Tokenizer::decode_bytes(const Tensor& ids) const {
  const Tensor host = ids.to(Device::cpu());
  std::string bytes;
  for (const int64_t id : host.data<int64_t>()) append_token("decode", bpe_->vocabulary(), id, bytes);
  return bytes;
}

std::string Tokenizer::decode(const Tensor& ids) const {
  std::string bytes = decode_bytes(ids);
  return take_text(bytes, /*at_end=*/true);
}

std::string DecodeStream::step(int64_t id) {
  append_token("DecodeStream", tokenizer_.bpe_->vocabulary(), id, held_);
  return take_text(held_, /*at_end=*/false);
}

std::string DecodeStream::finish() { return take_text(held_, /*at_end=*/true); }

}  // namespace altgrad::models
