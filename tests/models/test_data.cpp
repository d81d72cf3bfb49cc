// CharDataset on files made here: vocabulary, splits, batches, and every error.
#include "catch.h"
#include "errors.h"
#include "temp_folder.h"

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

struct Folder : TempFolder {
  std::string file(const std::string& name, const std::string& bytes) const {
    write_bytes(*this / name, bytes);
    return *this / name;
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
  std::string counting;
  for (int i = 0; i < 100; ++i) counting += char(i);
  const CharDataset data(folder.file("counting", counting), 4, 0.1);
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
  CHECK(data.dataset("train").epoch(1).size() == 22);
  CHECK(ids(data.dataset("val").epoch(1).batch(0, 2).first).size() == 8);
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

TEST_CASE("a text that is cut or written anew does not change the data", "[data]") {
  const Folder folder;
  const std::string path = folder.file("text", std::string(100'000, 'a'));
  const CharDataset data(path, 64, 0.1);
  const CharDataset copy = data;
  std::ofstream(path, std::ios::binary) << "short";
  CHECK(copy.decode(copy.batch("train", 4).first) == std::string(256, 'a'));
  CharDataset source = data;
  const CharDataset taken = std::move(source);
  CHECK(throws([&] { source.batch("train", 1); }, {"CharDataset", "moved from"}));
}

TEST_CASE("files of tokens are no text", "[data]") {
  const Folder folder;
  CHECK(throws([&] { CharDataset(folder.file("train.bin", std::string(100, 'a')), 4); },
               {"CharDataset", "train.bin", "models::TokenDataset"}));
  for (const int32_t magic :
       {20240326, 20240327, 20240328, 20240520, 20240522, 20240527, 20240801, 20240803}) {
    const std::string number(reinterpret_cast<const char*>(&magic), 4);
    CHECK(throws([&] { CharDataset(folder.file("text", number + std::string(2000, 'a')), 4); },
                 {"text", "models::TokenDataset"}));
  }
}

TEST_CASE("extreme sizes are refused, without overflow", "[data]") {
  const Folder folder;
  const std::string name = "text", path = folder.file(name, std::string(1000, 'a'));
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

TEST_CASE("a file that is too short is refused with the size that would do", "[data]") {
  const Folder folder;
  const std::string name = "text";
  for (const double val_fraction : {0.0, 0.1, 0.5, 1 / 3.0, 0.9, 0.97}) {
    for (const int64_t block_size : {1, 7, 64}) {
      // What the error asks for is enough, and a token less is not.
      std::string message;
      try {
        CharDataset(folder.file(name, "a"), block_size, val_fraction);
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
      const std::string shorter = folder.file(name, std::string(needed - 1, 'a'));
      CHECK(throws([&] { CharDataset(shorter, block_size, val_fraction); },
                   {shorter, std::to_string(needed - 1) + " bytes", std::to_string(needed)}));
    }
  }
  CHECK(
      throws([&] { CharDataset(folder.file("empty", ""), 64, 0.1); }, {"empty", "0 bytes", "at least 641"}));
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
  const std::string missing = folder / "missing";
  CHECK(throws<std::runtime_error>([&] { CharDataset(missing, 2); }, {missing, std::strerror(ENOENT)}));
  CHECK(throws<std::runtime_error>([&] { CharDataset(folder.path().string(), 2); }, {std::strerror(EISDIR)}));
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
