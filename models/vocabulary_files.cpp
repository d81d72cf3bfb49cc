// What is asked of vocabulary files: each id once and none left out, merges of tokens that there are into one that
// there is. Nothing is repaired: a tokenizer that is nearly right gives wrong ids without a word.
#include <altgrad/models/internal/vocabulary_files.h>

#include <altgrad/core/error.h>
#include <altgrad/core/internal/utf8.h>
#include <altgrad/models/internal/byte_alphabet.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <unordered_map>
#include <unordered_set>

namespace altgrad::detail {
namespace {

using nlohmann::json;
constexpr int64_t most_ids = 1 << 24;

json parse(const NamedText& file) {
  try {
    return json::parse(file.text);
  } catch (const json::parse_error& e) {
    fail(file.name, " is not JSON, at byte ", e.byte);
  } catch (const json::out_of_range&) {
    fail(file.name, " has a number that is too large for a double");
  }
}

// For errors. What has members may be nested too deep for a function that calls itself.
std::string shown(const json& value) {
  return value.is_primitive() ? printable(value.dump(-1, ' ', /*ensure_ascii=*/true))
                              : concat("an ", value.type_name());
}

int64_t id_of(const std::string& file, const std::string& token, const json& value) {
  const bool whole = value.is_number_integer();
  const bool fits = whole && (!value.is_number_unsigned() || value.get<uint64_t>() < uint64_t(most_ids));
  const int64_t id = fits ? value.get<int64_t>() : -1;
  if (id < 0 || id >= most_ids) {
    fail(file, ": the id of token ", in_quotes(token), " is ", shown(value), ", must be in [0, ", most_ids,
         ")");
  }
  return id;
}

// Gathers tokens by id.
class Tokens {
 public:
  explicit Tokens(const std::string& file) : file_(file) {}

  void add(const std::string& bytes, int64_t id) {
    if (bytes.empty()) fail(file_, ": the token of id ", id, " is empty");
    if (!ids_.emplace(bytes, int32_t(id)).second) fail(file_, ": token ", in_quotes(bytes), " has two ids");
    if (id >= int64_t(tokens_.size())) tokens_.resize(size_t(id) + 1);
    std::string& place = tokens_[size_t(id)];
    if (!place.empty()) {
      fail(file_, ": id ", id, " is that of two tokens, ", in_quotes(place), " and ", in_quotes(bytes));
    }
    place = bytes;
  }
  // -1 where it is none.
  int32_t find(const std::string& bytes) const {
    const auto found = ids_.find(bytes);
    return found == ids_.end() ? -1 : found->second;
  }
  // Each id up to the largest so far must be some token's.
  void check_no_gap(int64_t n) const {
    for (int64_t id = 0; id < n; ++id)
      if (tokens_[size_t(id)].empty())
        fail(file_, ": no token has the id ", id, ", and there are larger ones");
  }
  int64_t size() const { return int64_t(tokens_.size()); }
  const std::string& operator[](size_t id) const { return tokens_[id]; }
  std::vector<std::string> take() { return std::move(tokens_); }

 private:
  std::string file_;
  std::vector<std::string> tokens_;
  std::unordered_map<std::string, int32_t> ids_;
};

std::string token_bytes(const std::string& file, const std::string& token) {
  std::optional<std::string> bytes = from_byte_alphabet(token);
  if (!bytes) fail(file, ": token ", in_quotes(token), " is not written in GPT-2's alphabet of bytes");
  return *bytes;
}

// Adds the merge of two tokens, as a file has them; its rank is how many came before.
class Merges {
 public:
  Merges(const std::string& file, const Tokens& tokens) : file_(file), tokens_(tokens) {}
  void add(const std::string& left, const std::string& right) {
    const std::string a = token_bytes(file_, left), b = token_bytes(file_, right);
    const Merge merge = {tokens_.find(a), tokens_.find(b), tokens_.find(a + b), uint32_t(merges_.size())};
    if (std::min({merge.left, merge.right, merge.merged}) < 0) {
      fail(file_, ": merge ", merges_.size(), ", of ", in_quotes(left), " and ", in_quotes(right), ": ",
           in_quotes(merge.left < 0    ? left
                     : merge.right < 0 ? right
                                       : left + right),
           " is not in the vocabulary");
    }
    if (!pairs_.insert(uint64_t(merge.left) << 32 | uint32_t(merge.right)).second) {
      fail(file_, ": merge ", merges_.size(), ", of ", in_quotes(left), " and ", in_quotes(right),
           ", has been there before");
    }
    merges_.push_back(merge);
  }
  // "left right"
  void add_line(std::string_view line) {
    const size_t space = line.find(' ');
    if (space == line.npos || line.find(' ', space + 1) != line.npos) {
      fail(file_, ": merge ", merges_.size(), " is ", in_quotes(line),
           ", not two tokens and a space between them");
    }
    add(std::string(line.substr(0, space)), std::string(line.substr(space + 1)));
  }
  std::vector<Merge> take() { return std::move(merges_); }

 private:
  std::string file_;
  const Tokens& tokens_;
  std::vector<Merge> merges_;
  std::unordered_set<uint64_t> pairs_;
};

// Calls f(line, number) on each line; the last one may lack its end.
void for_each_line(std::string_view text, auto&& f) {
  for (size_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    f(text.substr(0, end), number);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

// RFC 4648, padded. None where it is not.
std::optional<std::string> from_base64(std::string_view text) {
  constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  if (text.empty() || text.size() % 4 != 0) return {};
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  text.remove_suffix(padding);
  std::string bytes;
  uint32_t bits = 0;
  size_t held = 0;
  for (const char c : text) {
    const size_t digit = digits.find(c);
    if (digit == digits.npos) return {};
    bits = bits << 6 | uint32_t(digit);
    held += 6;
    if (held >= 8) bytes += char(bits >> (held -= 8) & 0xFF);
  }
  return bits & ((1u << held) - 1) ? std::nullopt
                                   : std::optional(bytes);  // bits that stand for nothing are 0
}

}  // namespace

Vocabulary read_gpt2(const NamedText& vocab, const NamedText& merges) {
  const json object = parse(vocab);
  if (!object.is_object()) fail(vocab.name, " is not a JSON object of tokens and their ids");
  Tokens tokens(vocab.name);
  for (const auto& [token, id] : object.items())
    tokens.add(token_bytes(vocab.name, token), id_of(vocab.name, token, id));
  tokens.check_no_gap(tokens.size());

  Merges read(merges.name, tokens);
  for_each_line(merges.text, [&](std::string_view line, size_t number) {
    if (!(number == 1 && line.starts_with("#version")) && !line.empty()) read.add_line(line);
  });
  Vocabulary v{.merges = read.take(), .pattern = models::gpt2_pattern};
  std::vector<bool> is_made(size_t(tokens.size()));
  for (const Merge& merge : v.merges) is_made[size_t(merge.merged)] = true;
  for (size_t id = 0; id < is_made.size(); ++id) {
    const std::string& token = tokens[id];
    if (is_made[id] || token.size() == 1) continue;
    if (!token.starts_with('<') || !token.ends_with('>')) {
      fail(merges.name, ": no merge makes token ", in_quotes(token), " of id ", id,
           ": has it been cut short?");
    }
    v.special.emplace(token, int64_t(id));
  }
  v.tokens = tokens.take();
  return v;
}

Vocabulary read_ranks(const NamedText& file, const models::RanksOptions& options) {
  Tokens tokens(file.name);
  for_each_line(file.text, [&](std::string_view line, size_t number) {
    if (line.empty()) return;
    const auto space = size_t(std::ranges::find(line, ' ') - line.begin());
    const std::optional<std::string> token = from_base64(line.substr(0, space));
    if (!token) fail(file.name, ", line ", number, ": ", in_quotes(line.substr(0, space)), " is not base64");
    int64_t rank = -1;
    const char* end = line.data() + line.size();
    const auto parsed = std::from_chars(line.data() + std::min(space + 1, line.size()), end, rank);
    if (parsed.ec != std::errc() || parsed.ptr != end || rank < 0 || rank >= most_ids) {
      fail(file.name, ", line ", number, ": ", in_quotes(line), " does not end in a rank in [0, ", most_ids,
           ")");
    }
    tokens.add(*token, rank);
  });
  const int64_t ranks = tokens.size();

  // Any two tokens that are one together merge, as early as that one's rank says.
  Vocabulary v{.pattern = options.pattern, .whole_pieces = true};
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const std::string& token = tokens[size_t(rank)];
    for (size_t cut = 1; cut < token.size(); ++cut) {
      const int32_t left = tokens.find(token.substr(0, cut));
      const int32_t right = left < 0 ? -1 : tokens.find(token.substr(cut));
      if (right >= 0) v.merges.push_back({left, right, int32_t(rank), uint32_t(rank)});
    }
  }
  for (const auto& [token, id] : options.special_tokens) {
    if (id < 0 || id >= most_ids)
      fail("Tokenizer::ranks: the id of ", in_quotes(token), " must be in [0, ", most_ids, "), got ", id);
    tokens.add(token, id);
  }
  tokens.check_no_gap(ranks);
  v.special = options.special_tokens;
  v.tokens = tokens.take();
  return v;
}

namespace {

// A tokenizer.json, asked for its parts. What is absent is null.
class TokenizerJson {
 public:
  explicit TokenizerJson(const NamedText& file) : file_(file.name), root_(parse(file)) {
    if (!root_.is_object()) refuse("it is not a JSON object");
  }

  Vocabulary read() {
    const json& model = member(root_, "model");
    check_model(model);
    if (const json& normalizer = member(root_, "normalizer"); !normalizer.is_null())
      refuse("its normalizer is ", shown(member(normalizer, "type")), ", which changes the text");
    Vocabulary v{.pattern = pattern(), .whole_pieces = member(model, "ignore_merges") == true};
    add_added(v);
    add_vocabulary(member(model, "vocab"), v);
    add_merges(member(model, "merges"), v);
    v.tokens = tokens_.take();
    return v;
  }

 private:
  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    fail(file_, ": ", parts...);
  }
  static const json& member(const json& object, const char* name) {
    static const json absent;
    if (!object.is_object()) return absent;
    const auto found = object.find(name);
    return found == object.end() ? absent : *found;
  }
  std::string string(const json& value, const char* what) const {
    if (!value.is_string()) refuse(what, " is ", shown(value), ", not a string");
    return value.get<std::string>();
  }

  void check_model(const json& model) const {
    const json& type =
        member(model, "type");  // files of before there was one, GPT-2's on the Hub too, are BPE's
    if (type != "BPE" && !(type.is_null() && member(model, "merges").is_array()))
      refuse("its model is ", shown(type), ", not \"BPE\"");
    for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix", "unk_token"}) {
      const json& value = member(model, name);
      const bool off =
          value.is_null() || value == "" || std::string_view(name) == "unk_token";  // each byte is known
      if (!off) refuse("its model has ", name, " ", shown(value), ": not byte-level BPE");
    }
    for (const char* name : {"dropout", "byte_fallback"}) {
      const json& value = member(model, name);
      if (!value.is_null() && value != false && value != 0) refuse("its model has ", name, " ", shown(value));
    }
  }

  // GPT-2's, where ByteLevel stands alone; that of the Split before it.
  std::string pattern() const {
    const json& part = member(root_, "pre_tokenizer");
    std::vector<const json*> parts = {&part};
    if (member(part, "type") == "Sequence") {
      parts.clear();
      for (const json& one : list(member(part, "pretokenizers"))) parts.push_back(&one);
    }
    for (const json* one : parts) {
      const json& kind = member(*one, "type");
      if (kind != "ByteLevel" && kind != "Split")
        refuse("its pre_tokenizer has ", shown(kind), "; ByteLevel can be read, alone or after one Split");
    }
    const bool alone = parts.size() == 1;
    if (parts.empty() || parts.size() > 2 || (!alone && member(*parts[0], "type") != "Split") ||
        member(*parts.back(), "type") != "ByteLevel") {
      refuse("its pre_tokenizer is neither ByteLevel alone nor ByteLevel after one Split");
    }
    const json& bytes = *parts.back();
    const json &prefix = member(bytes, "add_prefix_space"), &own = member(bytes, "use_regex");
    if (prefix != false) refuse("its ByteLevel has add_prefix_space ", shown(prefix), ", not false");
    if ((own == false) == alone)
      refuse("its ByteLevel has use_regex ", shown(own), alone ? " alone" : " after a Split");
    if (alone) return models::gpt2_pattern;
    const json& split = *parts[0];
    const json& expression = member(member(split, "pattern"), "Regex");
    if (member(split, "behavior") != "Isolated" || member(split, "invert") == true ||
        !expression.is_string()) {
      refuse("its Split is not one by a Regex, with behavior \"Isolated\"");
    }
    return expression.get<std::string>();
  }

  const json& list(const json& value) const {
    if (!value.is_array()) refuse(shown(value), " is not a list");
    return value;
  }

  void add_added(Vocabulary& v) {
    const json& added = member(root_, "added_tokens");
    if (added.is_null()) return;
    for (const json& token : list(added)) {
      const std::string content = string(member(token, "content"), "the content of an added token");
      for (const char* flag : {"lstrip", "rstrip", "single_word"}) {
        if (member(token, flag) == true) refuse("its added token ", in_quotes(content), " has ", flag);
      }
      const int64_t id = id_of(file_, content, member(token, "id"));
      tokens_.add(content, id);
      (member(token, "special") == true ? v.special : v.added).emplace(content, id);
    }
  }

  void add_vocabulary(const json& vocab, const Vocabulary& v) {
    if (!vocab.is_object()) refuse("its vocab is not an object of tokens and their ids");
    int64_t n = 0;
    for (const auto& [token, value] : vocab.items()) {
      const int64_t id = id_of(file_, token, value);
      n = std::max(n, id + 1);
      const bool is_added = v.special.contains(token) || v.added.contains(token);
      if (!is_added) {
        tokens_.add(token_bytes(file_, token), id);
      } else if (tokens_.find(token) != id) {
        refuse("added token ", in_quotes(token), " has the id ", tokens_.find(token), ", and ", id,
               " in vocab");
      }
    }
    tokens_.check_no_gap(n);
  }

  // "left right", or, in newer files, ["left", "right"].
  void add_merges(const json& merges, Vocabulary& v) const {
    Merges read(file_, tokens_);
    for (const json& merge : list(merges)) {
      if (merge.is_array() && merge.size() == 2) {
        read.add(string(merge[0], "a merge's token"), string(merge[1], "a merge's token"));
      } else {
        read.add_line(string(merge, "a merge"));
      }
    }
    v.merges = read.take();
  }

  std::string file_;
  json root_;
  Tokens tokens_{file_};
};

}  // namespace

Vocabulary read_tokenizer_json(const NamedText& file) { return TokenizerJson(file).read(); }

std::pair<std::string, std::string> gpt2_files(const Vocabulary& v) {
  std::string vocab = "{", merges = "#version: 0.2\n";
  const auto token = [&](int32_t id) { return in_byte_alphabet(v.tokens[size_t(id)]); };
  for (size_t id = 0; id < v.tokens.size(); ++id)
    vocab += concat(id ? ", " : "", json(token(int32_t(id))).dump(), ": ", id);
  for (const Merge& merge : v.merges) merges += token(merge.left) + ' ' + token(merge.right) + '\n';
  return {vocab + "}\n", merges};
}

}  // namespace altgrad::detail
