// Regions against a plain model: which bytes are whose.
#include <altgrad/core/internal/regions.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <random>

#include "catch.h"

using altgrad::detail::Regions;

TEST_CASE("blocks of regions never meet and keep what is written in them", "[core]") {
  constexpr size_t unit = 1 << 19;
  struct Block {
    char* data;
    size_t bytes;
    char mark;
  };
  Regions regions;
  std::vector<Block> blocks;
  std::mt19937 random(3);
  const auto check = [](const Block& b) {
    CHECK(b.data[0] == b.mark);
    CHECK(b.data[b.bytes - 1] == b.mark);
  };
  size_t extended = 0;
  for (int step = 0; step < 4000; ++step) {
    if (blocks.size() < 40 && random() % 2) {
      Block b{nullptr, (1 + random() % 40) * unit, char(step)};
      b.data = static_cast<char*>(regions.take(b.bytes));
      if (!b.data) {
        b.data = static_cast<char*>(regions.extend(b.bytes));
        extended += b.bytes;
      }
      REQUIRE(b.data);
      CHECK(reinterpret_cast<uintptr_t>(b.data) % 64 == 0);
      for (const Block& other : blocks)
        REQUIRE((b.data + b.bytes <= other.data || other.data + other.bytes <= b.data));
      b.data[0] = b.data[b.bytes - 1] = b.mark;
      blocks.push_back(b);
    } else if (!blocks.empty()) {
      const size_t i = random() % blocks.size();
      check(blocks[i]);
      regions.give(blocks[i].data, blocks[i].bytes);
      blocks.erase(blocks.begin() + int64_t(i));
    }
    if (step % 1000 == 999) {
      for (const Block& b : blocks) check(b);
    }
  }
  for (const Block& b : blocks) regions.give(b.data, b.bytes);
  CHECK(regions.free_bytes() <= extended);
  regions.release();
  CHECK(regions.free_bytes() == 0);
}

TEST_CASE("ranges that are freed side by side serve a larger block", "[core]") {
  constexpr size_t unit = 5 << 20;
  Regions regions;
  char* const a = static_cast<char*>(regions.extend(3 * unit));
  char* const b = static_cast<char*>(regions.extend(unit));
  regions.give(a, 3 * unit);
  char* const first = static_cast<char*>(regions.take(unit));
  char* const second = static_cast<char*>(regions.take(unit));
  char* const third = static_cast<char*>(regions.take(unit));
  CHECK(first == a);
  CHECK(second == a + unit);
  CHECK(third == a + 2 * unit);
  for (char* p : {first, third, second}) regions.give(p, unit);  // the last one joins both sides
  CHECK(regions.take(4 * unit) == nullptr);
  regions.release();  // b is in use
  CHECK(regions.free_bytes() == 3 * unit);
  CHECK(regions.take(3 * unit) == a);
  regions.give(b, unit);
  CHECK(regions.extend(2 * unit) == b);  // the free range at the end, and what lies behind it
  regions.give(a, 3 * unit);
  regions.give(b, 2 * unit);
  CHECK(regions.free_bytes() == 5 * unit);
  regions.release();
  CHECK(regions.free_bytes() == 0);
}

TEST_CASE("blocks that grow do not leave regions behind", "[core]") {
  Regions regions;
  for (size_t bytes = size_t(200) << 20; bytes < size_t(600) << 20; bytes += size_t(37) << 20) {
    void* const p = regions.extend(bytes);
    REQUIRE(p);
    regions.give(p, bytes);
    CHECK(regions.free_bytes() <= bytes);
  }
}

TEST_CASE("pages of free ranges go back to the system, and come again", "[core]") {
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  const auto resident = [] {
    long pages = 0, all = 0;
    std::ifstream("/proc/self/statm") >> all >> pages;
    return pages * 4096;
  };
  constexpr size_t size = size_t(48) << 20;
  Regions regions;
  char* const before = static_cast<char*>(regions.extend(size));
  char* const freed = static_cast<char*>(regions.extend(size));
  char* const after = static_cast<char*>(regions.extend(size));
  for (char* p : {before, freed, after}) std::memset(p, 7, size);
  regions.give(freed, size);
  const long full = resident();
  regions.release_pages();
  CHECK(full - resident() >= long(size) * 9 / 10);
  CHECK(std::count(before, before + size, 7) == long(size));
  CHECK(std::count(after, after + size, 7) == long(size));
  char* const again = static_cast<char*>(regions.take(size));
  REQUIRE(again == freed);
  std::memset(again, 8, size);
  CHECK(after[0] == 7);
#else
  SKIP_TEST("resident memory is read on Linux, without sanitizers");
#endif
}
