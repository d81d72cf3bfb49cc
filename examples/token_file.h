// A file of tokens that appears under its name when it is complete: until then, and where writing fails, what was there
// stays.
#pragma once

#include <altgrad/core/error.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

// Written as PATH.tmp, which is one process's at a time (flock); what a killed one has left there is overwritten.
class NewFile {
 public:
  explicit NewFile(const std::filesystem::path& path)
      : path_(path),
        temporary_(path.string() + ".tmp"),
        fd_(::open(temporary_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
    if (fd_ < 0) refuse();
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      ::close(fd_);
      altgrad::fail_runtime(temporary_, " is being written by another process");
    }
    if (::ftruncate(fd_, 0) != 0) refuse();
  }
  ~NewFile() {
    if (!done_) ::unlink(temporary_.c_str());
    ::close(fd_);
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  // At the place, which may be anywhere.
  void write(int64_t at, const void* bytes, size_t size) {
    const char* next = static_cast<const char*>(bytes);
    while (size > 0) {
      const ssize_t written = ::pwrite(fd_, next, size, at);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) refuse();
      next += written;
      at += written;
      size -= size_t(written);
    }
  }
  // What has been written is on the disk.
  void sync() {
    if (::fsync(fd_) != 0) refuse();
  }
  void rename() {
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) refuse();
    done_ = true;
  }

 private:
  [[noreturn]] void refuse() const {
    altgrad::fail_runtime("cannot write ", path_.string(), ": ", std::strerror(errno));
  }

  const std::filesystem::path path_;
  const std::string temporary_;
  const int fd_;
  bool done_ = false;
};

// Tokens as nanoGPT has them, uint16 and nothing else, where the vocabulary fits; else llm.c's uint32 after 256 int32:
// 20240801, 7 and the number of tokens, which is below 2^31 there. Both are little-endian.
class TokenFile {
 public:
  TokenFile(const std::filesystem::path& path, bool wide)
      : file_(path), wide_(wide), end_(wide ? header_size : 0) {}

  void append(const std::vector<uint32_t>& tokens) {
    if (wide_) {
      append_bytes(tokens);
    } else {
      append_bytes(std::vector<uint16_t>(tokens.begin(), tokens.end()));
    }
    count_ += int64_t(tokens.size());
    if (wide_ && count_ > INT32_MAX)
      altgrad::fail_runtime("more than 2^31 - 1 tokens, which llm.c's files cannot count");
  }
  // All but its name is then as it will be.
  void finish() {
    std::array<int32_t, header_size / 4> header = {20240801, 7, int32_t(count_)};
    if (wide_) file_.write(0, header.data(), sizeof header);
    file_.sync();
  }
  void rename() { file_.rename(); }
  int64_t count() const { return count_; }

 private:
  static constexpr int64_t header_size = 1024;
  template <class T>
  void append_bytes(const std::vector<T>& values) {
    file_.write(end_, values.data(), values.size() * sizeof(T));
    end_ += int64_t(values.size() * sizeof(T));
  }

  NewFile file_;
  const bool wide_;
  int64_t end_, count_ = 0;
};
