// A file that a run appends to, one record after the other. A resumed run keeps the records up to its checkpoint where
// they are and cuts off what came after it, so that the file reads like one run that never stopped, whenever it is
// looked at.
#pragma once

#include <sys/stat.h>

#include <optional>
#include <string>
#include <string_view>

#include "run_folder.h"

class RunFile {
 public:
  // Locks the file, and finds the bytes that kept(path) tells: those of the records that stay. Throws std::runtime_error
  // where it cannot be written, or another trainer writes there.
  template <class F>
  RunFile(std::string path, F&& kept)
      : path_(std::move(path)),
        file_(::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {
    struct stat info = {};
    if (file_.fd < 0 || ::fstat(file_.fd, &info) != 0) refuse();
    // A pipe or a terminal has nothing to keep or to cut; what the shell has opened is not ours to cut.
    if (!S_ISREG(info.st_mode) || path_.starts_with("/dev/") || path_.starts_with("/proc/")) return;
    if (::flock(file_.fd, LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) altgrad::fail_runtime(path_, ": another train_gpt writes there");
      refuse();
    }
    kept_ = kept(path_);
  }

  // Cuts it to those records; before that, the file is as it was.
  void begin() {
    if (kept_ && ::ftruncate(file_.fd, *kept_) != 0) refuse();
  }

  // Does no earlier record stand in it?
  bool begins_anew() const { return kept_.value_or(0) == 0; }

  // By one write, so that a kill leaves whole records.
  void append(std::string_view record) {
    while (!record.empty()) {
      const ssize_t written = ::write(file_.fd, record.data(), record.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) refuse();
      record.remove_prefix(size_t(written));
    }
  }

 private:
  [[noreturn]] void refuse() const {
    altgrad::fail_runtime("cannot write ", path_, ": ", std::strerror(errno));
  }
  const std::string path_;
  const Descriptor file_;
  std::optional<int64_t> kept_;  // none of what cannot be cut
};
