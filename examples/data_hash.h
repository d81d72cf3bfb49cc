// What tells a checkpoint's data from others of the same size. FNV-1a, 64 bits, in hexadecimal.
#pragma once

#include <altgrad/models/token_dataset.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

class Fnv1a {
 public:
  void add(const void* bytes, size_t n) {
    for (size_t i = 0; i < n; ++i) hash_ = (hash_ ^ static_cast<const uint8_t*>(bytes)[i]) * 0x100000001b3;
  }
  std::string text() const {
    char digits[17];
    std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash_));
    return digits;
  }

 private:
  uint64_t hash_ = 0xcbf29ce484222325;
};

// Of a file's size and bytes: of all of them up to 64 MiB. Of a larger file it takes 1024 blocks of 64 KiB, evenly spread
// from its first byte to its last, and so about 0.1 s: a change between the blocks of such a file is not seen. Throws
// std::runtime_error where the file cannot be read.
inline std::string file_hash(const std::string& path) {
  constexpr uint64_t block = 1 << 16, most_blocks = 1024;
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  const auto size = uint64_t(in.tellg());
  Fnv1a hash;
  hash.add(&size, sizeof size);
  const uint64_t blocks = (size + block - 1) / block;
  std::vector<char> bytes(block);
  for (uint64_t i = 0; in && i < std::min(blocks, most_blocks); ++i) {
    const uint64_t at = blocks <= most_blocks ? i * block : i * (size - block) / (most_blocks - 1);
    const auto n = std::streamsize(std::min(block, size - at));
    in.seekg(std::streamoff(at));
    in.read(bytes.data(), n);
    hash.add(bytes.data(), size_t(n));
  }
  if (!in) altgrad::fail_runtime("cannot read ", path, ": ", std::strerror(errno));
  return hash.text();
}

// Of the number of tokens and of up to 1024 windows of each of these, from all over them.
inline std::string tokens_hash(std::initializer_list<const altgrad::models::TokenDataset*> sets) {
  Fnv1a hash;
  for (const altgrad::models::TokenDataset* data : sets) {
    const int64_t size = data->size();
    hash.add(&size, sizeof size);
    const altgrad::models::TokenEpoch epoch = data->epoch(0);
    for (int64_t i = 0; i < std::min<int64_t>(epoch.size(), 1024); ++i) {
      const altgrad::Tensor ids = epoch.batch(i, 1).first;
      hash.add(ids.ptr<int64_t>(), ids.nbytes());
    }
  }
  return hash.text();
}
