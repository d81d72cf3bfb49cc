// The text to train on: a file, or, where none is named, text that every machine that builds this has: the headers
// of Eigen's Core, a megabyte of C++.
#pragma once

#include <altgrad/models/data.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

// FNV-1a, 64 bits, of a file's size and bytes, in hexadecimal: of all of them up to 64 MiB. Of a larger file it takes
// 1024 blocks of 64 KiB, evenly spread from its first byte to its last, and so about 0.1 s: a change between the
// blocks of such a file is not seen. Throws std::runtime_error where the file cannot be read.
inline std::string file_hash(const std::string& path) {
  constexpr uint64_t block = 1 << 16, most_blocks = 1024;
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  const auto size = uint64_t(in.tellg());
  uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&](const void* bytes, size_t n) {
    for (size_t i = 0; i < n; ++i) hash = (hash ^ static_cast<const uint8_t*>(bytes)[i]) * 0x100000001b3;
  };
  add(&size, sizeof size);
  const uint64_t blocks = (size + block - 1) / block;
  std::vector<char> bytes(block);
  for (uint64_t i = 0; in && i < std::min(blocks, most_blocks); ++i) {
    const uint64_t at = blocks <= most_blocks ? i * block : i * (size - block) / (most_blocks - 1);
    const auto n = std::streamsize(std::min(block, size - at));
    in.seekg(std::streamoff(at));
    in.read(bytes.data(), n);
    add(bytes.data(), size_t(n));
  }
  if (!in) altgrad::fail_runtime("cannot read ", path, ": ", std::strerror(errno));
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

struct Corpus {
  Corpus(const std::string& path, int64_t block_size) : data(path, block_size), hash(file_hash(path)) {}
  altgrad::models::CharDataset data;
  std::string hash;  // tells a checkpoint's data from others of the same size
};

// The headers one after the other, sorted by name. Throws std::runtime_error where they or a temporary file
// cannot be had.
inline Corpus default_corpus(int64_t block_size) {
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
  return {file.path, block_size};
}
