// Reading and writing files that resist: wrong paths, a full disk, a kill in the middle.
#include "catch.h"
#include "errors.h"
#include "temp_folder.h"
#include "values.h"

#include <altgrad/nn/safetensors.h>

#include <dlfcn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <functional>
#include <random>
#include <thread>

using namespace altgrad;

namespace {

// Runs f in a child process and gives the exit status it returns.
int in_child(const std::function<int()>& f) {
  const pid_t child = ::fork();
  if (child == 0) {
    int status = 99;
    try {
      status = f();
    } catch (...) {
    }
    ::_exit(status);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// Before the n-th read from now on the file at `path` is cut to `size` bytes, as another program may.
struct Cut {
  std::string path;
  off_t size = 0;
  int reads_before = -1;
} cut;

}  // namespace

// The program's own definition comes before the system's, for the library too.
extern "C" ssize_t pread(int fd, void* to, size_t bytes, off_t at) {
  if (cut.reads_before >= 0 && cut.reads_before-- == 0) REQUIRE(::truncate(cut.path.c_str(), cut.size) == 0);
  return reinterpret_cast<ssize_t (*)(int, void*, size_t, off_t)>(::dlsym(RTLD_NEXT, "pread"))(fd, to, bytes,
                                                                                               at);
}

TEST_CASE("a file that is cut short while it is read is an error, not a signal", "[safetensors]") {
  const TempFolder folder;
  const std::string path = folder / "x";
  const Tensor half = Tensor::ones({100'000}, {.dtype = DType::u8});
  int refused = 0;
  for (const off_t size : {0, 4, 20, 200, 300'000}) {
    for (int reads = 0; reads < 4; ++reads) {
      save_safetensors(path, {{"f32", Tensor::ones({100'000})}, {"u8", half}});
      cut = {path, size, reads};
      Metadata metadata{{"kept", "as it was"}};
      try {
        load_safetensors(path, &metadata);
        CHECK(cut.reads_before > -2);
      } catch (const std::runtime_error& e) {
        INFO(e.what());
        ++refused;
        CHECK(std::string(e.what()).starts_with("load_safetensors: cannot read " + path +
                                                ": it ends before byte "));
        CHECK(metadata == Metadata{{"kept", "as it was"}});
      }
      cut = {};
    }
  }
  CHECK(refused == 20);
}

TEST_CASE("a path that cannot be read is an error with the system's reason", "[safetensors]") {
  const TempFolder folder;
  const auto load = [](const std::string& path) { return [path] { load_safetensors(path); }; };
  CHECK(throws<std::runtime_error>(load(folder / "nowhere"),
                                   {folder / "nowhere", "No such file or directory"}));
  CHECK(throws<std::runtime_error>(load(folder.path()), {folder.path(), "Is a directory"}));
  CHECK(throws<std::runtime_error>(load("/dev/null"), {"/dev/null"}));
  CHECK(throws<std::runtime_error>(load(""), {"No such file or directory"}));
}

TEST_CASE("what cannot be written is refused and leaves no file", "[safetensors]") {
  const TempFolder folder;
  const auto save = [&](const StateDict& t, const Metadata& m = {}) {
    return [=, &folder] { save_safetensors(folder / "x", t, m); };
  };
  CHECK(throws(save({{"w", Tensor()}}), {"save_safetensors", "\"w\"", "undefined"}));
  CHECK(throws(save({{"__metadata__", Tensor::zeros({1})}}), {"__metadata__", "reserved"}));
  CHECK(throws(save({{"\xFF", Tensor::zeros({1})}}), {"save_safetensors", "UTF-8"}));
  CHECK(throws(save({}, {{"k", "\xC3"}}), {"save_safetensors", "UTF-8"}));
  CHECK(folder.num_files() == 0);
}

TEST_CASE("a failed write says why and leaves the old file and nothing else", "[safetensors]") {
  const TempFolder folder;
  const StateDict t = {{"w", Tensor::ones({2000})}};
  const auto save = [&](const std::string& path) { return [&t, path] { save_safetensors(path, t); }; };
  SECTION("no such folder") {
    CHECK(throws<std::runtime_error>(save(folder / "no/x"),
                                     {"save_safetensors", folder / "no/x", "No such file or directory"}));
  }
  SECTION("the target is a folder") {
    std::filesystem::create_directory(folder / "sub");
    CHECK(throws<std::runtime_error>(save(folder / "sub"), {folder / "sub", "not a regular file"}));
    CHECK(folder.num_files() == 1);
    CHECK(std::filesystem::is_empty(folder / "sub"));
  }
  SECTION("the target is a device, which a rename would replace") {
    CHECK(throws<std::runtime_error>(save("/dev/null"), {"/dev/null", "not a regular file"}));
  }
  SECTION("the folder is a file") {
    write_bytes(folder / "file", "text");
    CHECK(throws<std::runtime_error>(save(folder / "file/x"), {"save_safetensors", folder / "file/x"}));
    CHECK(read_bytes(folder / "file") == "text");
  }
  SECTION("an empty path") { CHECK(throws<std::runtime_error>(save(""), {"save_safetensors"})); }
  SECTION("the disk is full") {  // as good as: a limit on the size of files
    write_bytes(folder / "x", "old");
    const int status = in_child([&] {
      ::signal(SIGXFSZ, SIG_IGN);
      const rlimit limit{4096, 4096};
      ::setrlimit(RLIMIT_FSIZE, &limit);
      try {
        save_safetensors(folder / "x", t);
      } catch (const std::runtime_error& e) {
        return std::string(e.what()).find("File too large") != std::string::npos ? 0 : 2;
      }
      return 1;
    });
    CHECK(status == 0);
    CHECK(read_bytes(folder / "x") == "old");
    CHECK(folder.num_files() == 1);
  }
}

TEST_CASE("saving through a symbolic link replaces the file it points to", "[safetensors]") {
  const TempFolder folder;
  write_bytes(folder / "file", "old");
  std::filesystem::create_symlink("file", folder / "link");
  save_safetensors(folder / "link", {{"w", Tensor::ones({1})}});
  CHECK(std::filesystem::is_symlink(folder / "link"));
  CHECK(load_safetensors(folder / "file").size() == 1);
}

TEST_CASE("a path without a folder is written to the current one", "[safetensors]") {
  const TempFolder folder;
  const int status = in_child([&] {
    std::filesystem::current_path(folder.path());
    save_safetensors("x", {{"w", Tensor::ones({1})}});
    return int(load_safetensors("x").size());
  });
  CHECK(status == 1);
  CHECK(load_safetensors(folder / "x").size() == 1);
}

// The children only write tensors that were made before the fork.
TEST_CASE("a kill at any moment of a save leaves the old file or the new one", "[safetensors]") {
  const TempFolder folder;
  const std::string path = folder / "model.safetensors";
  const StateDict versions[2] = {{{"w", Tensor::full({300'000}, 1)}, {"b", Tensor::full({3}, 1)}},
                                 {{"w", Tensor::full({300'000}, 2)}, {"b", Tensor::full({3}, 2)}}};
  save_safetensors(path, versions[0], {{"version", "0"}});
  std::mt19937 random(1);
  int unfinished = 0;
  for (int kill = 0; kill < 30; ++kill) {
    int started[2];
    REQUIRE(::pipe(started) == 0);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      if (::write(started[1], "x", 1) != 1) ::_exit(1);
      try {
        for (int i = kill + 1;; ++i)
          save_safetensors(path, versions[i % 2], {{"version", std::to_string(i % 2)}});
      } catch (...) {
        ::_exit(1);
      }
    }
    ::close(started[1]);
    char byte;
    REQUIRE(::read(started[0], &byte, 1) == 1);
    ::close(started[0]);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 20'000));
    ::kill(child, SIGKILL);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));  // it was still saving
    unfinished += folder.num_files() > 1;

    Metadata metadata;
    const StateDict loaded = load_safetensors(path, &metadata);
    const StateDict& expected = versions[metadata.at("version") == "1"];
    REQUIRE(loaded.size() == 2);
    for (const auto& [name, tensor] : expected) REQUIRE(same_bits(tensor, loaded.at(name)));
  }
  CHECK(unfinished > 0);  // some kills did hit the middle of a save
  save_safetensors(path, versions[0]);
  CHECK(folder.num_files() == 1);  // and the next save removes what they left
}
