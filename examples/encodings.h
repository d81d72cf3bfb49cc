// The ways in which prepare makes tokens of text. Text comes in parts, cut where the tokens are those of the whole.
#pragma once

#include <altgrad/models/tokenizer.h>

#include <cctype>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "open_tokenizer.h"

struct Encoding {
  virtual ~Encoding() = default;
  // The last place behind `from` where the text may be cut, as what comes after it changes no token before; 0 where
  // there is none.
  virtual size_t cut(std::string_view text, size_t from) const = 0;
  // On any thread.
  virtual std::vector<uint32_t> encode(std::string_view text) const = 0;
  // On one thread, part after part in their order.
  virtual void number(std::vector<uint32_t>&) {}
  // What stands between two texts.
  virtual std::vector<uint32_t> separator() const { return {}; }
  virtual bool wide() const { return false; }  // its tokens do not fit 16 bits
  // vocab_size, and what a reader needs to turn tokens back to text.
  virtual void describe(nlohmann::ordered_json& meta) const = 0;
};

// Each byte is its own token.
struct Bytes final : Encoding {
  size_t cut(std::string_view text, size_t) const override { return text.size(); }
  std::vector<uint32_t> encode(std::string_view text) const override {
    std::vector<uint32_t> tokens;
    for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
    return tokens;
  }
  void describe(nlohmann::ordered_json& meta) const override {
    meta["vocab_size"] = 256;
    meta["tokenizer"] = "bytes";
  }
};

// Characters (code points) are tokens, numbered as they first come up, which takes no pass over the text before.
class Characters final : public Encoding {
 public:
  size_t cut(std::string_view text, size_t) const override {
    size_t last = text.size() - 1;
    while (last > 0 && text.size() - last < 4 && is_inside(text[last])) --last;
    return last + length_of(text[last]) <= text.size() ? text.size() : last;
  }
  std::vector<uint32_t> encode(std::string_view text) const override {
    std::vector<uint32_t> codes;
    for (size_t at = 0; at < text.size();) {
      const auto first = static_cast<unsigned char>(text[at]);
      const size_t length = length_of(text[at]);
      uint32_t code = length == 1 ? first : first & (0x7Fu >> length);
      for (size_t i = 1; i < length; ++i) {
        if (at + i >= text.size() || !is_inside(text[at + i])) refuse(text, at);
        code = code << 6 | (static_cast<unsigned char>(text[at + i]) & 0x3Fu);
      }
      constexpr uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
      if ((first >= 0x80 && first < 0xC0) || code < least[length] || code > 0x10FFFF ||
          (code >= 0xD800 && code < 0xE000)) {
        refuse(text, at);
      }
      codes.push_back(code);
      at += length;
    }
    return codes;
  }
  void number(std::vector<uint32_t>& codes) override {
    for (uint32_t& code : codes) {
      const auto [known, is_new] = numbers_.emplace(code, uint32_t(characters_.size()));
      if (is_new) characters_.push_back(in_utf8(code));
      code = known->second;
    }
    if (characters_.size() > most)
      altgrad::fail_runtime("there are more than ", most, " different characters");
  }
  void describe(nlohmann::ordered_json& meta) const override {
    meta["vocab_size"] = characters_.size();
    meta["tokenizer"] = "characters";
    meta["characters"] = characters_;
  }

 private:
  static constexpr size_t most = 65536;
  static bool is_inside(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }
  static size_t length_of(char c) {  // of the character that begins so
    const auto first = static_cast<unsigned char>(c);
    return first < 0xC0 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  }
  [[noreturn]] static void refuse(std::string_view text, size_t at) {
    altgrad::fail("byte ", int(static_cast<unsigned char>(text[at])),
                  " is not UTF-8; --tokenizer bytes takes any");
  }
  static std::string in_utf8(uint32_t code) {
    const auto rest = [&](int shift) { return char(0x80 | (code >> shift & 0x3F)); };
    if (code < 0x80) return {char(code)};
    if (code < 0x800) return {char(0xC0 | code >> 6), rest(0)};
    if (code < 0x10000) return {char(0xE0 | code >> 12), rest(6), rest(0)};
    return {char(0xF0 | code >> 18), rest(12), rest(6), rest(0)};
  }

  std::map<uint32_t, uint32_t> numbers_;
  std::vector<std::string> characters_;
};

// Those of a tokenizer.
class Tokens final : public Encoding {
 public:
  explicit Tokens(const std::string& path) : path_(path), tokenizer_(open_tokenizer(path)) {}

  // Before a space or the end of a line that comes after a letter or a digit: there GPT-2's pattern begins a new piece,
  // and so do those that came after it.
  size_t cut(std::string_view text, size_t from) const override {
    for (size_t at = text.size(); --at > from;) {
      if ((text[at] == ' ' || text[at] == '\n') && std::isalnum(static_cast<unsigned char>(text[at - 1])))
        return at;
    }
    return 0;
  }
  std::vector<uint32_t> encode(std::string_view text) const override {
    const altgrad::Tensor ids = tokenizer_.encode(text);
    return {ids.data<int64_t>().begin(), ids.data<int64_t>().end()};
  }
  std::vector<uint32_t> separator() const override {
    const auto& special = tokenizer_.special_tokens();
    const auto end = special.find("<|endoftext|>");
    return end == special.end() ? std::vector<uint32_t>{} : std::vector{uint32_t(end->second)};
  }
  bool wide() const override { return tokenizer_.vocab_size() > 65536; }
  void describe(nlohmann::ordered_json& meta) const override {
    meta["vocab_size"] = tokenizer_.vocab_size();
    meta["tokenizer"] = std::filesystem::absolute(path_).lexically_normal().string();
    if (!separator().empty()) meta["separator"] = separator()[0];
  }

 private:
  const std::string path_;
  const altgrad::models::Tokenizer tokenizer_;
};

inline std::unique_ptr<Encoding> encoding(const std::string& name) {
  if (name == "bytes") return std::make_unique<Bytes>();
  if (name == "characters") return std::make_unique<Characters>();
  return std::make_unique<Tokens>(name);
}
