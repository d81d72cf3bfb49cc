// The folder that a run writes to. It is one trainer's at a time: two would overwrite each other's files.
#pragma once

#include <altgrad/core/error.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>

// A file descriptor and its end.
struct Descriptor {
  const int fd;
  explicit Descriptor(int fd) : fd(fd) {}
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
};

class RunFolder {
 public:
  // Creates the folder where it is missing and locks it until this process ends, however it does: the lock is the
  // system's (flock), not the file's being there. Throws std::runtime_error where another trainer has it.
  explicit RunFolder(const std::string& path)
      : path_((create(path), path)),
        lock_(::open((path_ / "train_gpt.lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
    if (lock_.fd < 0) refuse(path_);
    if (::flock(lock_.fd, LOCK_EX | LOCK_NB) == 0) {
      if (::ftruncate(lock_.fd, 0) != 0 || ::dprintf(lock_.fd, "%ld\n", long(::getpid())) < 0) refuse(path_);
      return;
    }
    if (errno != EWOULDBLOCK) refuse(path_);
    char process[24] = {};  // as the other one wrote it
    const ssize_t size = ::pread(lock_.fd, process, sizeof process - 1, 0);
    process[size > 0 ? std::strspn(process, "0123456789") : 0] = '\0';
    altgrad::fail_runtime(path, ": another train_gpt, process ", process, ", writes there");
  }

  std::string file(const char* name) const { return (path_ / name).string(); }

 private:
  // The parent of each new folder is synced, so that a crash of the machine cannot lose it with all that is in it.
  static void create(const std::filesystem::path& folder) {
    std::error_code error;
    if (folder.empty() || std::filesystem::is_directory(folder, error)) return;
    const std::filesystem::path parent = folder.parent_path();
    create(parent);
    if (::mkdir(folder.c_str(), 0777) != 0) {
      const bool exists = errno == EEXIST;
      if (exists && std::filesystem::is_directory(folder, error)) return;  // "out/", after its parent, "out"
      if (exists) errno = ENOTDIR;
      refuse(folder);
    }
    const Descriptor synced(
        ::open(parent.empty() ? "." : parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (synced.fd < 0 || ::fsync(synced.fd) != 0) refuse(folder);
  }
  [[noreturn]] static void refuse(const std::filesystem::path& folder) {
    altgrad::fail_runtime("cannot write to the folder ", folder.string(), ": ", std::strerror(errno));
  }

  const std::filesystem::path path_;
  const Descriptor lock_;
};
