// POSIX calls, each with its errors: what a file system may refuse is said with the path and the reason.
#include <altgrad/nn/internal/files.h>

#include <altgrad/core/error.h>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

namespace altgrad::detail {
namespace {

namespace fs = std::filesystem;

std::string errno_text(int error) { return std::generic_category().message(error); }

constexpr std::string_view temporary_prefix = ".altgrad-tmp-", digits = "0123456789abcdef";
constexpr size_t temporary_digits = 16;

std::string temporary_name(uint64_t number) {
  std::string name(temporary_prefix);
  for (int shift = 60; shift >= 0; shift -= 4) name += digits[number >> shift & 15];
  return name;
}

bool is_temporary_name(std::string_view name) {
  return name.starts_with(temporary_prefix) && name.size() == temporary_prefix.size() + temporary_digits &&
         name.find_first_not_of(digits, temporary_prefix.size()) == name.npos;
}

// The system would take what comes before a zero byte for the whole.
void check_path(const std::string& who, const std::string& path) {
  if (path.find('\0') != path.npos) fail_runtime(who, ": the path has a zero byte, behind ", path.c_str());
}

// Is it the open file that the name in the folder stands for?
bool is_at(const Descriptor& file, int folder, const char* name) {
  struct stat open = {}, named = {};
  return ::fstat(file.get(), &open) == 0 && ::fstatat(folder, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
         open.st_dev == named.st_dev && open.st_ino == named.st_ino;
}

// The path behind the links that a path ends in, whether something lies there or not.
fs::path follow_links(fs::path path) {
  constexpr int most = 40;  // as Linux
  std::error_code error;
  for (int links = 0; fs::is_symlink(fs::symlink_status(path, error)); ++links) {
    if (links == most)
      throw fs::filesystem_error("", std::make_error_code(std::errc::too_many_symbolic_link_levels));
    path = path.parent_path() / fs::read_symlink(path);
  }
  return path;
}

}  // namespace

Descriptor::Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
Descriptor& Descriptor::operator=(Descriptor other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}
Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

// ---- Reading ----

InputFile::InputFile(std::string reader, std::string path)
    : reader_(std::move(reader)), path_(std::move(path)) {
  check_path(reader_, path_);
  file_ = Descriptor(
      ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // a pipe without writer would wait
  struct stat info = {};
  if (file_.get() < 0 || ::fstat(file_.get(), &info) != 0) refuse(errno_text(errno));
  if (S_ISDIR(info.st_mode)) refuse(errno_text(EISDIR));
  if (!S_ISREG(info.st_mode)) refuse("not a regular file");
  size_ = info.st_size;
}

void InputFile::read(int64_t at, void* to, size_t bytes) const {
  char* next = static_cast<char*>(to);
  while (bytes > 0) {
    const ssize_t got = ::pread(file_.get(), next, bytes, at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) refuse(concat("at byte ", at, ": ", errno_text(errno)));
    if (got == 0)
      refuse(concat("it ends before byte ", at, ", and had ", size_, " bytes when it was opened"));
    next += got;
    at += got;
    bytes -= size_t(got);
  }
}

void InputFile::refuse(const std::string& why) const {
  fail_runtime(reader_, ": cannot read ", path_, ": ", why);
}

// ---- Writing ----

AtomicFile::AtomicFile(std::string writer, std::string path)
    : writer_(std::move(writer)), path_(std::move(path)) {
  check_path(writer_, path_);
  fs::path target;
  try {
    target = follow_links(path_);
  } catch (const fs::filesystem_error& e) {
    refuse(e.code().message());
  }
  name_ = target.filename();
  if (is_temporary_name(name_)) refuse("such names are kept for temporary files, and those removed");
  const fs::path parent = target.has_parent_path() ? target.parent_path() : ".";
  folder_.reset(::opendir(parent.c_str()));
  if (!folder_) refuse_errno();

  struct stat old = {};
  const bool exists = ::fstatat(folder(), name_.c_str(), &old, 0) == 0;
  if (!exists && (errno != ENOENT || name_.empty())) refuse_errno();
  // Renaming needs no permission of the file, and would replace a device or a pipe as well.
  if (exists && !S_ISREG(old.st_mode)) refuse("it exists and is not a regular file");
  if (exists && (old.st_mode & 0222) == 0) refuse("it is read-only");  // for the superuser too
  if (exists && ::faccessat(folder(), name_.c_str(), W_OK, AT_EACCESS) != 0) refuse_errno();

  remove_abandoned();
  const mode_t mode = old.st_mode & 0777;
  create(exists ? int(mode) : 0666);
  if (exists && ::fchmod(file_.get(), mode) != 0) refuse_errno();  // whatever the umask
}

AtomicFile::~AtomicFile() {
  if (!temporary_.empty()) ::unlinkat(folder(), temporary_.c_str(), 0);
}

void AtomicFile::write(const void* bytes, size_t size) {
  const char* next = static_cast<const char*>(bytes);
  while (size > 0) {
    const ssize_t written = ::write(file_.get(), next, size);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) refuse_errno();
    next += written;
    size -= size_t(written);
  }
}

// The bytes must be on the disk before the name is: else a crash of the machine could leave an empty file.
void AtomicFile::commit() {
  if (::fsync(file_.get()) != 0) refuse_errno();
  if (::renameat(folder(), temporary_.c_str(), folder(), name_.c_str()) != 0) refuse_errno();
  temporary_.clear();
  if (::fsync(folder()) != 0 && errno != EINVAL) refuse_errno();  // EINVAL: a file system without
}

// Between its making and its locking another process may take the file for abandoned. That process then holds the
// lock, or the name is gone: the next name is tried.
void AtomicFile::create(int mode) {
  static std::atomic<uint32_t> count{0};
  while (true) {
    const std::string name = temporary_name(uint64_t(::getpid()) << 32 | count++);
    file_ = Descriptor(::openat(folder(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
    if (file_.get() < 0 && errno == EEXIST) continue;
    if (file_.get() < 0) refuse_errno();
    const bool locked = ::flock(file_.get(), LOCK_EX | LOCK_NB) == 0;
    if (!locked && errno == EWOULDBLOCK) continue;
    if (locked && !is_at(file_, folder(), name.c_str())) continue;
    temporary_ = name;
    return;
  }
}

// While this process holds the lock of a file, the name cannot come to stand for another: its writer has ended, and
// the others that clean up lack the lock.
void AtomicFile::remove_abandoned() const {
  while (const dirent* entry = ::readdir(folder_.get())) {
    const char* name = entry->d_name;
    if (!is_temporary_name(name)) continue;
    const Descriptor file(::openat(folder(), name, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (file.get() >= 0 && ::flock(file.get(), LOCK_EX | LOCK_NB) == 0 && is_at(file, folder(), name)) {
      ::unlinkat(folder(), name, 0);
    }
  }
}

void AtomicFile::refuse(const std::string& why) const {
  fail_runtime(writer_, ": cannot write ", path_, ": ", why);
}
void AtomicFile::refuse_errno() const { refuse(errno_text(errno)); }

}  // namespace altgrad::detail
