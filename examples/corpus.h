// The data to train on: a text, files of tokens, or, where nothing is named, text that every machine that builds this
// has: the headers of Eigen's Core, a megabyte of C++.
#pragma once

#include <altgrad/models/data.h>
#include <unistd.h>

#include <filesystem>
#include <optional>

#include "data_hash.h"
#include "options.h"

struct Corpus {
  altgrad::models::TokenDataset train, val;
  std::optional<altgrad::models::CharDataset> chars;  // where it is text
  std::string name, hash;

  int64_t vocab_size() const { return train.vocab_size(); }

  // Throws std::invalid_argument where text cannot become tokens of this data.
  altgrad::Tensor encode(std::string_view text) const {
    if (!chars) altgrad::fail(name, " holds tokens: text cannot be encoded as they were");
    return chars->encode(text);
  }
  // Where it cannot be made text of, numbers.
  std::string decode(const altgrad::Tensor& ids) const {
    if (chars) return chars->decode(ids);
    std::string numbers;
    for (const int64_t id : ids.to(altgrad::Device::cpu()).data<int64_t>()) {
      numbers.append(numbers.empty() ? "" : " ").append(std::to_string(id));
    }
    return numbers;
  }
  // Of the text that ids stand for, where that is known.
  std::optional<int64_t> bytes(const altgrad::Tensor& ids) const {
    return chars ? std::optional(ids.numel()) : std::nullopt;
  }
};

inline Corpus text_corpus(const std::string& path, int64_t block, std::string name) {
  const altgrad::models::CharDataset chars(path, block);
  return {chars.dataset("train"), chars.dataset("val"), chars, std::move(name), file_hash(path)};
}

// The headers one after the other, sorted by name. Throws std::runtime_error where they or a temporary file
// cannot be had.
inline Corpus default_corpus(int64_t block) {
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

  struct TemporaryFile {
    std::string path = (fs::temp_directory_path() / "altgrad-text-XXXXXX").string();
    const int descriptor = mkstemp(path.data());
    ~TemporaryFile() {
      if (descriptor >= 0) close(descriptor), unlink(path.c_str());
    }
  } file;
  std::ofstream out(file.path, std::ios::binary);
  for (const fs::path& header : headers) out << std::ifstream(header, std::ios::binary).rdbuf();
  if (file.descriptor < 0 || !out.flush()) altgrad::fail_runtime("cannot write ", file.path);
  return text_corpus(file.path, block, "headers of Eigen");
}

// Files of tokens. Of one file without a --val, the last tenth validates.
inline Corpus token_corpus(const std::string& train, const std::optional<std::string>& val, int64_t block,
                           std::optional<int64_t> vocab, const std::string& name) {
  using altgrad::models::TokenDataset;
  const TokenDataset data(train, block, vocab);
  std::error_code error;
  if (!val) {
    auto [first, last] = data.split(0.1);
    const bool one_file = std::filesystem::is_regular_file(train, error);
    return {first, last, {}, name, one_file ? file_hash(train) : tokens_hash({&data})};
  }
  const TokenDataset validation(*val, block, data.vocab_size());
  return {data, validation, {}, name, tokens_hash({&data, &validation})};
}

inline Corpus open_corpus(const Options& o) {
  const int64_t block = o.recipe().block;
  std::error_code error;
  if (std::filesystem::is_directory(o.data, error)) {
    const std::filesystem::path folder = o.data;
    return token_corpus(folder / "train*.bin", o.val.value_or(folder / "val*.bin"), block, o.vocab, o.data);
  }
  if (o.data.ends_with(".bin")) return token_corpus(o.data, o.val, block, o.vocab, o.data);
  if (o.val || o.vocab) altgrad::fail("--val and --vocab need tokens in --data: .bin files");
  return o.data.empty() ? default_corpus(block) : text_corpus(o.data, block, o.data);
}
