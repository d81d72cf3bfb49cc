// Tokenizer: the ids that tokenizers and tiktoken give, bytes that come back, special tokens, streams, threads; merging
// against a plain loop.
#include "tokenizers.h"

#include "errors.h"

#include <altgrad/models/internal/bpe.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <random>
#include <sstream>
#include <thread>

using namespace altgrad;
using models::DecodeStream;
using models::Special;
using models::Tokenizer;

namespace {

using Ids = std::vector<int64_t>;

struct Case {
  std::string text;
  Ids merges, ranks, gpt2;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  std::ifstream in(tokenizer_folder() + "/cases.txt");
  for (std::string line; std::getline(in, line);) {
    std::istringstream parts(line);
    std::string hex, part;
    std::getline(parts, hex, '|');
    Case& c = all.emplace_back();
    for (size_t i = 0; i + 1 < hex.size() - 1; i += 2)
      c.text += char(std::stoi(hex.substr(i, 2), nullptr, 16));
    for (Ids* ids : {&c.merges, &c.ranks, &c.gpt2}) {
      std::getline(parts, part, '|');
      std::istringstream numbers(part);
      for (int64_t id; numbers >> id;) ids->push_back(id);
    }
  }
  return all;
}

void check_cases(const Tokenizer& tokenizer, Ids Case::*expected) {
  const std::vector<Case> all = cases();
  REQUIRE(all.size() > 300);
  for (const Case& c : all) {
    INFO(c.text);
    const Tensor ids = tokenizer.encode(c.text, {.special = Special::all});
    CHECK(ids_of(ids) == c.*expected);
    CHECK(tokenizer.decode_bytes(ids) == c.text);
  }
}

Tokenizer small() { return Tokenizer::gpt2(tokenizer_folder()); }

// The folder of GPT-2's own vocabulary.
std::optional<std::string> gpt2_folder() {
  const char* folder = std::getenv("ALTGRAD_GPT2_VOCAB");
  return folder ? std::optional<std::string>(folder) : std::nullopt;
}

std::string random_bytes(std::mt19937& random, size_t n) {
  std::string bytes;
  for (size_t i = 0; i < n; ++i) bytes += char(random() % 4 ? random() % 128 : random() % 256);
  return bytes;
}

}  // namespace

TEST_CASE("vocab.json and merges.txt give the ids that Hugging Face's tokenizers give", "[tokenizer]") {
  NEEDS_PCRE2();
  check_cases(small(), &Case::merges);
}

TEST_CASE("tokenizer.json gives the ids that Hugging Face's tokenizers give", "[tokenizer]") {
  NEEDS_PCRE2();
  check_cases(Tokenizer::json(tokenizer_folder() + "/tokenizer.json"), &Case::merges);
}

TEST_CASE("a file of ranks gives the ids that tiktoken gives", "[tokenizer]") {
  NEEDS_PCRE2();
  check_cases(
      Tokenizer::ranks(tokenizer_folder() + "/ranks.tiktoken", {.special_tokens = {{"<|endoftext|>", 699}}}),
      &Case::ranks);
}

TEST_CASE("GPT-2's own vocabulary gives the ids that tiktoken gives", "[tokenizer]") {
  NEEDS_PCRE2();
  if (!gpt2_folder()) SKIP_TEST("ALTGRAD_GPT2_VOCAB names no folder of GPT-2's vocabulary");
  const Tokenizer gpt2 = Tokenizer::gpt2(*gpt2_folder());
  CHECK(gpt2.vocab_size() == 50257);
  CHECK(gpt2.special_tokens() == std::map<std::string, int64_t>{{"<|endoftext|>", 50256}});
  check_cases(gpt2, &Case::gpt2);
}

TEST_CASE("any bytes come back, UTF-8 or not", "[tokenizer]") {
  NEEDS_PCRE2();
  const Tokenizer tokenizer = small();
  std::mt19937 random(1);
  std::string all_bytes;
  for (int byte = 0; byte < 256; ++byte) all_bytes += char(byte);
  std::vector<std::string> texts = {"",         all_bytes,         "a\xff", "\xff\xfe the", "\xed\xa0\x80",
                                    "\xe2\x82", "caf\xe9 \xc3\xa9"};
  for (int i = 0; i < 300; ++i) texts.push_back(random_bytes(random, random() % 400));
  for (const std::string& text : texts) CHECK(tokenizer.decode_bytes(tokenizer.encode(text)) == text);
  CHECK(tokenizer.encode("").shape() == Shape{0});

  // A byte that is not UTF-8 is a piece of its own, and what is around it is as it is without.
  const Ids hello = ids_of(tokenizer.encode(" the")), both = ids_of(tokenizer.encode(" the\xff the"));
  REQUIRE(both.size() == 2 * hello.size() + 1);
  CHECK(std::equal(hello.begin(), hello.end(), both.begin()));
  CHECK(std::equal(hello.begin(), hello.end(), both.begin() + int64_t(hello.size()) + 1));
}

TEST_CASE("special tokens in a text are text unless they are allowed", "[tokenizer]") {
  NEEDS_PCRE2();
  const Tokenizer tokenizer = small();
  const std::string end = "<|endoftext|>";
  const int64_t id = tokenizer.special_tokens().at(end);
  const auto count = [&](const models::EncodeOptions& options) {
    const Ids ids = ids_of(tokenizer.encode("one" + end + " two" + end, options));
    return std::count(ids.begin(), ids.end(), id);
  };
  CHECK(count({}) == 0);
  CHECK(count({.special = Special::none}) == 0);
  CHECK(count({.special = Special::allowed}) == 0);
  CHECK(count({.special = Special::allowed, .allowed = {end}}) == 2);
  CHECK(count({.special = Special::all}) == 2);
  CHECK(tokenizer.decode(tokenizer.encode("one" + end + "two", {.special = Special::all})) ==
        "one" + end + "two");
  CHECK(throws([&] { count({.special = Special::allowed, .allowed = {"<|end|>"}}); },
               {"allowed", "\"<|end|>\"", "no special token"}));
  CHECK(throws([&] { count({.allowed = {end}}); }, {"encode", "Special::allowed"}));

  // Of two that begin at one place, the longer one.
  const Tokenizer two = Tokenizer::ranks(tokenizer_folder() + "/ranks.tiktoken",
                                         {.special_tokens = {{"<a>", 699}, {"<a><b>", 700}, {"<c>", 900}}});
  CHECK(ids_of(two.encode("<a><a><b><c>", {.special = Special::all})) == Ids{699, 700, 900});
  CHECK(two.vocab_size() == 901);
  CHECK(throws([&] { two.decode(Tensor::from({int64_t(800)}, {1})); }, {"no token has the id 800"}));
}

// Expected: Python's bytes.decode("utf-8", "replace").
TEST_CASE("decode has U+FFFD where bytes are not UTF-8, and a stream of tokens gives the same text",
          "[tokenizer]") {
  NEEDS_PCRE2();
  const Tokenizer tokenizer = small();
  const std::string bad = "\xEF\xBF\xBD";
  const std::vector<std::pair<std::string, std::string>> known = {
      {"a\xff"
       "b",
       "a" + bad + "b"},
      {"\xe2\x82", bad},
      {"\xe2\x82z", bad + "z"},
      {"\xf0\x9f\x98", bad},
      {"\xf0\x9f\x98\xf0\x9f\x98\x80", bad + "\xf0\x9f\x98\x80"},
      {"\xed\xa0\x80", bad + bad + bad},
      {"\xc0\xaf", bad + bad},
      {"\xf4\x90\x80\x80", bad + bad + bad + bad},
      {"\xe0\x80\x80", bad + bad + bad},
      {"\xf5", bad},
      {"\xc3\xa9\xc3", "\xc3\xa9" + bad},
  };
  const auto streamed = [&](const Tensor& ids) {
    DecodeStream stream(tokenizer);
    std::string text;
    for (const int64_t id : ids_of(ids)) text += stream.step(id);
    return text + stream.finish();
  };
  for (const auto& [bytes, text] : known) {
    const Tensor ids = tokenizer.encode(bytes);
    CHECK(tokenizer.decode(ids) == text);
    CHECK(streamed(ids) == text);
  }
  std::mt19937 random(2);
  for (int i = 0; i < 300; ++i) {
    const Tensor ids = tokenizer.encode(random_bytes(random, 60));
    CHECK(streamed(ids) == tokenizer.decode(ids));
  }
  // A character comes with its last byte.
  DecodeStream stream(tokenizer);
  std::vector<std::string> steps;
  for (const char byte : std::string("\xf0\x9f\x98\x80!"))
    steps.push_back(stream.step(tokenizer.encode({&byte, 1}).item<int64_t>()));
  CHECK(steps == std::vector<std::string>{"", "", "", "\xf0\x9f\x98\x80", "!"});
  CHECK(stream.finish().empty());
  CHECK(throws([&] { stream.step(-1); }, {"id -1", "[0, 700)"}));
  CHECK(throws([&] { stream.step(700); }, {"id 700"}));
  CHECK(throws([&] { tokenizer.decode(Tensor::from({int64_t(700)}, {1})); }, {"decode", "id 700"}));
  CHECK(throws([&] { tokenizer.decode(Tensor::zeros({2})); }, {"i64"}));
}

namespace {

// As the definition has it: of all pairs the one of the lowest rank, of those the leftmost, until none is left.
std::vector<int32_t> merged_plainly(const detail::Vocabulary& v, const std::string& piece) {
  std::map<std::pair<int32_t, int32_t>, const detail::Merge*> merges;
  for (const detail::Merge& merge : v.merges) merges[{merge.left, merge.right}] = &merge;
  std::vector<int32_t> ids;
  for (const unsigned char byte : piece) ids.push_back(byte);
  for (;;) {
    const detail::Merge* best = nullptr;
    size_t at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto merge = merges.find({ids[i], ids[i + 1]});
      if (merge != merges.end() && (!best || merge->second->rank < best->rank)) best = merge->second, at = i;
    }
    if (!best) return ids;
    ids[at] = best->merged;
    ids.erase(ids.begin() + int64_t(at) + 1);
  }
}

// Merges of the letters a to d, in any order: one may come before those that make what it is of. Two pairs may be one
// token, of one rank or of two.
detail::Vocabulary random_vocabulary(std::mt19937& random, bool one_rank_a_token) {
  detail::Vocabulary v{.pattern = models::gpt2_pattern};
  std::map<std::string, int32_t> ids;
  for (int byte = 0; byte < 256; ++byte) ids[v.tokens.emplace_back(1, char(byte))] = byte;
  std::vector<std::string> made = {"a", "b", "c", "d"};
  std::map<std::pair<int32_t, int32_t>, int32_t> pairs;
  while (pairs.size() < 60) {
    const std::string left = made[random() % made.size()], right = made[random() % made.size()];
    if (left.size() + right.size() > 9) continue;
    const auto [token, is_new] = ids.emplace(left + right, int32_t(v.tokens.size()));
    if (is_new) made.push_back(v.tokens.emplace_back(left + right));
    pairs[{ids[left], ids[right]}] = token->second;
  }
  std::vector<uint32_t> ranks(std::max(pairs.size(), v.tokens.size()));
  for (size_t i = 0; i < ranks.size(); ++i) ranks[i] = uint32_t(i);
  std::shuffle(ranks.begin(), ranks.end(), random);
  size_t n = 0;
  for (const auto& [pair, merged] : pairs)
    v.merges.push_back({pair.first, pair.second, merged, ranks[one_rank_a_token ? size_t(merged) : n++]});
  return v;
}

}  // namespace

TEST_CASE("pieces of any length merge as the definition says, whatever the order of merges", "[tokenizer]") {
  NEEDS_PCRE2();
  std::mt19937 random(3);
  for (int trial = 0; trial < 60; ++trial) {
    const detail::Vocabulary v = random_vocabulary(random, trial % 2 == 1);
    const detail::Bpe bpe("test", v, detail::Pattern("test", v.pattern));
    auto encoder = bpe.take_encoder();
    for (const size_t length : {1, 2, 3, 31, 32, 63, 64, 65, 66, 200, 700}) {
      std::string piece;
      const unsigned letters = 1 + random() % 4;
      while (piece.size() < length) piece += char('a' + random() % letters);
      for (int again = 0; again < 2; ++again) {  // the second time it may be remembered
        std::vector<int32_t> ids;
        encoder->encode(piece, ids);
        REQUIRE(ids == merged_plainly(v, piece));
      }
    }
  }
}

TEST_CASE("a word of a million equal letters, and one of a million random ones, come back", "[tokenizer]") {
  NEEDS_PCRE2();
  const Tokenizer tokenizer = small();
  std::mt19937 random(4);
  std::string word(1'000'000, 'a');
  CHECK(tokenizer.decode_bytes(tokenizer.encode(word)) == word);
  for (char& letter : word) letter = char('a' + random() % 26);
  CHECK(tokenizer.decode_bytes(tokenizer.encode(word)) == word);
}

TEST_CASE("threads share a tokenizer and its copies", "[tokenizer]") {
  NEEDS_PCRE2();
  const Tokenizer tokenizer = small();
  const std::vector<Case> all = cases();
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t, tokenizer = tokenizer] {
      for (int round = 0; round < 3; ++round)
        for (const Case& c : all)
          wrong[t] += ids_of(tokenizer.encode(c.text, {.special = Special::all})) != c.merges;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4));
}

TEST_CASE("a pattern's \\s is Unicode's White_Space, its $ the very end, and what it leaves out is text too",
          "[tokenizer]") {
  NEEDS_PCRE2();
  const auto pieces = [](const std::string& pattern, std::string_view text) {
    detail::Pattern::Matcher matcher(detail::Pattern("test", pattern));
    matcher.start(text);
    std::vector<std::string> all;
    for (std::string_view piece; !(piece = matcher.next()).empty();) all.emplace_back(piece);
    return all;
  };
  using Pieces = std::vector<std::string>;
  CHECK(pieces(R"(\s+)", "a \xc2\x85\xe3\x80\x80z\x0b") == Pieces{"a", " \xc2\x85\xe3\x80\x80", "z", "\x0b"});
  CHECK(pieces(R"([\s])", "\xe1\xa0\x8e \x1c") == Pieces{"\xe1\xa0\x8e", " ", "\x1c"});
  CHECK(pieces(R"(\S+)", "ab \xe1\xa0\x8e") == Pieces{"ab", " ", "\xe1\xa0\x8e"});
  CHECK(pieces("a$|a", "a\na") == Pieces{"a", "\n", "a"});
  CHECK(pieces("a$", "a\n") == Pieces{"a\n"});
  CHECK(pieces("x*", "axxb") == Pieces{"a", "xx", "b"});
  CHECK(pieces(R"((?i:'s))", "'\xc5\xbf'S") == Pieces{"'\xc5\xbf", "'S"});
  CHECK(pieces(R"(\p{N}{1,3})", "12345") == Pieces{"123", "45"});
  CHECK(pieces("x", "") == Pieces{});
  for (const char* wrong :
       {"(", "[a", R"(\p{NoSuch})", R"(\w+)", R"(a\b)", R"([a\S])", "[a[b]]", R"(\K)", "\\"}) {
    INFO(wrong);
    CHECK(throws([&] { detail::Pattern("test", wrong); }, {"test: the pattern"}));
  }
}

#if !ALTGRAD_BPE
TEST_CASE("without PCRE2 an error says what to install", "[tokenizer]") {
  CHECK(throws<std::runtime_error>([] { small(); },
                                   {"Tokenizer::gpt2", "built without PCRE2", "libpcre2-dev"}));
  CHECK(throws<std::runtime_error>([] { Tokenizer::train("text", 300); },
                                   {"Tokenizer::train", "libpcre2-dev"}));
  CHECK(throws<std::runtime_error>([] { Tokenizer::json(tokenizer_folder() + "/tokenizer.json"); },
                                   {"libpcre2-dev"}));
  CHECK(throws<std::runtime_error>(
      [] { Tokenizer::ranks(tokenizer_folder() + "/ranks.tiktoken", {.special_tokens = {}}); },
      {"libpcre2-dev"}));
}
#endif
