// Text that every machine that builds this has: the headers of Eigen's Core, a megabyte of C++.
#pragma once

#include <altgrad/models/data.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

// The headers one after the other, sorted by name. Throws std::runtime_error where they or a temporary file
// cannot be had.
inline altgrad::models::CharDataset default_text(int64_t block_size) {
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
