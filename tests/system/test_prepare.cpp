// What prepare writes, beyond what its own run shows.
#include "../../examples/encodings.h"
#include "../../examples/token_file.h"

#include "catch.h"
#include "errors.h"
#include "temp_folder.h"
#include "tokenizers.h"

#include <cstring>
#include <random>

namespace {

// The tokens of a text that is read by `step` bytes, as prepare does.
std::vector<uint32_t> in_parts(Encoding& encoding, const std::string& text, size_t step) {
  std::vector<uint32_t> all;
  std::string part;
  for (size_t at = 0; at < text.size(); at += step) {
    const size_t old = part.size();
    part += text.substr(at, step);
    const size_t cut = at + step >= text.size() ? part.size() : encoding.cut(part, old);
    std::vector<uint32_t> tokens = encoding.encode(part.substr(0, cut));
    encoding.number(tokens);
    all.insert(all.end(), tokens.begin(), tokens.end());
    part.erase(0, cut);
  }
  return all;
}

}  // namespace

TEST_CASE("a text that is cut into parts has the tokens of the whole", "[examples]") {
  std::mt19937 random(1);
  const std::vector<std::string> words = {
      "the",   " the", "  ",  "\n", "\n\n ", "42", "...\n", "\xc3\xa9", "\xe2\x82\xac ", "\xf0\x9f\x98\x80",
      "can't", "a\n",  "(x) "};
  std::string text;
  for (int i = 0; i < 4000; ++i) text += words[random() % words.size()];
  const auto same = [&](const std::string& name) {
    const std::vector<uint32_t> whole = in_parts(*encoding(name), text, text.size());
    CHECK(whole.size() > 1000);
    for (const size_t step : {1, 2, 3, 7, 50, 1000}) CHECK(in_parts(*encoding(name), text, step) == whole);
  };
  same("bytes");
  same("characters");
  NEEDS_PCRE2();
  same(tokenizer_folder());
}

TEST_CASE("a file of tokens is nanoGPT's or llm.c's", "[examples]") {
  const TempFolder folder;
  write_bytes(folder / "old.bin", "old");
  {
    TokenFile narrow(folder / "narrow.bin", false), wide(folder / "wide.bin", true),
        old(folder / "old.bin", true);
    for (TokenFile* file : {&narrow, &wide, &old}) {
      file->append({1, 65535});
      file->append({7});
      file->finish();
      CHECK(file->count() == 3);
    }
    CHECK(throws<std::runtime_error>([&] { TokenFile(folder / "old.bin", false); },
                                     {"old.bin.tmp", "another process"}));
    narrow.rename();
    wide.rename();
  }
  CHECK(read_bytes(folder / "old.bin") == "old");
  CHECK(folder.num_files() == 3);
  CHECK(read_bytes(folder / "narrow.bin") == std::string("\1\0\xff\xff\7\0", 6));
  const std::string wide = read_bytes(folder / "wide.bin");
  REQUIRE(wide.size() == 1024 + 12);
  int32_t header[4];
  std::memcpy(header, wide.data(), sizeof header);
  CHECK(header[0] == 20240801);
  CHECK(header[1] == 7);
  CHECK(header[2] == 3);
  CHECK(header[3] == 0);
  CHECK(wide.substr(1024) == std::string("\1\0\0\0\xff\xff\0\0\7\0\0\0", 12));
}
