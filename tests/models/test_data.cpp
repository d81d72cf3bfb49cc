// CharDataset on files made here: vocabulary, splits, batches, both kinds of file, and every error.
#include "catch.h"
#include "errors.h"

#include <altgrad/models/data.h>

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

using namespace altgrad;
using models::CharDataset;
namespace fs = std::filesystem;

namespace {

// A folder that is removed with all that is in it.
struct Folder {
  fs::path path = fs::temp_directory_path() / ("altgrad_test_data_" + std::to_string(getpid()));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
  std::string file(const std::string& name, const std::string& bytes) const {
    std::ofstream(path / name, std::ios::binary) << bytes;
    return (path / name).string();
  }
  std::string tokens(const std::string& name, const std::vector<uint16_t>& values) const {
    return file(name, std::string(reinterpret_cast<const char*>(values.data()), 2 * values.size()));
  }
};

std::vector<int64_t> ids(const Tensor& x) { return {x.data<int64_t>().begin(), x.data<int64_t>().end()}; }

}  // namespace

TEST_CASE("the tokens of a text are its distinct bytes in order", "[data]") {
  const Folder folder;
  const CharDataset data(folder.file("text.txt", "hello world\nhello there\n"), 2);
  CHECK(data.vocab_size() == 10);  // newline, space, d e h l o r t w
  CHECK(ids(data.encode("\n dehlortw")) == std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
  CHECK(data.encode("").shape() == Shape{0});
  CHECK(data.decode(data.encode("hello there")) == "hello there");
  CHECK(data.decode(Tensor::from({4, 3, 5, 5}, {2, 2})) == "hell");
}

TEST_CASE("any bytes make a text", "[data]") {
  const Folder folder;
  std::string bytes;
  for (int i = 0; i < 1024; ++i) bytes += char(i * 7);
  const CharDataset data(folder.file("bytes", bytes), 4);
  CHECK(data.vocab_size() == 256);
  CHECK(data.decode(data.encode(bytes)) == bytes);
  CHECK(ids(data.encode(bytes))[1] == 7);
  CHECK(data.vocab_size() == data.encode(std::string(1, '\xff')).item<int64_t>() + 1);

  const std::string utf8 = "na\xc3\xafve \xe2\x82\xac";
  const CharDataset text(folder.file("utf8.txt", utf8 + utf8 + utf8), 1);
  CHECK(text.decode(text.encode(utf8)) == utf8);
}

TEST_CASE("the first part of a file trains, the last validates, and batches stay within their part",
          "[data]") {
  const Folder folder;
  std::vector<uint16_t> counting(100);
  for (size_t i = 0; i < counting.size(); ++i) counting[i] = uint16_t(i);
  const CharDataset data(folder.tokens("counting.bin", counting), 4, 0.1);
  CHECK(data.size("train") == 90);
  CHECK(data.size("val") == 10);
  CHECK(data.block_size() == 4);

  // Token i is the number i, so that each window says where it is from.
  for (const auto& [split, first, last] : {std::tuple{"train", 0, 89}, std::tuple{"val", 90, 99}}) {
    std::set<int64_t> starts;
    for (int draw = 0; draw < 100; ++draw) {
      const auto [x, y] = data.batch(split, 8);
      REQUIRE(x.shape() == Shape{8, 4});
      REQUIRE(y.shape() == Shape{8, 4});
      for (size_t i = 0; i < 32; ++i) {
        REQUIRE(y.data<int64_t>()[i] == x.data<int64_t>()[i] + 1);
        REQUIRE(x.data<int64_t>()[i] == x.data<int64_t>()[i / 4 * 4] + int64_t(i % 4));
      }
      for (size_t row = 0; row < 8; ++row) starts.insert(x.data<int64_t>()[4 * row]);
    }
    // Every window of the part, none beyond it.
    CHECK(*starts.begin() == first);
    CHECK(*starts.rbegin() == last - 4);
    CHECK(int(starts.size()) == last - 4 - first + 1);
  }
}

TEST_CASE("a batch is a function of the generator's state", "[data]") {
  const Folder folder;
  std::string text;
  for (int i = 0; i < 500; ++i) text += char('a' + i * i % 23);
  const CharDataset data(folder.file("text.txt", text), 8);
  Generator a(1), b(1), c(2);
  for (int i = 0; i < 3; ++i) {
    const auto state = default_generator().state();
    const auto [xa, ya] = data.batch("train", 4, a);
    const auto [xb, yb] = data.batch("train", 4, b);
    const auto [xc, yc] = data.batch("train", 4, c);
    CHECK(ids(xa) == ids(xb));
    CHECK(ids(ya) == ids(yb));
    CHECK(ids(xa) != ids(xc));
    CHECK(default_generator().state() == state);
  }
  const auto before = a.state();
  const auto first = ids(data.batch("train", 4, a).first);
  CHECK(ids(data.batch("train", 4, a).first) != first);
  a.set_state(before);
  CHECK(ids(data.batch("train", 4, a).first) == first);
  manual_seed(5);
  const auto drawn = ids(data.batch("val", 4).first);
  manual_seed(5);
  CHECK(ids(data.batch("val", 4).first) == drawn);
}

TEST_CASE("a .bin file holds uint16 tokens", "[data]") {
  const Folder folder;
  std::vector<uint16_t> tokens;
  for (int i = 0; i < 64; ++i) tokens.push_back(uint16_t(i % 2 ? 50256 : 65535 - i));
  const std::string path = folder.tokens("train.bin", tokens);
  const CharDataset data(path, 4);
  CHECK(data.vocab_size() == 65536);
  CHECK(data.size("train") + data.size("val") == 64);
  const CharDataset copy = data;  // shares the open file
  fs::remove(path);               // which outlives its name
  const auto [x, y] = copy.batch("train", 16);
  for (const int64_t id : x.data<int64_t>()) CHECK((id == 50256 || id > 65535 - 64));
  CHECK(data.decode(Tensor::from({1, 50256, 65535}, {3})) == "1 50256 65535");
  CharDataset source = data;
  const CharDataset taken = std::move(source);
  CHECK(throws([&] { source.batch("train", 1); }, {"CharDataset", "moved from"}));
  CHECK(throws([&] { data.encode("a"); }, {"encode", "tokens"}));
  CHECK(throws([&] { CharDataset(folder.file("odd.bin", "abc"), 1, 0); }, {"odd.bin", "3 bytes", "uint16"}));
}

TEST_CASE("an llm.c file of tokens is read behind its header", "[data]") {
  const Folder folder;
  // 256 int32, then the tokens 0, 1, ...; as dev/data/data_common.py of llm.c writes them.
  const auto llm_c = [&](const std::string& name, int32_t magic, int32_t version, int32_t count,
                         size_t tokens) {
    std::vector<int32_t> header(256);
    header[0] = magic, header[1] = version, header[2] = count;
    std::string bytes(reinterpret_cast<const char*>(header.data()), 1024);
    for (size_t i = 0; i < tokens; ++i) bytes += {char(i & 255), char(i >> 8)};
    return folder.file(name, bytes);
  };
  const CharDataset data(llm_c("good.bin", 20240520, 1, 1000, 1000), 4, 0.1);
  CHECK(data.vocab_size() == 1000);
  CHECK(data.size("train") == 900);
  CHECK(data.size("val") == 100);
  std::set<int64_t> seen;
  for (int draw = 0; draw < 100; ++draw) {
    const auto [x, y] = data.batch("val", 8);
    for (size_t i = 0; i < 32; ++i) REQUIRE(y.data<int64_t>()[i] == x.data<int64_t>()[i] + 1);
    seen.insert(x.data<int64_t>().begin(), x.data<int64_t>().end());
  }
  CHECK(*seen.begin() == 900);
  CHECK(*seen.rbegin() == 998);

  const auto refused = [&](const std::string& path, std::initializer_list<std::string> parts) {
    return throws([&] { CharDataset(path, 4, 0.1); }, parts);
  };
  for (const int32_t version : {0, 2, 7, -1}) {
    CHECK(refused(llm_c("version.bin", 20240520, version, 1000, 1000),
                  {"CharDataset", "version.bin", "version " + std::to_string(version), "llm.c"}));
  }
  for (const int32_t count : {999, 1001, 0, -1, INT32_MAX, INT32_MIN}) {
    CHECK(refused(llm_c("count.bin", 20240520, 1, count, 1000),
                  {"count.bin", "3024 bytes", std::to_string(count)}));
  }
  // Its name does not matter: no text begins so.
  for (const char* name : {"h.BIN", "h.bin.tmp", "tokens"}) {
    CHECK(CharDataset(llm_c(name, 20240520, 1, 1000, 1000), 4, 0.1).vocab_size() == 1000);
    CHECK(refused(llm_c(name, 20240328, 2, 1000, 1000), {name, "a tokenizer of llm.c"}));
  }
  const std::string whole = llm_c("whole.bin", 20240520, 1, 1000, 1000);
  fs::resize_file(whole, 3023);
  CHECK(refused(whole, {"whole.bin", "3023 bytes", "1000"}));
  fs::resize_file(whole, 100);  // not even the header
  CHECK(refused(whole, {"whole.bin", "100 bytes", "1000"}));
  CHECK(refused(llm_c("short.bin", 20240520, 1, 10, 10), {"short.bin", "20 bytes of tokens", "at least"}));
  for (const int32_t magic : {20240326, 20240327, 20240328, 20240522, 20240527, 20240801, 20240803}) {
    CHECK(refused(llm_c("other.bin", magic, magic == 20240801 ? 7 : 1, 500, 1000),
                  {"other.bin", "llm.c", "uint16"}));
  }
}

TEST_CASE("a .bin file that is cut or written anew is no signal", "[data]") {
  const Folder folder;
  const std::string path = folder.tokens("t.bin", std::vector<uint16_t>(100'000, 7));
  const CharDataset data(path, 64, 0.1);
  std::ofstream(path, std::ios::binary) << "short";
  for (int i = 0; i < 100; ++i) {
    for (const int64_t id : ids(data.batch("train", 4).first)) REQUIRE(id == 7);
  }
}

TEST_CASE("a large .bin file is read as batches ask for it, and an error where it was cut or written anew",
          "[data]") {
  const Folder folder;
  const std::string path = (folder.path / "large.bin").string();
  // Zeros, and at the end the numbers from 1 on. llm.c's header is before them, or none.
  constexpr int64_t count = (int64_t(1) << 25) + 10'000, counted = 3000;
  for (const int64_t header_size : {0, 1024}) {
    const auto write = [&](uint16_t first) {
      fs::remove(path);
      std::ofstream file(path, std::ios::binary);
      const int32_t header[] = {20240520, 1, int32_t(count)};
      if (header_size) file.write(reinterpret_cast<const char*>(header), sizeof header);
      std::vector<uint16_t> numbers(counted);
      for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = uint16_t(first + i);
      file.seekp(header_size + 2 * (count - counted));
      file.write(reinterpret_cast<const char*>(numbers.data()), 2 * counted);
    };
    write(1);
    const CharDataset data(path, 64, 1000.0 / double(count));
    CHECK(data.vocab_size() == counted + 1);
    CHECK(data.size("train") + data.size("val") == count);
    const CharDataset copy = data;
    const auto batches = [&] {
      std::set<int64_t> seen;
      for (int i = 0; i < 50; ++i) {
        const auto [x, y] = copy.batch("val", 4);
        for (size_t j = 0; j < 256; ++j) REQUIRE(y.data<int64_t>()[j] == x.data<int64_t>()[j] + 1);
        seen.insert(x.data<int64_t>().begin(), x.data<int64_t>().end());
      }
      CHECK(*seen.begin() > counted - 1002);
      CHECK(*seen.rbegin() <= counted);
    };
    batches();
    for (const int64_t id : ids(data.batch("train", 4).second)) CHECK(id <= counted);

    // In place, as another program does.
    std::fstream(path, std::ios::binary | std::ios::in | std::ios::out)
            .seekp(header_size + 2 * (count - counted))
        << std::string(2 * counted, '\xFF');
    CHECK(throws<std::runtime_error>(batches, {"CharDataset", path, "token 65535", "above 3000"}));
    fs::resize_file(path, 5);
    CHECK(throws<std::runtime_error>(batches, {"CharDataset", path, "ends before byte ",
                                               "had " + std::to_string(header_size + 2 * count) + " bytes"}));
  }
}

TEST_CASE("extreme sizes are refused, without overflow", "[data]") {
  const Folder folder;
  for (const std::string name : {"text", "tokens.bin"}) {
    const std::string path = folder.file(name, std::string(1000, 'a'));
    for (const int64_t block_size : {INT64_MAX, INT64_MAX - 1, INT64_MAX / 2, int64_t(1) << 62}) {
      for (const double val_fraction : {0.0, 5e-324, 1e-300, 0.1, 0.5, 1 - 0x1p-53}) {
        CHECK(throws([&] { CharDataset(path, block_size, val_fraction); }, {name, "at least "}));
      }
    }
    CHECK(throws([&] { CharDataset(path, INT64_MIN, 0.1); }, {"block_size"}));
    const CharDataset data(path, 4);
    Generator generator(1);
    const auto state = generator.state();
    for (const int64_t batch_size :
         {INT64_MAX, INT64_MAX / 4, int64_t(1) << 58, int64_t(0), int64_t(-1), INT64_MIN}) {
      CHECK(throws([&] { data.batch("train", batch_size, generator); }, {}));
    }
    CHECK(throws<std::runtime_error>([&] { data.batch("train", int64_t(1) << 55, generator); }, {"memory"}));
    CHECK(generator.state() == state);
  }
}

TEST_CASE("a file that is too short is refused with the size that would do", "[data]") {
  const Folder folder;
  for (const std::string name : {"text", "tokens.bin"}) {
    const size_t width = name == "text" ? 1 : 2;
    for (const double val_fraction : {0.0, 0.1, 0.5, 1 / 3.0, 0.9, 0.97}) {
      for (const int64_t block_size : {1, 7, 64}) {
        // What the error asks for is enough, and a token less is not.
        std::string message;
        try {
          CharDataset(folder.file(name, std::string(width, 'a')), block_size, val_fraction);
        } catch (const std::invalid_argument& e) {
          message = e.what();
        }
        INFO(message);
        const size_t at = message.find("at least ");
        REQUIRE(at != std::string::npos);
        const size_t needed = std::stoul(message.substr(at + 9));
        const CharDataset enough(folder.file(name, std::string(needed, 'a')), block_size, val_fraction);
        CHECK(enough.batch("train", 1).first.size(1) == block_size);
        if (val_fraction > 0) CHECK(enough.batch("val", 1).first.size(1) == block_size);
        const std::string shorter = folder.file(name, std::string(needed - width, 'a'));
        CHECK(throws([&] { CharDataset(shorter, block_size, val_fraction); },
                     {shorter, std::to_string(needed - width) + " bytes", std::to_string(needed)}));
      }
    }
  }
  CHECK(
      throws([&] { CharDataset(folder.file("empty", ""), 64, 0.1); }, {"empty", "0 bytes", "at least 641"}));
  CHECK(throws([&] { CharDataset(folder.file("empty.bin", ""), 64, 0.1); }, {"0 bytes", "at least 1282"}));
  CHECK(throws([&] { CharDataset(folder.file("text", "abc"), 64, 1e-300); }, {"text", "3 bytes"}));
}

TEST_CASE("CharDataset says so where a file may not be read", "[data]") {
  if (geteuid() == 0) SKIP_TEST("root may read everything");
  const Folder folder;
  const std::string path = folder.file("text.txt", "some text, long enough for this");
  fs::permissions(path, fs::perms::none);
  CHECK(throws<std::runtime_error>([&] { CharDataset(path, 2); }, {path, std::strerror(EACCES)}));
}

TEST_CASE("CharDataset says what is wrong with its arguments", "[data]") {
  const Folder folder;
  const std::string path = folder.file("text.txt", "some text, long enough for this");
  const std::string missing = (folder.path / "missing").string();
  CHECK(throws<std::runtime_error>([&] { CharDataset(missing, 2); }, {missing, std::strerror(ENOENT)}));
  CHECK(throws<std::runtime_error>([&] { CharDataset(folder.path.string(), 2); }, {std::strerror(EISDIR)}));
  CHECK(throws([&] { CharDataset(path, 0); }, {"block_size", "0"}));
  for (const double fraction : {-0.1, 1.0, 1.5, double(NAN)}) {
    CHECK(throws([&] { CharDataset(path, 2, fraction); }, {"val_fraction", "[0, 1)"}));
  }

  const CharDataset data(path, 2), no_val(path, 2, 0);
  CHECK(throws([&] { data.batch("test", 1); }, {"test", "train", "val"}));
  CHECK(throws([&] { data.size(""); }, {"train", "val"}));
  CHECK(throws([&] { data.batch("train", 0); }, {"batch_size", "0"}));
  CHECK(no_val.size("val") == 0);
  CHECK(throws([&] { no_val.batch("val", 1); }, {"val", "empty"}));
  CHECK(throws([&] { data.encode("soz"); }, {"encode", "byte 122 at 2"}));
  CHECK(throws([&] { data.decode(Tensor::from({0, 99}, {2})); }, {"decode", "99"}));
  CHECK(throws([&] { data.decode(Tensor::from({-1}, {1})); }, {"decode", "-1"}));
  CHECK(throws([&] { data.decode(Tensor::zeros({1})); }, {"f32"}));
}
