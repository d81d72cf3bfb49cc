// What TokenDataset refuses: files of other kinds, cut or with lies in their headers, bad meta.json; and mutations of
// good files, of which none may do more than throw.
#include "catch.h"
#include "errors.h"
#include "fuzz.h"
#include "token_files.h"

#include <altgrad/models/token_dataset.h>

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <random>

using namespace altgrad;
using models::TokenDataset;
namespace fs = std::filesystem;

namespace {

bool refused(const std::string& path, std::initializer_list<std::string> parts) {
  return throws([&] { TokenDataset(path, 4, 100'000); }, parts);
}

}  // namespace

TEST_CASE("TokenDataset says what is wrong with a file", "[tokens]") {
  const TokenFolder folder;
  const std::vector<uint32_t> tokens = counting(0, 1000);
  const auto with_header = [&](int32_t magic, int32_t version, int32_t count) {
    return folder.file("h.bin", llmc_header(magic, version, count) + bytes_of<uint16_t>(tokens));
  };
  for (const int32_t version : {0, 2, 7, -1}) {
    CHECK(refused(with_header(20240520, version, 1000),
                  {"h.bin", concat("version ", version), "1 can be read"}));
  }
  for (const int32_t version : {0, 1, 8, -1}) {
    CHECK(refused(with_header(20240801, version, 500),
                  {"h.bin", concat("version ", version), "7 can be read"}));
  }
  for (const int32_t count : {999, 1001, 0, -1, INT32_MAX, INT32_MIN}) {
    CHECK(refused(with_header(20240520, 1, count), {"3024 bytes", std::to_string(count), "2 bytes"}));
    CHECK(refused(with_header(20240801, 7, count), {"3024 bytes", std::to_string(count), "4 bytes"}));
  }
  CHECK(TokenDataset(with_header(20240801, 7, 500), 4, 100).size() == 500);
  for (const int32_t magic : {20240326, 20240327, 20240328, 20240522, 20240527, 20240803}) {
    CHECK(refused(with_header(magic, 1, 1000), {"h.bin", "llm.c", "not tokens"}));
  }
  const std::string whole = folder.llmc16("whole.bin", tokens);
  fs::resize_file(whole, 3023);
  CHECK(refused(whole, {"whole.bin", "3023 bytes", "1000"}));
  fs::resize_file(whole, 100);  // not even the header
  CHECK(refused(whole, {"whole.bin", "100 bytes", "1000"}));
  CHECK(refused(folder.file("h.bin", llmc_header(20240520, 1, -462).substr(0, 100)), {"100 bytes", "-462"}));

  CHECK(refused(folder.file("odd.bin", "abc"), {"odd.bin", "3 bytes", "uint16"}));
  CHECK(refused(folder.file("text.txt", "text and no tokens"), {"text.txt", ".bin", "llm.c"}));
  CHECK(refused(folder.file("empty.bin", ""), {"empty.bin has 0 tokens", "at least 5"}));
  CHECK(refused(folder.nano("four.bin", {1, 2, 3, 4}), {"four.bin has 4 tokens", "at least 5"}));
  CHECK(refused(folder / "[fe]*.bin", {"4 tokens in 2 files", "at least 5", "in one file"}));

  const auto unreadable = [](const std::string& path, std::initializer_list<std::string> parts) {
    return throws<std::runtime_error>([&] { TokenDataset(path, 4, 100); }, parts);
  };
  CHECK(unreadable(folder / "missing.bin", {"cannot read", "missing.bin", std::strerror(ENOENT)}));
  CHECK(unreadable(folder / "missing*.bin", {"no file matches", "missing*.bin"}));
  CHECK(unreadable(folder.path().string(), {std::strerror(EISDIR)}));
  CHECK(unreadable(std::string("a*\0.bin", 7), {"zero byte"}));
  if (geteuid() != 0) {
    fs::permissions(whole, fs::perms::none);
    CHECK(unreadable(whole, {whole, std::strerror(EACCES)}));
  }
}

TEST_CASE("TokenDataset refuses extreme sizes, without overflow", "[tokens]") {
  const TokenFolder folder;
  const std::string path = folder.nano("t.bin", counting(0, 1000));
  for (const int64_t block_size : {INT64_MAX, INT64_MAX - 1, int64_t(1) << 62, int64_t(1000)}) {
    CHECK(throws([&] { TokenDataset(path, block_size, 1000); }, {"t.bin", "at least "}));
  }
  for (const int64_t block_size : {int64_t(0), int64_t(-1), INT64_MIN}) {
    CHECK(throws([&] { TokenDataset(path, block_size, 1000); }, {"block_size"}));
  }
  CHECK(TokenDataset(path, 999, INT64_MAX).epoch(UINT64_MAX).size() == 1);
  const TokenDataset data(path, 4, 1000);
  Generator generator(1);
  const auto state = generator.state();
  for (const int64_t batch_size : {INT64_MAX, INT64_MAX / 4, int64_t(1) << 58, int64_t(0), INT64_MIN}) {
    CHECK(throws([&] { data.batch(batch_size, generator); }, {}));
  }
  CHECK(throws<std::runtime_error>([&] { data.batch(int64_t(1) << 55, generator); }, {"memory"}));
  CHECK(generator.state() == state);
}

TEST_CASE("TokenDataset says what is wrong with meta.json", "[tokens]") {
  const TokenFolder folder;
  const std::string path = folder.nano("t.bin", counting(0, 100));
  const auto meta_refused = [&](const std::string& text, const std::string& part) {
    write_bytes(folder / "meta.json", text);
    return throws([&] { TokenDataset(path, 4); }, {"TokenDataset", folder / "meta.json", part});
  };
  for (const char* text :
       {"", "{", "[1]", "1", "null", "{\"vocab_size\": 3} 4", "\x80", "{\"vocab_size\": 03}"}) {
    CHECK(meta_refused(text, "is not a JSON object"));
  }
  CHECK(meta_refused("{}", "has no \"vocab_size\""));
  CHECK(meta_refused("{\"vocab_size\": \"65\"}", "must be a number, is string"));
  CHECK(meta_refused("{\"vocab_size\": null}", "must be a number, is null"));
  for (const char* number :
       {"0", "-1", "65.5", "1e3", "-0.0", "9223372036854775808", "18446744073709551616"}) {
    CHECK(meta_refused(concat("{\"vocab_size\": ", number, "}"), "must be a whole number above 0, got "));
  }
  std::string nested;
  for (int i = 0; i < 1'000'000; ++i) nested += "[";
  CHECK(meta_refused("{\"vocab_size\": " + nested + std::string(nested.size(), ']') + "}", "is array"));
  write_bytes(folder / "meta.json", "");
  fs::resize_file(folder / "meta.json", uint64_t(1) << 40);
  CHECK(throws([&] { TokenDataset(path, 4); }, {"meta.json", "1099511627776 bytes"}));
  fs::remove(folder / "meta.json");
  fs::create_directory(folder / "meta.json");
  CHECK(throws<std::runtime_error>([&] { TokenDataset(path, 4); }, {"meta.json", std::strerror(EISDIR)}));
}

TEST_CASE(
    "whatever a file of tokens holds, opening it and drawing from it throws or gives tokens of the "
    "vocabulary",
    "[tokens]") {
  const TokenFolder folder;
  const int64_t mutations = fuzz_changes(100'000);
  const std::string seeds[] = {bytes_of<uint16_t>(counting(0, 64)),
                               llmc_header(20240520, 1, 64) + bytes_of<uint16_t>(counting(0, 64)),
                               llmc_header(20240801, 7, 64) + bytes_of<uint32_t>(counting(0, 64))};
  // A file in memory: some file systems flush one that is truncated, which takes milliseconds.
  const int file = ::memfd_create("altgrad", MFD_CLOEXEC);
  REQUIRE(file >= 0);
  const std::string path = folder / "t.bin";
  fs::create_symlink(concat("/proc/self/fd/", file), path);
  std::mt19937 random(1);
  const auto below = [&](size_t n) { return size_t(random()) % n; };
  int opened = 0, drawn = 0;
  for (int64_t i = 0; i < mutations; ++i) {
    std::string bytes = seeds[below(3)];
    // Bits, bytes and numbers, most of them where a header is; and the end.
    for (size_t changes = 1 + below(3); changes > 0 && !bytes.empty(); --changes) {
      const size_t at = below(2) ? below(std::min<size_t>(bytes.size(), 12)) : below(bytes.size());
      const int32_t numbers[] = {20240520, 20240801, 20240328, INT32_MAX, INT32_MIN, -1, 0, 1, 7, 63, 65};
      switch (below(5)) {
        case 0: bytes[at] = char(bytes[at] ^ (1 << below(8))); break;
        case 1: bytes[at] = char(below(256)); break;
        case 2: {
          const int32_t number = numbers[below(std::size(numbers))];
          const size_t word = at / 4 * 4;
          std::memcpy(bytes.data() + word, &number, std::min<size_t>(4, bytes.size() - word));
          break;
        }
        case 3: bytes.resize(below(bytes.size() + 1)); break;
        default: bytes.append(below(9), char(below(256)));
      }
    }
    REQUIRE(::ftruncate(file, off_t(bytes.size())) == 0);
    REQUIRE(::pwrite(file, bytes.data(), bytes.size(), 0) == ssize_t(bytes.size()));
    const int64_t block_size = 1 + int64_t(below(9));
    try {
      const TokenDataset data(path, block_size, 64);
      ++opened;
      Generator generator(random());
      const auto [x, y] = below(2) ? data.batch(2, generator) : data.epoch(1).batch(0, 1);
      for (const Tensor& ids : {x, y}) {
        REQUIRE(std::ranges::all_of(ids.data<int64_t>(), [](int64_t id) { return id >= 0 && id < 64; }));
      }
      ++drawn;
    } catch (const std::invalid_argument&) {
    } catch (const std::runtime_error&) {
    }
  }
  ::close(file);
  CHECK(opened > mutations / 10);
  CHECK(drawn > mutations / 20);
  CHECK(opened < mutations);
}
