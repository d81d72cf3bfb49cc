// Byte-level byte pair encoding, as GPT-2 and those after it have it: text to ids and back, byte for byte, with
// vocabularies in OpenAI's and Hugging Face's files, or trained here.
//
// The ids are those of tiktoken and of Hugging Face's tokenizers. Text is cut by PCRE2, whose version says which
// Unicode's letters it knows (10.42: Unicode 14). A build without PCRE2 has these classes too, and every way to make a Tokenizer
// throws std::runtime_error.
#pragma once

#include <altgrad/core/tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace altgrad::detail {
class Bpe;
}

ALTGRAD_API_BEGIN
namespace altgrad::models {

/// What encode makes of the text of a special token, such as "<|endoftext|>".
enum class Special {
  none,     ///< Text like any other, as is right for text from elsewhere.
  allowed,  ///< The token's id where EncodeOptions::allowed lists it, else text.
  all,      ///< The token's id.
};

struct EncodeOptions {
  Special special = Special::none;
  std::vector<std::string> allowed = {};  ///< With Special::allowed: the texts of special tokens.
};

/// GPT-2's pattern, which cuts text into pieces: contractions, words with the space before them, numbers, the rest.
inline constexpr const char* gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// What tiktoken's rank files leave to the program that reads them (tiktoken_ext/openai_public.py has OpenAI's).
struct RanksOptions {
  std::string pattern = gpt2_pattern;  ///< A regular expression, as tiktoken has it.
  std::map<std::string, int64_t> special_tokens = {{"<|endoftext|>", 50256}};
};

/// Copies share one vocabulary. Any number of threads may use one; each has up to 2 MiB of pieces that it remembers.
class Tokenizer {
 public:
  /// From a folder with `vocab.json` and `merges.txt` (Hugging Face), or `encoder.json` and `vocab.bpe` (OpenAI).
  /// A token "<...>" that no merge makes is special. Throws std::runtime_error where a file cannot be read, and
  /// std::invalid_argument, naming file and token, where the files are not of that form, ids are used twice or left
  /// out, a byte has no token, or a merge is of tokens that are not in the vocabulary.
  static Tokenizer gpt2(const std::string& folder);

  /// From one of tiktoken's files: lines of a token in base64, a space, and its rank, which is its id. Throws as gpt2
  /// does.
  static Tokenizer ranks(const std::string& file, const RanksOptions& options = {});

  /// From Hugging Face's `tokenizer.json`, where it is of the byte-level BPE kind: ByteLevel, alone or after a Split by
  /// a regular expression. Other kinds, and options that would change the ids, are refused by name. What its
  /// post-processor would add to a text is not added. Throws as gpt2 does.
  static Tokenizer json(const std::string& file);

  /// Learns vocab_size tokens: the 256 bytes, merges of the pair that is most frequent within the pieces of GPT-2's
  /// pattern (of those with equal counts, the one of the lowest ids), and "<|endoftext|>". Fewer where no pair occurs
  /// twice. Throws std::invalid_argument where vocab_size is not in [257, 2^24].
  static Tokenizer train(std::string_view text, int64_t vocab_size);

  /// Writes `vocab.json` and `merges.txt`, which gpt2 reads, and transformers. The folder is created where it is
  /// missing. Throws std::invalid_argument where these files cannot say what this tokenizer does (another pattern,
  /// ranks without merges), std::runtime_error where they cannot be written.
  void save(const std::string& folder) const;

  /// The largest id + 1.
  int64_t vocab_size() const;
  /// Texts and ids.
  const std::map<std::string, int64_t>& special_tokens() const;

  /// text -> ids (length) i64. Any bytes are text: decode_bytes gives them back. Throws std::invalid_argument where
  /// options allow what is no special token.
  Tensor encode(std::string_view text, const EncodeOptions& options = {}) const;

  /// ids of any shape -> text, in which U+FFFD stands for what is not UTF-8, as in Python's bytes.decode(errors=
  /// "replace"). Throws std::invalid_argument on an id that no token has, and on ids that are not i64.
  std::string decode(const Tensor& ids) const;
  /// The same, with all bytes as they are.
  std::string decode_bytes(const Tensor& ids) const;

 private:
  friend class DecodeStream;
  explicit Tokenizer(std::shared_ptr<const detail::Bpe> bpe) : bpe_(std::move(bpe)) {}
  // A moved Tokenizer stays what it was.
  std::shared_ptr<const detail::Bpe> bpe_;
};

/// Decodes one id after the other, for text that is shown as it is generated: a character whose bytes are spread over
/// several tokens comes with the last of them. All that is returned is together what decode gives.
class DecodeStream {
 public:
  explicit DecodeStream(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}
  /// The text that is complete with this token. Throws as decode does.
  std::string step(int64_t id);
  /// At the end: U+FFFD where a character was left incomplete, else nothing.
  std::string finish();

 private:
  Tokenizer tokenizer_;
  std::string held_;  // the bytes of a character that may yet be completed
};

}  // namespace altgrad::models
ALTGRAD_API_END
