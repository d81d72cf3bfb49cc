// Files as this library reads and replaces them. Reading is by pread, not through a map: a file that another program
// cuts short or writes anew gives an error here, and would give a signal there.
#pragma once

#include <dirent.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace altgrad::detail {

// Closes a file descriptor at its end.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept;
  Descriptor& operator=(Descriptor other) noexcept;
  ~Descriptor();
  int get() const { return fd_; }

 private:
  int fd_;
};

// A regular file, open for reading. Any number of threads may read it.
class InputFile {
 public:
  // `reader` is the function or class that errors name. Throws std::runtime_error, as read does.
  InputFile(std::string reader, std::string path);
  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }  // when it was opened
  // All of [at, at + bytes), or an error: the file may have become shorter.
  void read(int64_t at, void* to, size_t bytes) const;

 private:
  [[noreturn]] void refuse(const std::string& why) const;

  std::string reader_, path_;
  Descriptor file_;
  int64_t size_ = 0;
};

// A file that takes the place of the one at `path` when it is complete, and leaves no trace when it is not: it is
// written under a name of its own in the same folder, ".altgrad-tmp-" and 16 hexadecimal digits, and locked (flock)
// as long. What killed processes have left in the folder is what has such a name and no lock: it is removed.
class AtomicFile {
 public:
  // Symbolic links are followed, also to a file that is not there yet; the file's mode is kept. writer: the function
  // that errors name. Throws std::runtime_error, as the others do, also where the file may not be written.
  AtomicFile(std::string writer, std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* bytes, size_t size);
  // After this, the new file is what a crash of the machine leaves too.
  void commit();

 private:
  void create(int mode);
  int folder() const { return ::dirfd(folder_.get()); }
  void remove_abandoned() const;
  [[noreturn]] void refuse(const std::string& why) const;
  [[noreturn]] void refuse_errno() const;

  struct CloseFolder {
    void operator()(DIR* folder) const { ::closedir(folder); }
  };

  std::string writer_, path_, name_, temporary_;  // the last two in the folder
  std::unique_ptr<DIR, CloseFolder> folder_;
  Descriptor file_;
};

}  // namespace altgrad::detail
