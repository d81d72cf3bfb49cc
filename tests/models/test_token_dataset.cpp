// TokenDataset on files made here: both formats, several files, batches, epochs, splits, changes while in use.
#include "allocations.h"
#include "catch.h"
#include "errors.h"
#include "token_files.h"

#include <altgrad/models/data.h>
#include <altgrad/models/internal/permutation.h>
#include <altgrad/models/token_dataset.h>

#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

using namespace altgrad;
using models::CharDataset;
using models::TokenDataset;

namespace {

std::vector<int64_t> ids(const Tensor& x) { return {x.data<int64_t>().begin(), x.data<int64_t>().end()}; }

// Are all rows of x runs of numbers, and is y one further?
void check_windows(const std::pair<Tensor, Tensor>& xy) {
  const auto& [x, y] = xy;
  const int64_t* row = x.ptr<int64_t>();
  for (int64_t i = 0; i < x.numel(); ++i) {
    REQUIRE(row[i] == row[i / x.size(1) * x.size(1)] + i % x.size(1));
    REQUIRE(y.ptr<int64_t>()[i] == row[i] + 1);
  }
}

int64_t open_files() { return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}); }

}  // namespace

TEST_CASE("tokens are uint16 in .bin files, and uint16 or uint32 behind llm.c's header", "[tokens]") {
  const TokenFolder folder;
  const std::vector<uint32_t> small = {7, 50256, 65535, 0, 1}, large = {7, 128255, 4294967295, 0, 1};
  for (const auto& [path, tokens] : {std::pair{folder.nano("a.bin", small), small},
                                     {folder.llmc16("b.bin", small), small},
                                     {folder.llmc16("no name of one", small), small},
                                     {folder.llmc32("c.bin", large), large}}) {
    CAPTURE(path);
    const TokenDataset data(path, 4, int64_t(1) << 32);
    CHECK(data.size() == 5);
    CHECK(data.block_size() == 4);
    CHECK(data.vocab_size() == int64_t(1) << 32);
    const auto [x, y] = data.batch(2);
    CHECK(x.shape() == Shape{2, 4});
    for (size_t i = 0; i < 8; ++i) {
      CHECK(x.data<int64_t>()[i] == tokens[i % 4]);
      CHECK(y.data<int64_t>()[i] == tokens[i % 4 + 1]);
    }
    CHECK(ids(data.epoch(1).batch(0, 1).first) == std::vector<int64_t>(tokens.begin(), tokens.end() - 1));
  }
}

TEST_CASE("a text's tokens give the batches of the text", "[tokens]") {
  const TokenFolder folder;
  std::string text;
  std::vector<uint32_t> tokens;
  for (int i = 0; i < 500; ++i) {
    tokens.push_back(uint32_t(i < 23 ? i : i * i % 23));
    text += char('a' + tokens.back());
  }
  write_bytes(folder / "text", text);
  const CharDataset chars(folder / "text", 8);
  const auto [train, val] = TokenDataset(folder.nano("t.bin", tokens), 8, 23).split(0.1);
  Generator a(1), b(1);
  for (const auto& [split, data] : {std::pair{"train", train}, {"val", val}}) {
    CHECK(chars.size(split) == data.size());
    for (int i = 0; i < 3; ++i) {
      CHECK(ids(chars.batch(split, 4, a).second) == ids(data.batch(4, b).second));
      CHECK(a.state() == b.state());
    }
  }
  manual_seed(5);
  const auto drawn = ids(train.batch(4).first);
  manual_seed(5);
  CHECK(ids(train.batch(4).first) == drawn);
  CHECK(ids(train.batch(4).first) != drawn);
}

TEST_CASE("a glob is one data set of its files, by name, and no window crosses from one to the next",
          "[tokens]") {
  const TokenFolder folder;
  // All numbers from 0 to 100 but those between the files; the third is too short for a window.
  folder.nano("part_a.bin", counting(0, 40));
  folder.llmc16("part_b.bin", counting(50, 72));
  folder.nano("part_c.bin", counting(80, 83));
  folder.llmc32("part_d.bin", counting(90, 100));
  folder.nano("other.bin", counting(200, 300));
  const TokenDataset data(folder / "part_?.bin", 4, 300);
  CHECK(data.size() == 40 + 22 + 3 + 10);
  std::map<int64_t, int> begins;
  Generator generator(1);
  for (int i = 0; i < 1000; ++i) {
    const auto batch = data.batch(6, generator);
    check_windows(batch);
    for (int64_t row = 0; row < 6; ++row) ++begins[batch.first.ptr<int64_t>()[4 * row]];
  }
  // Each of the 36 + 18 + 6 places is as likely as any other: about 100 times each.
  CHECK(begins.size() == 60);
  CHECK(begins.begin()->first == 0);
  CHECK(begins.rbegin()->first == 95);
  for (const auto& [place, count] : begins) CHECK(std::abs(count - 100) < 50);

  const models::TokenEpoch epoch = data.epoch(3);
  CHECK(epoch.size() == 9 + 5 + 0 + 2);
  check_windows(epoch.batch(0, 16));
  std::set<int64_t> starts;
  for (int64_t i = 0; i < 16; ++i) starts.insert(epoch.batch(i, 1).first.ptr<int64_t>()[0]);
  CHECK(starts == std::set<int64_t>{0, 4, 8, 12, 16, 20, 24, 28, 32, 50, 54, 58, 62, 66, 90, 94});

  // A name with a pattern's letters is that file's where it is there.
  CHECK(TokenDataset(folder.nano("[x].bin", counting(0, 9)), 4, 10).size() == 9);
}

TEST_CASE("an epoch gives every window once, in an order of the seed's, from any place on", "[tokens]") {
  const TokenFolder folder;
  const TokenDataset data(folder.nano("t.bin", counting(0, 3001)), 3, 4000);
  const models::TokenEpoch epoch = data.epoch(7);
  REQUIRE(epoch.size() == 1000);
  const std::vector<int64_t> all = ids(epoch.batch(0, 1000).first);
  std::vector<int64_t> sorted = all;
  std::ranges::sort(sorted);
  std::vector<int64_t> each(3000);
  std::iota(each.begin(), each.end(), 0);
  CHECK(sorted == each);
  CHECK(ids(data.epoch(7).batch(990, 10).first) == std::vector<int64_t>(all.end() - 30, all.end()));
  CHECK(ids(data.epoch(8).batch(0, 1000).first) != all);

  CHECK(throws([&] { epoch.batch(991, 10); }, {"TokenEpoch", "991", "[0, 1000)"}));
  CHECK(throws([&] { epoch.batch(-1, 1); }, {"-1"}));
  CHECK(throws([&] { epoch.batch(0, 0); }, {"TokenEpoch"}));
  CHECK(throws([&] { epoch.batch(INT64_MAX, INT64_MAX); }, {"TokenEpoch"}));
}

TEST_CASE("an order is a permutation without a pattern", "[tokens]") {
  for (const uint64_t n : {1, 2, 3, 4, 5, 16, 17, 255, 256, 257, 5000}) {
    std::vector<bool> seen(n);
    const detail::Permutation order(n, 1);
    for (uint64_t i = 0; i < n; ++i) {
      REQUIRE(order(i) < n);
      REQUIRE(!seen[order(i)]);
      seen[order(i)] = true;
    }
  }
  // Where number i lands over 20,000 seeds is uniform: chi^2 of 9 degrees of freedom is below 40 but once in 10^5.
  // So is how far number 1 lands behind number 0.
  constexpr int n = 10, seeds = 20'000;
  const auto chi_squared = [](const std::vector<int>& counts) {
    double sum = 0;
    const double expected = double(seeds) / double(counts.size());
    for (const int count : counts) sum += (count - expected) * (count - expected) / expected;
    return sum;
  };
  std::vector<int> places[n], apart(n - 1);
  for (auto& counts : places) counts.resize(n);
  for (int seed = 0; seed < seeds; ++seed) {
    const detail::Permutation order(n, uint64_t(seed));
    for (int i = 0; i < n; ++i) ++places[i][order(uint64_t(i))];
    ++apart[(n + order(1) - order(0)) % n - 1];
  }
  for (const auto& counts : places) CHECK(chi_squared(counts) < 40);
  CHECK(chi_squared(apart) < 40);
  // Numbers that differ in the upper half of their bits alone: after too few rounds, their places would, too.
  const detail::Permutation square(64 * 64, 1);
  std::vector<int> differences(64);
  for (uint64_t i = 0; i < 64 * 63; ++i) ++differences[(square(i) ^ square(i + 64)) / 64];
  CHECK(std::ranges::max(differences) < 2 * 63);
  // A large one is computed at any place.
  const detail::Permutation large(uint64_t(1) << 62, 3);
  CHECK(large((uint64_t(1) << 62) - 1) < uint64_t(1) << 62);
  CHECK(large(0) != large(1));
}

TEST_CASE("a split cuts the tokens of all files", "[tokens]") {
  const TokenFolder folder;
  folder.nano("a.bin", counting(0, 60));
  folder.nano("b.bin", counting(60, 100));
  const auto [train, val] = TokenDataset(folder / "*.bin", 4, 100).split(0.2);
  CHECK(train.size() == 80);
  CHECK(val.size() == 20);
  std::set<int64_t> seen;
  for (int i = 0; i < 50; ++i) {
    for (const int64_t id : ids(val.batch(8).second)) seen.insert(id);
  }
  CHECK(*seen.begin() == 81);
  CHECK(*seen.rbegin() == 99);
  for (int i = 0; i < 50; ++i) CHECK(std::ranges::max(ids(train.batch(8).second)) < 80);
  CHECK(train.epoch(1).size() == 14 + 4);

  const TokenDataset one(folder / "a.bin", 4, 100);
  const auto [whole, none] = one.split(0);
  CHECK(whole.size() == 60);
  CHECK(none.size() == 0);
  CHECK(none.epoch(1).size() == 0);
  CHECK(throws([&none = none] { none.batch(1); }, {"a.bin", "empty"}));
  for (const double fraction : {-0.1, 1.0, double(NAN)}) {
    CHECK(throws([&] { one.split(fraction); }, {"split", "val_fraction", "[0, 1)"}));
  }
  CHECK(throws([&] { one.split(0.05); }, {"a.bin has 60 tokens", "val_fraction 0.05", "at least 81"}));
  folder.nano("c.bin", counting(100, 103));
  CHECK(throws([&] { TokenDataset(folder / "[bc].bin", 4, 103).split(0.15); }, {"43 tokens in 2 files"}));
}

TEST_CASE("the vocabulary is the caller's, or that of meta.json beside the file", "[tokens]") {
  const TokenFolder folder;
  const std::string path = folder.nano("t.bin", counting(0, 100));
  CHECK(throws([&] { TokenDataset(path, 4); }, {"TokenDataset", path, "vocab_size", "no meta.json"}));
  write_bytes(folder / "meta.json", R"({"tokenizer": {"kind": "bytes"}, "vocab_size": 123})");
  CHECK(TokenDataset(path, 4).vocab_size() == 123);
  CHECK(TokenDataset(path, 4, 200).vocab_size() == 200);
  CHECK(throws([&] { TokenDataset(path, 4, 0); }, {"vocab_size", "0"}));

  // Files of several folders agree.
  for (const std::string name : {"x1", "x2"}) {
    std::filesystem::create_directory(folder / name);
    folder.nano(name + "/t.bin", counting(0, 10));
    write_bytes(folder / (name + "/meta.json"), R"({"vocab_size": 10})");
  }
  CHECK(TokenDataset(folder / "x*/t.bin", 4).size() == 20);
  write_bytes(folder / "x2/meta.json", R"({"vocab_size": 11})");
  CHECK(throws([&] { TokenDataset(folder / "x*/t.bin", 4); }, {"x2/meta.json", "11", "10"}));
}

TEST_CASE("a token that is not below the vocabulary is an error where it is drawn", "[tokens]") {
  const TokenFolder folder;
  std::vector<uint32_t> tokens = counting(0, 100);
  tokens[50] = 101;
  for (const auto& [path, byte] : {std::pair{folder.nano("a.bin", tokens), 100},
                                   {folder.llmc16("b.bin", tokens), 1124},
                                   {folder.llmc32("c.bin", tokens), 1224}}) {
    const TokenDataset data(path, 5, 101);
    const models::TokenEpoch epoch = data.epoch(1);
    int64_t errors = 0;
    for (int64_t i = 0; i < epoch.size(); ++i) {
      try {
        check_windows(epoch.batch(i, 1));
      } catch (const std::runtime_error&) {
        ++errors;
        CHECK(throws<std::runtime_error>([&] { epoch.batch(i, 1); }, {"TokenDataset", path, "token 101",
                                                                      concat("at byte ", byte), "101"}));
      }
    }
    CHECK(errors == 2);  // the last of one window's y is the first of the next one's x
  }
}

TEST_CASE("a file of tokens that is cut or replaced while it is in use is an error, not a signal",
          "[tokens]") {
  const TokenFolder folder;
  const std::string path = folder.nano("t.bin", std::vector<uint32_t>(100'000, 7));
  const TokenDataset data(path, 64, 8);
  const TokenDataset copy = data;
  std::ofstream(path, std::ios::binary) << "short";
  CHECK(throws<std::runtime_error>([&] { copy.batch(4); }, {"TokenDataset", path, "had 200000 bytes"}));

  // What is open outlives its name.
  const TokenDataset kept(folder.nano("u.bin", counting(0, 100)), 4, 100);
  std::filesystem::remove(folder / "u.bin");
  check_windows(kept.batch(4));
  TokenDataset source = kept;
  const TokenDataset taken = std::move(source);
  CHECK(throws([&] { source.batch(1); }, {"TokenDataset", "moved from"}));
  CHECK(throws([&] { source.epoch(1); }, {"moved from"}));
  CHECK(throws([&] { source.split(0.1); }, {"moved from"}));
}

TEST_CASE("there may be more files than a process may have open", "[tokens]") {
  const TokenFolder folder;
  constexpr int files = 200;
  for (int i = 0; i < files; ++i) {
    folder.nano(concat(1000 + i, ".bin"), counting(uint32_t(10 * i), uint32_t(10 * i + 10)));
  }
  struct Limit {
    rlimit before{};
    Limit() {
      ::getrlimit(RLIMIT_NOFILE, &before);
      rlimit lower = before;
      lower.rlim_cur = rlim_t(open_files()) + 80;
      ::setrlimit(RLIMIT_NOFILE, &lower);
    }
    ~Limit() { ::setrlimit(RLIMIT_NOFILE, &before); }
  } limit;
  const TokenDataset data(folder / "*.bin", 9, 10 * files);
  const models::TokenEpoch epoch = data.epoch(1);
  REQUIRE(epoch.size() == files);
  std::set<int64_t> starts;
  for (int64_t i = 0; i < files; ++i) {
    const auto window = epoch.batch(i, 1);
    check_windows(window);
    starts.insert(window.first.ptr<int64_t>()[0]);
  }
  CHECK(starts.size() == files);
  // One that is opened again, and has another size.
  folder.nano("1100.bin", counting(0, 5));
  CHECK(throws<std::runtime_error>([&] { epoch.batch(0, files); },
                                   {"1100.bin", "has 10 bytes, and had 20 when"}));
}

TEST_CASE("20 GB of shards are opened with little memory, and their last tokens are there", "[tokens]") {
  const TokenFolder folder;
  // 100 sparse files of 200 MB: zeros, and a few numbers at the end.
  constexpr int64_t files = 100, count = 100'000'000;
  for (int64_t i = 0; i < files; ++i) {
    const std::string path = folder.llmc16(concat("train_", 100 + i, ".bin"), {}, count);
    std::error_code error;
    std::filesystem::resize_file(path, uint64_t(1024 + 2 * count), error);
    if (error) SKIP_TEST("no sparse files here");
    folder.write_at(path, 1024 + 2 * (count - 65), counting(uint32_t(i), uint32_t(i + 65)));
  }
  heap_watch();
  const TokenDataset data(folder / "train_*.bin", 64, 1000);
  const int64_t peak = heap_peak();
  CHECK(peak < 1'000'000);
  CHECK(data.size() == files * count);
  const models::TokenEpoch epoch = data.epoch(1);
  CHECK(epoch.size() == files * ((count - 1) / 64));
  CHECK(epoch.batch(epoch.size() - 8, 8).first.shape() == Shape{8, 64});
  for (int i = 0; i < 20; ++i) CHECK(std::ranges::max(ids(data.batch(8).first)) < 165);
  const auto [train, val] = data.split(65e-10);
  check_windows(val.batch(1));
  CHECK(val.batch(1).first.ptr<int64_t>()[0] == 99);
}
