// Files of tokens, as nanoGPT and llm.c write them.
#pragma once

#include "temp_folder.h"

#include <cstdint>
#include <cstring>
#include <vector>

// first, first + 1, ..., last - 1
inline std::vector<uint32_t> counting(uint32_t first, uint32_t last) {
  std::vector<uint32_t> numbers;
  for (uint32_t i = first; i < last; ++i) numbers.push_back(i);
  return numbers;
}

template <class T>
std::string bytes_of(const std::vector<uint32_t>& tokens) {
  const std::vector<T> stored(tokens.begin(), tokens.end());
  return {reinterpret_cast<const char*>(stored.data()), stored.size() * sizeof(T)};
}

// 256 int32, as dev/data/data_common.py of llm.c writes them.
inline std::string llmc_header(int32_t magic, int32_t version, int32_t count) {
  std::vector<int32_t> header(256);
  header[0] = magic, header[1] = version, header[2] = count;
  return {reinterpret_cast<const char*>(header.data()), 1024};
}

struct TokenFolder : TempFolder {
  std::string file(const std::string& name, const std::string& bytes) const {
    write_bytes(*this / name, bytes);
    return *this / name;
  }
  std::string nano(const std::string& name, const std::vector<uint32_t>& tokens) const {
    return file(name, bytes_of<uint16_t>(tokens));
  }
  // `count` is what the header says, where it is not their number.
  std::string llmc16(const std::string& name, const std::vector<uint32_t>& tokens, int64_t count = -1) const {
    return file(name, llmc_header(20240520, 1, int32_t(count < 0 ? int64_t(tokens.size()) : count)) +
                          bytes_of<uint16_t>(tokens));
  }
  std::string llmc32(const std::string& name, const std::vector<uint32_t>& tokens) const {
    return file(name, llmc_header(20240801, 7, int32_t(tokens.size())) + bytes_of<uint32_t>(tokens));
  }
  // In place, as another program does.
  void write_at(const std::string& path, int64_t byte, const std::vector<uint32_t>& tokens) const {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(byte);
    file << bytes_of<uint16_t>(tokens);
  }
};
