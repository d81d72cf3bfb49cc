// Vocabulary files: what is refused, and how it is named; what is written; what is learnt; bytes changed at random.
#include "tokenizers.h"

#include "errors.h"
#include "fuzz.h"
#include "temp_folder.h"

#include <altgrad/models/internal/bpe.h>
#include <altgrad/models/internal/byte_alphabet.h>
#include <altgrad/models/internal/vocabulary_files.h>

#include <cstdlib>
#include <functional>
#include <random>
#include <set>

using namespace altgrad;
using models::Special;
using models::Tokenizer;

namespace {

// The folder's small vocabulary: the 256 bytes, and what is added to them.
struct Files {
  std::string vocab = bytes() + ", \"th\": 256, \"the\": 257, \"<|end|>\": 258}",
              merges = "#version: 0.2\nt h\nth e\n";

  // {"!": 0, ... without the closing brace; bytes in the order of their values
  static std::string bytes() {
    std::string text = "{";
    for (int byte = 0; byte < 256; ++byte) {
      const char c = char(byte);
      const std::string name = detail::in_byte_alphabet({&c, 1});
      text += (byte ? ", \"" : "\"") + (name == "\"" || name == "\\" ? "\\" + name : name) +
              "\": " + std::to_string(byte);
    }
    return text;
  }
  Tokenizer load() const {
    const TempFolder folder;
    write_bytes(folder / "vocab.json", vocab);
    write_bytes(folder / "merges.txt", merges);
    return Tokenizer::gpt2(folder.path());
  }
  // Is it refused with a text that has all the parts?
  bool refused(std::initializer_list<std::string> parts) const {
    return throws([&] { load(); }, parts);
  }
};

std::string replaced(std::string text, const std::string& old, const std::string& now) {
  const size_t at = text.find(old);
  REQUIRE(at != text.npos);
  return text.replace(at, old.size(), now);
}

// Each costs a vocabulary.
int64_t mutations() {
#if defined(__SANITIZE_ADDRESS__)
  return fuzz_changes(100'000);
#else
  return fuzz_changes(5'000);
#endif
}

// Changes, takes out, repeats or moves bytes at a few places.
std::string mutated(std::string text, std::mt19937& random) {
  const auto at = [&] { return text.empty() ? 0 : random() % text.size(); };
  for (unsigned n = 1 + random() % 3; n > 0; --n) {
    switch (random() % 6) {
      case 0:
        if (!text.empty()) text[at()] = char(random() % 256);
        break;
      case 1: text.erase(at(), 1 + random() % 20); break;
      case 2: text.insert(at(), text.substr(at(), 1 + random() % 20)); break;
      case 3: text.insert(at(), 1, "\"{}[]:,\\ 0-9eu\n"[random() % 15]); break;
      case 4:
        if (random() % 8 == 0) text.resize(at());
        break;
      case 5:
        if (!text.empty()) std::swap(text[at()], text[at()]);
        break;
    }
  }
  return text;
}

// Reads mutations of two texts: each is refused by std::invalid_argument, or is a vocabulary. Some of either kind must
// come up. The larger text, which takes longer to read, has all bytes, and so makes tokenizers, which must lose none.
void fuzz(const std::string& small, const std::string& whole,
          const std::function<detail::Vocabulary(const std::string&)>& read) {
  std::mt19937 random(7);
  int good = 0, refused = 0, encoded = 0;
  for (int64_t i = mutations(); i > 0; --i) {
    const bool has_bytes = i % 16 == 0;
    const std::string now = mutated(has_bytes ? whole : small, random);
    try {
      detail::Vocabulary v = read(now);
      ++good;
      if (!has_bytes) continue;
      const detail::Pattern pattern("fuzz", v.pattern);
      const detail::Bpe bpe("fuzz", std::move(v), pattern);
      std::vector<int32_t> ids;
      const std::string sample = "the thin\xff then " + std::string(70, 't') + "he";
      bpe.take_encoder()->encode(sample, ids);
      std::string back;
      for (const int32_t id : ids) back += bpe.vocabulary().tokens.at(size_t(id));
      if (back != sample) FAIL("bytes were lost with " << now);
      ++encoded;
    } catch (const std::invalid_argument&) {
      ++refused;
    } catch (const std::runtime_error& e) {  // a pattern that never ends
      if (std::string(e.what()).find("PCRE2 gave up") == std::string::npos) throw;
    }
  }
  CHECK(good > mutations() / 100);
  CHECK(refused > mutations() / 100);
  CHECK(encoded > 0);
}

const std::string small_json = tokenizer_folder() + "/tokenizer.json";

}  // namespace

TEST_CASE("vocab.json and merges.txt that are not whole are refused", "[tokenizer]") {
  NEEDS_PCRE2();
  const Files good;
  const Tokenizer tokenizer = good.load();
  CHECK(ids_of(tokenizer.encode("the")) == std::vector<int64_t>{257});
  CHECK(tokenizer.special_tokens() == std::map<std::string, int64_t>{{"<|end|>", 258}});
  const auto vocab = [&](const std::string& old, const std::string& now) {
    return Files{replaced(good.vocab, old, now), good.merges};
  };
  const auto merges = [&](const std::string& text) { return Files{good.vocab, text}; };

  CHECK(vocab("258}", "258").refused({"Tokenizer::gpt2", "vocab.json", "not JSON, at byte"}));
  CHECK(Files{"", ""}.refused({"vocab.json", "not JSON"}));
  CHECK(vocab("258}", "1e999}").refused({"vocab.json", "too large"}));
  CHECK(Files{"[1, 2]", ""}.refused({"vocab.json", "not a JSON object"}));
  CHECK(vocab("258", "257").refused({"vocab.json", "id 257", "two tokens", "\"the\"", "\"<|end|>\""}));
  CHECK(vocab("258", "260").refused({"vocab.json", "no token has the id 258"}));
  CHECK(vocab("258", "-1").refused({"\"<|end|>\"", "-1", "[0, "}));
  CHECK(vocab("258", "1e300").refused({"\"<|end|>\"", "1e+300"}));
  CHECK(vocab("258", "18446744073709551615").refused({"\"<|end|>\"", "18446744073709551615"}));
  CHECK(vocab("258", "\"258\"").refused({"\"<|end|>\"", "258"}));
  CHECK(vocab("258", "{}").refused({"\"<|end|>\"", "an object"}));
  CHECK(vocab("<|end|>", "").refused({"id 258 is empty"}));
  CHECK(vocab("<|end|>", "the end").refused({"\"the end\"", "alphabet"}));
  CHECK(vocab("<|end|>", "\\ud800").refused({"vocab.json", "not JSON"}));
  CHECK(vocab("<|end|>", "\\udc00x").refused({"vocab.json", "not JSON"}));
  CHECK(vocab("<|end|>", "\xff").refused({"vocab.json", "not JSON"}));
  CHECK(vocab("\"a\": 97", "\"<a>\": 97").refused({"no token is the byte 97 alone"}));
  CHECK(vocab("<|end|>", "then")
            .refused({"merges.txt", "no merge makes token \"then\" of id 258", "cut short"}));

  CHECK(merges("t h\nth x\n").refused({"merges.txt", "merge 1", "\"thx\" is not in the vocabulary"}));
  CHECK(merges("t h\nth en\n").refused({"merge 1", "\"en\" is not in the vocabulary"}));
  CHECK(merges("t h\nth e\nt h\n").refused({"merge 2", "\"t\" and \"h\"", "before"}));
  CHECK(merges("t h\nthe\n").refused({"merge 1", "\"the\"", "a space between"}));
  CHECK(merges("t h\nt h e\n").refused({"merge 1", "\"t h e\""}));
  CHECK(merges("t h\nth e\r\n").refused({"merges.txt", "\\x0d", "alphabet"}));
  CHECK(merges("t h\n").refused({"no merge makes token \"the\"", "cut short"}));
  CHECK(merges("t h\n#version: 0.2\nth e\n").refused({"merge 1", "\"#version:\""}));
  CHECK(merges("t h\nth e").load().vocab_size() == 259);
}

TEST_CASE("a folder without a vocabulary, or with half of one, is named", "[tokenizer]") {
  NEEDS_PCRE2();
  const TempFolder folder;
  const auto load = [&] { Tokenizer::gpt2(folder.path()); };
  CHECK(throws<std::runtime_error>(load, {folder.path(), "neither vocab.json nor encoder.json"}));
  write_bytes(folder / "tokenizer.json", "{}");
  CHECK(throws<std::runtime_error>(load, {"tokenizer.json is for Tokenizer::json"}));
  const Files good;
  write_bytes(folder / "encoder.json", good.vocab);
  CHECK(throws<std::runtime_error>(load, {"vocab.bpe"}));
  write_bytes(folder / "vocab.bpe", good.merges);
  CHECK(Tokenizer::gpt2(folder.path()).vocab_size() == 259);
  CHECK(throws<std::runtime_error>([&] { Tokenizer::json(folder / "none"); }, {"Tokenizer::json", "none"}));
  CHECK(throws<std::runtime_error>([&] { Tokenizer::ranks(folder.path()); }, {"Tokenizer::ranks"}));
}

TEST_CASE("files of ranks that are not whole are refused", "[tokenizer]") {
  NEEDS_PCRE2();
  const TempFolder folder;
  const std::string good = read_bytes(tokenizer_folder() + "/ranks.tiktoken");
  const std::map<std::string, int64_t> end = {{"<|endoftext|>", 699}};
  const auto refused = [&](const std::string& text, std::initializer_list<std::string> parts,
                           models::RanksOptions options = {.special_tokens = {}}) {
    write_bytes(folder / "ranks", text);
    return throws([&] { Tokenizer::ranks(folder / "ranks", options); }, parts);
  };
  CHECK(refused(replaced(good, "IQ== 0\n", "IQ= 0\n"),
                {"Tokenizer::ranks", "line 1", "\"IQ=\" is not base64"}));
  CHECK(refused(replaced(good, "IQ== 0\n", "I!== 0\n"), {"line 1", "not base64"}));
  CHECK(refused(replaced(good, "IQ== 0\n", "IR== 0\n"), {"line 1", "not base64"}));  // bits that are lost
  CHECK(refused(replaced(good, "IQ== 0\n", " 0\n"), {"line 1", "not base64"}));
  CHECK(refused(replaced(good, "IQ== 0\n", "IQ==\n"), {"line 1", "\"IQ==\"", "does not end in a rank"}));
  CHECK(refused(replaced(good, "IQ== 0\n", "IQ== x\n"), {"line 1", "does not end in a rank"}));
  CHECK(refused(replaced(good, "IQ== 0\n", "IQ== -3\n"), {"line 1", "does not end in a rank"}));
  CHECK(refused(replaced(good, "IQ== 0\n", "IQ== 99999999999999999999\n"),
                {"line 1", "does not end in a rank"}));
  CHECK(refused(replaced(good, "IQ== 0\n", "IQ== 0 \n"), {"line 1", "does not end in a rank"}));
  CHECK(refused(replaced(good, "IQ== 0\n", "IQ== 1\n"), {"id 1", "two tokens"}));
  CHECK(refused(replaced(good, "IQ== 0\n", ""), {"no token has the id 0"}));
  CHECK(refused(good + "IQ== 699\n", {"\"!\" has two ids"}));
  CHECK(refused("", {"no token is the byte 0 alone"}));
  CHECK(refused(good, {"id 5", "two tokens"}, {.special_tokens = {{"<|endoftext|>", 5}}}));
  CHECK(refused(good, {"\"<|endoftext|>\"", "-1"}, {.special_tokens = {{"<|endoftext|>", -1}}}));
  CHECK(refused(good, {"is empty"}, {.special_tokens = {{"", 699}}}));
  CHECK(refused(good, {"Tokenizer::ranks: the pattern \"(\""}, {.pattern = "(", .special_tokens = end}));
}

TEST_CASE("tokenizer.json of other kinds is refused by the name of what differs", "[tokenizer]") {
  NEEDS_PCRE2();
  const TempFolder folder;
  const std::string good = read_bytes(small_json);
  const auto load = [&](const std::string& old, const std::string& now) {
    write_bytes(folder / "x.json", replaced(good, old, now));
    return Tokenizer::json(folder / "x.json");
  };
  const auto refused = [&](const std::string& old, const std::string& now,
                           std::initializer_list<std::string> parts) {
    return throws([&] { load(old, now); }, parts);
  };
  const std::string model = R"("type":"BPE")", normalizer = R"("normalizer":null)";
  CHECK(refused(model, R"("type":"WordPiece")", {"Tokenizer::json", "x.json", "WordPiece", "BPE"}));
  CHECK(load(model + ",", "").vocab_size() ==
        Tokenizer::json(small_json).vocab_size());  // as GPT-2's on the Hub
  CHECK(refused(model, R"("type":"BPE","more":1e999)", {"x.json", "too large"}));
  CHECK(refused(model, R"("type":[[[]]])", {"an array", "BPE"}));
  CHECK(refused(normalizer, R"("normalizer":{"type":"NFC"})", {"normalizer", "NFC"}));
  CHECK(refused(R"("type":"ByteLevel")", R"("type":"Metaspace")", {"pre_tokenizer", "Metaspace"}));
  CHECK(refused(R"("add_prefix_space":false)", R"("add_prefix_space":true)", {"add_prefix_space true"}));
  CHECK(refused(R"("use_regex":true)", R"("use_regex":false)", {"use_regex false"}));
  CHECK(refused(R"("dropout":null)", R"("dropout":0.1)", {"dropout 0.1"}));
  CHECK(refused(R"("byte_fallback":false)", R"("byte_fallback":true)", {"byte_fallback true"}));
  CHECK(refused(R"("end_of_word_suffix":null)", R"("end_of_word_suffix":"</w>")",
                {"end_of_word_suffix", "</w>"}));
  CHECK(refused(R"("lstrip":false)", R"("lstrip":true)", {"<|endoftext|>", "lstrip"}));
  CHECK(refused(R"("id":0)", R"("id":700)", {"added token", "\"<|endoftext|>\"", "700", "0 in vocab"}));
  CHECK(refused(R"("content":"<|endoftext|>")", R"("content":7)", {"content", "7", "not a string"}));
  CHECK(refused(R"("merges":[)", R"("merges":[["a"],)", {"a merge", "an array"}));
  CHECK(refused(R"("merges":[)", R"("merges":["a qqq",)", {"merge 0", "not in the vocabulary"}));
  CHECK(refused(R"("vocab":{)", R"("vocab":[],"x":{)", {"vocab"}));
  CHECK(refused(normalizer, "\"\\ud800\":1," + normalizer, {"not JSON"}));
  std::string deep = "\"x\":";
  for (int i = 0; i < 200'000; ++i) deep += "[";
  for (int i = 0; i < 200'000; ++i) deep += "]";
  CHECK(load(normalizer, deep + "," + normalizer).vocab_size() == 700);
  CHECK(refused(normalizer, "\"normalizer\":{\"type\":" + deep.substr(4) + "}", {"normalizer", "an array"}));
  write_bytes(folder / "x.json", "3");
  CHECK(throws([&] { Tokenizer::json(folder / "x.json"); }, {"not a JSON object"}));

  // Newer files have merges as pairs, and the pattern in a Split.
  const std::string merge = R"("merges":[[)";
  if (good.find(merge) == std::string::npos) REQUIRE(good.find(R"("merges":[")") != std::string::npos);
  const std::string byte_level = good.substr(good.find(R"({"type":"ByteLevel","add_prefix_space":false)"));
  const std::string alone = byte_level.substr(0, byte_level.find('}') + 1);
  const auto split = [&](const std::string& behavior) {
    return R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"\\p{L}|x+"},"behavior":")" +
           behavior + R"(","invert":false},)" +
           replaced(alone, R"("use_regex":true)", R"("use_regex":false)") + "]}";
  };
  CHECK(load(alone, split("Isolated")).encode("the").numel() == 3);
  CHECK(refused(alone, split("Removed"), {"Split", "Isolated"}));
  CHECK(refused(alone, R"({"type":"Sequence","pretokenizers":[]})", {"pre_tokenizer"}));

  // A token that was added and is not special is never text.
  const Tokenizer added = load(R"("special":true)", R"("special":false)");
  CHECK(ids_of(added.encode("<|endoftext|>")) == std::vector<int64_t>{0});
  CHECK(added.special_tokens().empty());
  // With ignore_merges a piece that is a token is that token.
  const std::string vocab_entry = R"("vocab":{"<|endoftext|>":0,)";
  const auto whole = [&](const char* value) {
    write_bytes(folder / "x.json",
                replaced(replaced(good, R"("ignore_merges":false)", concat("\"ignore_merges\":", value)),
                         vocab_entry, vocab_entry + "\"qzqz\":700,"));
    return ids_of(Tokenizer::json(folder / "x.json").encode("qzqz"));
  };
  CHECK(whole("true") == std::vector<int64_t>{700});
  CHECK(whole("false").size() == 4);
}

TEST_CASE("files of vocabularies with bytes changed at random are read or refused", "[tokenizer][fuzz]") {
  NEEDS_PCRE2();
  const Files whole;
  const std::string small = R"({"t": 0, "h": 1, "e": 2, "th": 3, "the": 4, "<|end|>": 5})";
  SECTION("vocab.json") {
    fuzz(small, whole.vocab, [&](const std::string& text) {
      return detail::read_gpt2({"v", text}, {"m", whole.merges});
    });
  }
  SECTION("merges.txt") {
    int64_t i = 0;  // as fuzz counts
    fuzz(whole.merges, whole.merges, [&](const std::string& text) {
      return detail::read_gpt2({"v", (mutations() - i++) % 16 == 0 ? whole.vocab : small}, {"m", text});
    });
  }
  SECTION("ranks") {
    const std::string all = read_bytes(tokenizer_folder() + "/ranks.tiktoken");
    fuzz("dA== 0\naA== 1\nZQ== 2\ndGg= 3\ndGhl 4\n", all.substr(0, all.find(" 279\n") + 5),
         [&](const std::string& text) {
           return detail::read_ranks({"r", text}, {.special_tokens = {}});
         });
  }
  SECTION("tokenizer.json") {
    const auto json = [](const std::string& id, const std::string& vocab) {
      return R"({"added_tokens":[{"id":)" + id +
             R"(,"content":"<|end|>","special":true}],"normalizer":null,"pre_tokenizer":{"type":"Sequence",)"
             R"("pretokenizers":[{"type":"Split","pattern":{"Regex":"\\s?\\p{L}+|."},"behavior":"Isolated","invert":)"
             R"(false},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]},"model":{"type":"BPE","merges":)"
             R"(["t h",["th","e"]],"vocab":)" +
             vocab + "}}";
    };
    fuzz(json("5", small), json("258", whole.vocab), [&](const std::string& now) {
      return detail::read_tokenizer_json({"t", now});
    });
  }
}

TEST_CASE("a tokenizer that is saved is read again, here and by its files' own readers", "[tokenizer]") {
  NEEDS_PCRE2();
  const TempFolder folder;
  const Tokenizer learnt = Tokenizer::train(read_bytes(ALTGRAD_SOURCE_DIR "/README.md"), 400);
  learnt.save(folder / "new/tokenizer");
  const Tokenizer again = Tokenizer::gpt2(folder / "new/tokenizer");
  CHECK(again.vocab_size() == 400);
  CHECK(again.special_tokens() == learnt.special_tokens());
  const std::string text = read_bytes(ALTGRAD_SOURCE_DIR "/.github/CONTRIBUTING.md") + "\xff<|endoftext|>";
  CHECK(ids_of(again.encode(text)) == ids_of(learnt.encode(text)));

  // Files that came from elsewhere are written as they were.
  Tokenizer::gpt2(tokenizer_folder()).save(folder / "copy");
  CHECK(read_bytes(folder / "copy/merges.txt") == read_bytes(tokenizer_folder() + "/merges.txt"));
  const Tokenizer ranks = Tokenizer::ranks(tokenizer_folder() + "/ranks.tiktoken", {.special_tokens = {}});
  CHECK(throws([&] { ranks.save(folder / "ranks"); }, {"Tokenizer::save", "ranks"}));
  CHECK(!std::filesystem::exists(folder / "ranks"));
  write_bytes(folder / "file", "");
  CHECK(throws<std::runtime_error>([&] { learnt.save(folder / "file"); }, {"Tokenizer::save", "file"}));
}

namespace {

// As train() says, and nothing else: all pairs are counted again for each merge.
std::vector<std::string> learnt_plainly(const std::string& text, size_t vocab_size) {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, char(byte));
  std::vector<std::vector<int>> words;
  detail::Pattern::Matcher matcher(detail::Pattern("test", models::gpt2_pattern));
  matcher.start(text);
  for (std::string_view piece; !(piece = matcher.next()).empty();) {
    words.emplace_back();
    for (const unsigned char byte : piece) words.back().push_back(byte);
  }
  while (tokens.size() + 1 < vocab_size) {
    std::map<std::pair<int, int>, int> counts;
    for (const auto& word : words)
      for (size_t i = 0; i + 1 < word.size(); ++i) ++counts[{word[i], word[i + 1]}];
    std::pair<int, int> best;
    int most = 1;
    for (const auto& [pair, count] : counts)
      if (count > most) most = count, best = pair;
    if (most < 2) break;
    const int merged = int(tokens.size());
    tokens.push_back(tokens[size_t(best.first)] + tokens[size_t(best.second)]);
    for (auto& word : words) {
      for (size_t i = 0; i + 1 < word.size(); ++i) {
        if (std::pair(word[i], word[i + 1]) != best) continue;
        word[i] = merged;
        word.erase(word.begin() + int64_t(i) + 1);
      }
    }
  }
  tokens.push_back("<|endoftext|>");
  return tokens;
}

}  // namespace

TEST_CASE("train learns what counting all pairs anew for each merge does", "[tokenizer]") {
  NEEDS_PCRE2();
  std::mt19937 random(5);
  std::string letters, bytes;
  for (int i = 0; i < 3000; ++i) letters += "aab \n"[random() % 5];
  for (int i = 0; i < 2000; ++i) bytes += char(random() % 256);
  const std::string text = read_bytes(ALTGRAD_SOURCE_DIR "/README.md").substr(0, 12000);
  for (const std::string& sample :
       {text, letters, bytes, std::string(500, 'a'), std::string("abcabc"), std::string()}) {
    const std::vector<std::string> expected = learnt_plainly(sample, 330);
    const Tokenizer tokenizer = Tokenizer::train(sample, 330);
    REQUIRE(tokenizer.vocab_size() == int64_t(expected.size()));
    std::vector<std::string> tokens;
    for (int64_t id = 0; id < tokenizer.vocab_size(); ++id)
      tokens.push_back(tokenizer.decode_bytes(Tensor::from({id}, {1})));
    CHECK(tokens == expected);
    CHECK(tokenizer.decode_bytes(tokenizer.encode(sample)) == sample);
  }
  // A word is as long as the text where nothing in it is a space: no merge may go through all of it.
  std::string genome;
  for (int i = 0; i < 200000; ++i) genome += "acgt"[random() % 4];
  const Tokenizer of_one_word = Tokenizer::train(genome, 2000);
  CHECK(of_one_word.vocab_size() == 2000);
  CHECK(of_one_word.decode_bytes(of_one_word.encode(genome)) == genome);
  CHECK(Tokenizer::train("", 257).vocab_size() == 257);
  CHECK(throws([] { Tokenizer::train("text", 256); }, {"Tokenizer::train", "256", "[257, "}));
  CHECK(throws([] { Tokenizer::train("text", int64_t(1) << 40); }, {"Tokenizer::train", "1099511627776"}));
}
