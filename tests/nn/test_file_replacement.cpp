// How a saved file takes the place of the one before: its mode, links, long names, what killed processes left, and
// the order of calls that makes it survive a crash of the machine.
#include "catch.h"
#include "errors.h"
#include "temp_folder.h"

#include <altgrad/nn/safetensors.h>

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <thread>
#include <vector>

using namespace altgrad;
namespace fs = std::filesystem;

namespace {

const StateDict one = {{"w", Tensor::ones({1000})}};

// What the library asks of the system, in order, while `on`; `no_locks`: as on a file system that has none.
struct Calls {
  bool on = false, no_locks = false;
  struct Call {
    enum { sync, rename } what;
    ino_t inode;  // of the file that is synced; of what lies at the new name after the renaming
    off_t size;
    bool folder;
  };
  std::vector<Call> made = {};
} calls;

Calls::Call call_on(int fd, decltype(Calls::Call::what) what) {
  struct stat info = {};
  ::fstat(fd, &info);
  return {what, info.st_ino, info.st_size, S_ISDIR(info.st_mode)};
}
void record_rename(int folder, const char* to) {
  struct stat info = {};
  ::fstatat(folder, to, &info, 0);
  calls.made.push_back({Calls::Call::rename, info.st_ino, info.st_size, false});
}
template <class F>
F real(const char* name) {
  return reinterpret_cast<F>(::dlsym(RTLD_NEXT, name));
}

mode_t mode_of(const std::string& path) {
  struct stat info = {};
  REQUIRE(::stat(path.c_str(), &info) == 0);
  return info.st_mode & 07777;
}

// A file that the process keeps open, and locked where asked.
struct OpenFile {
  int fd;
  explicit OpenFile(const std::string& path, bool locked = false)
      : fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666)) {
    REQUIRE(fd >= 0);
    if (locked) REQUIRE(::flock(fd, LOCK_EX | LOCK_NB) == 0);
  }
  ~OpenFile() { ::close(fd); }
};

}  // namespace

// The program's own definitions come before the system's, for the library too.
extern "C" int fsync(int fd) {
  if (calls.on) calls.made.push_back(call_on(fd, Calls::Call::sync));
  return real<int (*)(int)>("fsync")(fd);
}
extern "C" int rename(const char* from, const char* to) noexcept {
  const int result = real<int (*)(const char*, const char*)>("rename")(from, to);
  if (calls.on) record_rename(AT_FDCWD, to);
  return result;
}
extern "C" int renameat(int from_folder, const char* from, int to_folder, const char* to) noexcept {
  const int result =
      real<int (*)(int, const char*, int, const char*)>("renameat")(from_folder, from, to_folder, to);
  if (calls.on) record_rename(to_folder, to);
  return result;
}
extern "C" int flock(int fd, int operation) noexcept {
  if (calls.no_locks) return errno = ENOLCK, -1;
  return real<int (*)(int, int)>("flock")(fd, operation);
}

TEST_CASE("all bytes are on the disk before the name, and the name before saving returns", "[safetensors]") {
  const TempFolder folder;
  const std::string path = folder / "x";
  for (const bool replaces : {false, true}) {
    INFO((replaces ? "over an old file" : "a new file"));
    calls = {.on = true};
    save_safetensors(path, one);
    calls.on = false;
    struct stat file = {}, directory = {};
    REQUIRE(::stat(path.c_str(), &file) == 0);
    REQUIRE(::stat(folder.path().c_str(), &directory) == 0);
    REQUIRE(calls.made.size() == 3);
    CHECK(calls.made[0].what == Calls::Call::sync);
    CHECK(calls.made[0].inode == file.st_ino);
    CHECK(calls.made[0].size == file.st_size);
    CHECK(calls.made[1].what == Calls::Call::rename);
    CHECK(calls.made[1].inode == file.st_ino);
    CHECK(calls.made[2].what == Calls::Call::sync);
    CHECK(calls.made[2].folder);
    CHECK(calls.made[2].inode == directory.st_ino);
  }
}

TEST_CASE("saving again keeps the file's mode", "[safetensors]") {
  const TempFolder folder;
  const std::string path = folder / "x";
  const mode_t old_mask = ::umask(022);
  save_safetensors(path, one);
  CHECK(mode_of(path) == 0644);  // as any program makes a file
  for (const mode_t mode : {0600, 0640, 0664, 0666, 0777}) {
    REQUIRE(::chmod(path.c_str(), mode) == 0);
    save_safetensors(path, one);
    CHECK(mode_of(path) == mode);
  }
  REQUIRE(::chmod(path.c_str(), 04711) ==
          0);  // not what a file does in its owner's name: the new owner is another
  save_safetensors(path, one);
  CHECK(mode_of(path) == 0711);
  ::umask(old_mask);
}

TEST_CASE("a read-only file is not replaced", "[safetensors]") {
  const TempFolder folder;
  const std::string path = folder / "x";
  write_bytes(path, "old");
  REQUIRE(::chmod(path.c_str(), 0444) == 0);
  CHECK(throws<std::runtime_error>([&] { save_safetensors(path, one); },
                                   {"save_safetensors", path, "read-only"}));
  fs::create_symlink("x", folder / "link");
  CHECK(throws<std::runtime_error>([&] { save_safetensors(folder / "link", one); },
                                   {folder / "link", "read-only"}));
  CHECK(read_bytes(path) == "old");
  CHECK(folder.num_files() == 2);
}

TEST_CASE("saving follows links, to a file that is not there yet too", "[safetensors]") {
  const TempFolder folder, other;
  fs::create_directory(other / "sub");
  fs::create_symlink(other / "sub/file", folder / "first");  // to another folder
  fs::create_symlink("first", folder / "second");            // to a link, by a relative path
  save_safetensors(folder / "second", one);
  CHECK(fs::is_symlink(folder / "second"));
  CHECK(fs::is_symlink(folder / "first"));
  CHECK(load_safetensors(other / "sub/file").size() == 1);
  CHECK(folder.num_files() == 2);

  fs::create_symlink("../file", other / "sub/up");  // relative to the link's folder
  save_safetensors(other / "sub/up", one);
  CHECK(load_safetensors(other / "file").size() == 1);

  fs::create_symlink("nowhere/file", folder / "lost");
  CHECK(throws<std::runtime_error>([&] { save_safetensors(folder / "lost", one); },
                                   {folder / "lost", "No such file or directory"}));
  fs::create_symlink("circle", folder / "circle");
  CHECK(throws<std::runtime_error>([&] { save_safetensors(folder / "circle", one); }, {"symbolic links"}));
  CHECK(folder.num_files() == 4);
}

TEST_CASE("a name may be as long as the file system takes", "[safetensors]") {
  const TempFolder folder;
  for (const size_t length : {250, 255}) {
    save_safetensors(folder / std::string(length, 'x'), one);
    CHECK(load_safetensors(folder / std::string(length, 'x')).size() == 1);
  }
  CHECK(throws<std::runtime_error>([&] { save_safetensors(folder / std::string(256, 'x'), one); },
                                   {"too long"}));
  CHECK(folder.num_files() == 2);
}

TEST_CASE("what killed processes left is removed, what others hold or users named is not", "[safetensors]") {
  const TempFolder folder;
  const std::vector<std::string> users = {"x.tmp-20240101-best",
                                          "x.tmp-999999-0",
                                          ".altgrad-tmp-",
                                          ".altgrad-tmp-best",
                                          ".altgrad-tmp-00000001000",
                                          ".altgrad-tmp-000000010000000g",
                                          "x.altgrad-tmp-0000000100000000",
                                          ".altgrad-tmp-0000000100000000.bak",
                                          ".ALTGRAD-TMP-0000000100000000"};
  for (const std::string& name : users) write_bytes(folder / name, "kept");
  const std::string abandoned = folder / ".altgrad-tmp-0000000100000000",
                    living = folder / ".altgrad-tmp-000000010000000f";
  write_bytes(abandoned, "half a file");
  fs::create_directory(folder / ".altgrad-tmp-000000010000000a");  // no file of ours
  fs::create_symlink(users[0], folder / ".altgrad-tmp-000000010000000b");
  const OpenFile writer(living, true);  // as a process in another container, whose number says nothing here

  save_safetensors(folder / "x", one);
  CHECK_FALSE(fs::exists(abandoned));
  CHECK(fs::exists(living));
  CHECK(fs::is_directory(folder / ".altgrad-tmp-000000010000000a"));
  CHECK(fs::is_symlink(folder / ".altgrad-tmp-000000010000000b"));
  for (const std::string& name : users) CHECK(read_bytes(folder / name) == "kept");
  CHECK(folder.num_files() == users.size() + 4);
}

TEST_CASE("a file is not saved under a name that the next save would remove", "[safetensors]") {
  const TempFolder folder;
  CHECK(throws<std::runtime_error>([&] { save_safetensors(folder / ".altgrad-tmp-0123456789abcdef", {}); },
                                   {"save_safetensors", ".altgrad-tmp-0123456789abcdef", "temporary"}));
}

TEST_CASE("a path with a zero byte is refused, not cut there", "[safetensors]") {
  const TempFolder folder;
  const std::string path = folder / std::string("ab\0cd", 5);
  CHECK(throws<std::runtime_error>([&] { save_safetensors(path, {}); }, {"save_safetensors", "zero byte"}));
  CHECK(throws<std::runtime_error>([&] { load_safetensors(path); }, {"load_safetensors", "zero byte"}));
  CHECK(folder.num_files() == 0);
}

TEST_CASE("a file is saved where there are no locks, and nothing is taken for left behind", "[safetensors]") {
  const TempFolder folder;
  const std::string unknown = folder / ".altgrad-tmp-0000000100000000";
  write_bytes(unknown, "");
  calls = {.no_locks = true};
  save_safetensors(folder / "x", one);
  calls = {};
  CHECK(load_safetensors(folder / "x").size() == 1);
  CHECK(fs::exists(unknown));
  CHECK(folder.num_files() == 2);
}

// Each of them removes what it finds without a lock, while the others make, lock and rename theirs.
TEST_CASE("any number of writers share a folder", "[safetensors]") {
  const TempFolder folder;
  constexpr int writers = 8, files = 50;
  std::atomic<int> failed{0};
  std::vector<std::thread> threads;
  for (int writer = 0; writer < writers; ++writer) {
    threads.emplace_back([&, writer] {
      try {
        for (int i = 0; i < files; ++i) save_safetensors(folder / std::to_string(writer * files + i), one);
      } catch (const std::exception&) {
        ++failed;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(failed == 0);
  CHECK(folder.num_files() == writers * files);
}
