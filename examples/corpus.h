// The data to train on: a text, files of tokens, or, where nothing is named, text that every machine that builds this
// has: the headers of Eigen's Core, a megabyte of C++.
#pragma once

#include <altgrad/models/data.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

#include "data_hash.h"
#include "open_tokenizer.h"
#include "options.h"
#include "token_file.h"
#include "token_meta.h"

struct Corpus {
  altgrad::models::TokenDataset train, val;
  std::optional<altgrad::models::Tokenizer> tokenizer;
  std::string name, hash;
  std::vector<std::string> texts = {};  // of each token, where these are bytes or characters

  int64_t vocab_size() const { return train.vocab_size(); }

  // Throws std::invalid_argument where text cannot become tokens of this data.
  altgrad::Tensor encode(std::string_view text) const {
    if (tokenizer) return tokenizer->encode(text);
    if (texts.empty())
      altgrad::fail(name, " holds tokens: without --tokenizer, text cannot be encoded as they were");
    return encode_texts(texts, text, name);
  }
  // Where it cannot be made text of, numbers.
  std::string decode(const altgrad::Tensor& ids) const {
    if (tokenizer) return tokenizer->decode(ids);
    std::string text;
    const altgrad::Tensor here = ids.to(altgrad::Device::cpu());
    for (const int64_t id : here.data<int64_t>()) {
      if (texts.empty())
        text.append(text.empty() ? "" : " ").append(std::to_string(id));
      else
        text += id < int64_t(texts.size()) ? texts[size_t(id)] : "\uFFFD";
    }
    return text;
  }
  // Of the text that ids stand for, where that is known.
  std::optional<int64_t> bytes(const altgrad::Tensor& ids) const {
    if (tokenizer) return int64_t(tokenizer->decode_bytes(ids).size());
    return texts.empty() ? std::nullopt : std::optional(int64_t(decode(ids).size()));
  }
};

// A file in a folder for such, gone with this object; what has opened it may read on.
class TemporaryFile {
 public:
  explicit TemporaryFile(const char* ending)
      : path_((std::filesystem::temp_directory_path() / "altgrad-XXXXXX").string() + ending),
        descriptor_(mkstemps(path_.data(), int(std::strlen(ending)))) {
    if (descriptor_ < 0) altgrad::fail_runtime("cannot write ", path_);
  }
  ~TemporaryFile() { close(descriptor_), unlink(path_.c_str()); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  const int descriptor_;
};

// The headers one after the other, sorted by name. Throws std::runtime_error where they or the file cannot be had.
inline void write_default_text(const std::string& path) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::path(EIGEN_INCLUDE_DIR) / "Eigen" / "src" / "Core";
  std::vector<fs::path> headers;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".h") headers.push_back(entry.path());
  }
  if (headers.empty())
    altgrad::fail_runtime("found no headers in ", folder.string(), "; name a text with --data");
  std::sort(headers.begin(), headers.end());
  std::ofstream out(path, std::ios::binary);
  for (const fs::path& header : headers) out << std::ifstream(header, std::ios::binary).rdbuf();
  if (!out.flush()) altgrad::fail_runtime("cannot write ", path);
}

// A text by byte, or as a tokenizer's tokens, all of which are made now and kept in a file without a name.
inline Corpus text_corpus(const std::string& path, int64_t block, std::string name,
                          const std::optional<altgrad::models::Tokenizer>& tokenizer = {}) {
  if (!tokenizer) {
    const altgrad::models::CharDataset chars(path, block);
    return {chars.dataset("train"), chars.dataset("val"), {},
            std::move(name),        file_hash(path),      texts_of(chars)};
  }
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  if (!in) altgrad::fail_runtime("cannot read ", path, ": ", std::strerror(errno));
  const altgrad::Tensor ids = tokenizer->encode(text.view());
  const TemporaryFile file(".bin");
  TokenFile tokens(file.path(), tokenizer->vocab_size() > 65536);
  tokens.append({ids.data<int64_t>().begin(), ids.data<int64_t>().end()});
  tokens.finish();
  tokens.rename();
  const altgrad::models::TokenDataset data(file.path(), block, tokenizer->vocab_size());
  const auto [train, val] = data.split(0.1);
  return {train, val, tokenizer, std::move(name), tokens_hash({&data})};
}

// Files of tokens. Of one file without a --val, the last tenth validates.
inline Corpus token_corpus(const std::string& train, const std::optional<std::string>& val, int64_t block,
                           std::optional<int64_t> vocab, const std::string& name,
                           const std::optional<altgrad::models::Tokenizer>& tokenizer) {
  using altgrad::models::TokenDataset;
  const TokenDataset data(train, block, vocab);
  std::error_code error;
  if (!val) {
    auto [first, last] = data.split(0.1);
    const bool one_file = std::filesystem::is_regular_file(train, error);
    return {first, last, tokenizer, name, one_file ? file_hash(train) : tokens_hash({&data})};
  }
  const TokenDataset validation(*val, block, data.vocab_size());
  return {data, validation, tokenizer, name, tokens_hash({&data, &validation})};
}

inline Corpus open_corpus(const Options& o) {
  const int64_t block = o.recipe().block;
  const std::filesystem::path data = o.data;
  std::error_code error;
  const bool is_folder = std::filesystem::is_directory(data, error);
  const bool has_tokens = is_folder || o.data.ends_with(".bin");
  const auto meta = has_tokens ? token_meta(is_folder ? data : data.parent_path()) : std::nullopt;
  std::optional<std::string> named = o.tokenizer;
  if (!named && o.init_from && has_tokenizer(*o.init_from)) named = o.init_from;
  // Without PCRE2, such tokens stay numbers.
  if (ALTGRAD_BPE && !named && meta && meta->texts.empty() && !meta->tokenizer.empty()) {
    if (is_tokenizer(meta->tokenizer)) {
      named = meta->tokenizer;
    } else {
      std::printf("%s names the tokenizer %s, which is not there: tokens stay numbers\n", meta->file.c_str(),
                  meta->tokenizer.c_str());
    }
  }
  std::optional<altgrad::models::Tokenizer> tokenizer;
  if (named) tokenizer = open_tokenizer(*named);
  if (named && meta && meta->vocab_size.value_or(tokenizer->vocab_size()) != tokenizer->vocab_size()) {
    altgrad::fail("the tokenizer ", *named, " has a vocabulary of ", tokenizer->vocab_size(), ", ",
                  meta->file, " tells one of ", *meta->vocab_size, "; are the tokens its own?");
  }
  if (has_tokens) {
    const auto of_val = o.val ? token_meta(std::filesystem::path(*o.val).parent_path()) : std::nullopt;
    if (meta && of_val && (meta->vocab_size != of_val->vocab_size || meta->texts != of_val->texts))
      altgrad::fail("--val: ", of_val->file, " tells of other tokens than ", meta->file);
    const std::optional<int64_t> vocab = o.vocab || !tokenizer ? o.vocab : tokenizer->vocab_size();
    const std::optional<std::string> val = is_folder ? o.val.value_or(data / "val*.bin") : o.val;
    Corpus corpus =
        token_corpus(is_folder ? data / "train*.bin" : data, val, block, vocab, o.data, tokenizer);
    if (meta && !tokenizer) corpus.texts = meta->texts;
    return corpus;
  }
  if (o.val || o.vocab) altgrad::fail("--val and --vocab need tokens in --data: .bin files");
  if (o.init_from && !tokenizer) {
    altgrad::fail("--init-from: there is no tokenizer in ", *o.init_from,
                  ", and a text's bytes are not its tokens: name one by --tokenizer, or tokens by --data");
  }
  if (!o.data.empty()) return text_corpus(o.data, block, o.data, tokenizer);
  const TemporaryFile text("");
  write_default_text(text.path());
  return text_corpus(text.path(), block, "headers of Eigen", tokenizer);
}
