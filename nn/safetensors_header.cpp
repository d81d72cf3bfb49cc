// A recursive-descent reader of JSON (RFC 8259), and what the format asks of the object that it reads.
#include <altgrad/nn/internal/safetensors_header.h>

#include <altgrad/core/error.h>
#include <altgrad/core/internal/utf8.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <span>

namespace altgrad::detail {
namespace {

using Text = SafetensorsHeader::Text;
using Entry = SafetensorsHeader::Entry;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Reads the text from front to back. A decoded character is never longer than what stands for it, so that what is
// decoded lies behind the place that is read.
class Reader {
 public:
  explicit Reader(SafetensorsHeader& header) : header_(header), text_(header.text) {}

  void read() {
    if (here() != '{') fail("the header is not a JSON object");
    members([&](Text name) {
      if (header_[name] != metadata_key) return tensor(name);
      if (std::exchange(has_metadata_, true)) twice(name);
      metadata();
    });
    if (next() != end_of_text || at_ < text_.size()) malformed("something follows the object");
    sort(header_.tensors, [](const Entry& tensor) { return tensor.name; });
    sort(header_.metadata, [](const std::pair<Text, Text>& item) { return item.first; });
  }

 private:
  static constexpr char end_of_text = '\0';  // no JSON has it outside strings, nor in them

  // ---- The format ----

  void metadata() {
    if (next() == 'n') return literal("null");  // as the reference implementation has it
    if (next() != '{') fail(in_quotes(metadata_key), " is not an object");
    members([&](Text key) {
      if (next() != '"') fail(in_quotes(metadata_key), ": ", in_quotes(header_[key]), " is not a string");
      header_.metadata.emplace_back(key, string());
    });
  }

  void tensor(Text name) try {
    if (next() != '{') fail("is described by ", type(), ", not an object");
    std::optional<Text> dtype;
    std::optional<Shape> shape;
    std::optional<std::array<int64_t, 2>> offsets;
    members([&](Text key) {
      const std::string_view member = header_[key];
      const auto once = [&](const auto& earlier) {
        if (earlier) twice(key);
      };
      if (member == "dtype") {
        once(dtype);
        if (next() != '"') fail("dtype ", excerpt(), " is not a string");
        dtype = string();
      } else if (member == "shape") {
        once(shape);
        std::array<int64_t, Shape::max_dim> sizes;
        const size_t dim = whole_numbers("shape", sizes);
        if (dim > sizes.size()) fail("has ", dim, " dimensions, at most ", sizes.size(), " are possible");
        shape = Shape({sizes.data(), dim});
      } else if (member == "data_offsets") {
        once(offsets);
        const size_t count = whole_numbers("data_offsets", offsets.emplace());
        if (count != 2) fail("\"data_offsets\" must be two numbers, has ", count);
      } else {
        skip();
      }
    });
    if (!dtype) fail("has no \"dtype\"");
    if (!shape) fail("has no \"shape\"");
    if (!offsets) fail("has no \"data_offsets\"");
    const auto [begin, end] = *offsets;
    if (begin > end) fail("its data would end at ", end, " before it begins at ", begin);
    header_.tensors.push_back({name, *dtype, *shape, begin, end});
  } catch (const std::invalid_argument& e) {
    fail("tensor ", in_quotes(header_[name]), ": ", e.what());
  }

  // A list of whole numbers: the first ones to `numbers`. Returns how many there are.
  size_t whole_numbers(const char* key, std::span<int64_t> numbers) {
    if (next() != '[') fail("\"", key, "\" is not a list");
    size_t count = 0;
    elements([&] {
      const int64_t number = whole_number(key);
      if (count < numbers.size()) numbers[count] = number;
      ++count;
    });
    return count;
  }

  int64_t whole_number(const char* key) {
    next();
    const char *first = text_.data() + at_, *last = text_.data() + text_.size();
    int64_t number = -1;
    const auto [end, error] = std::from_chars(first, last, number);
    const bool ends = end == last || std::string_view(".eE").find(*end) == std::string_view::npos;
    const bool one_way = is_digit(*first) && (*first != '0' || end == first + 1);  // neither -0 nor 007
    if (error != std::errc() || !one_way || !ends) {
      fail("\"", key, "\" must hold whole numbers from 0 to 2^63 - 1, got ", excerpt());
    }
    at_ += size_t(end - first);
    return number;
  }

  // By name, and each name once: JSON itself lets the last of two win.
  template <class List, class Name>
  void sort(List& list, Name&& name) const {
    const auto less = [&](const auto& a, const auto& b) { return header_[name(a)] < header_[name(b)]; };
    std::sort(list.begin(), list.end(), less);
    const auto same = [&](const auto& a, const auto& b) { return !less(a, b); };
    const auto found = std::adjacent_find(list.begin(), list.end(), same);
    if (found != list.end()) twice(name(*found));
  }

  // ---- JSON ----

  char here() const { return at_ < text_.size() ? text_[at_] : end_of_text; }
  // The next character that is not white space, left where it is.
  char next() {
    while (here() == ' ' || here() == '\t' || here() == '\n' || here() == '\r') ++at_;
    return here();
  }
  bool accept(char c) { return next() == c && ++at_; }
  void expect(char c) {
    if (!accept(c)) malformed(concat("'", c, "' is missing"));
  }

  // The members of an object: f(name) reads the value. The elements of a list: f() does.
  template <class F>
  void members(F&& f) {
    expect('{');
    if (accept('}')) return;
    do {
      const Text name = string();
      expect(':');
      f(name);
    } while (accept(','));
    expect('}');
  }
  template <class F>
  void elements(F&& f) {
    expect('[');
    if (accept(']')) return;
    do f();
    while (accept(','));
    expect(']');
  }

  Text string() {
    expect('"');
    const size_t begin = at_;
    size_t end = at_;  // of what is decoded
    while (here() != '"') {
      if (here() == '\\') {
        end = escape(end);
        continue;
      }
      if (at_ == text_.size()) malformed("a string does not end");
      if (static_cast<unsigned char>(here()) < 0x20) malformed("a control character in a string");
      const int length = utf8_length(text_.substr(at_));
      if (length == 0) malformed("not UTF-8");
      for (int i = 0; i < length; ++i) header_.text[end++] = text_[at_++];
    }
    ++at_;
    return {uint32_t(begin), uint32_t(end - begin)};
  }

  // Decodes an escape to `end` of the text; returns where it then ends.
  size_t escape(size_t end) {
    constexpr std::string_view letters = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
    ++at_;
    const size_t letter = letters.find(here());
    if (letter != letters.npos) {
      ++at_;
      header_.text[end] = meanings[letter];
      return end + 1;
    }
    uint32_t code = utf16_unit();
    if (code >= 0xD800 && code < 0xDC00) {  // the first of a pair
      const uint32_t second = here() == '\\' && ++at_ ? utf16_unit() : 0;
      if (second < 0xDC00 || second >= 0xE000) malformed("half a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (second - 0xDC00);
    } else if (code >= 0xDC00 && code < 0xE000) {
      malformed("half a surrogate pair");
    }
    const int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;  // bytes after the first
    constexpr uint32_t leads[] = {0, 0xC0, 0xE0, 0xF0};
    header_.text[end++] = char(leads[more] | code >> 6 * more);
    for (int i = more - 1; i >= 0; --i) header_.text[end++] = char(0x80 | (code >> 6 * i & 0x3F));
    return end;
  }

  // After the backslash: u and four hexadecimal digits.
  uint32_t utf16_unit() {
    const std::string_view unit = text_.substr(at_, 5);
    if (unit.size() < 5 || unit[0] != 'u') malformed("no such escape");
    uint32_t code = 0;
    if (std::from_chars(unit.data() + 1, unit.data() + 5, code, 16).ptr != unit.data() + 5)
      malformed("no such escape");
    at_ += 5;
    return code;
  }

  // A value of any kind, as deep as the reference implementation reads.
  void skip(int depth = 0) {
    constexpr int most = 125;
    const bool opens = next() == '{' || next() == '[';
    if (opens && depth == most) fail("a member is nested more than ", most, " deep");
    switch (next()) {
      case '{': return members([&](Text) { skip(depth + 1); });
      case '[': return elements([&] { skip(depth + 1); });
      case '"': string(); return;
      case 't': return literal("true");
      case 'f': return literal("false");
      case 'n': return literal("null");
      default: return number();
    }
  }

  void literal(std::string_view word) {
    if (!text_.substr(at_).starts_with(word)) malformed("no value");
    at_ += word.size();
  }

  void number() {
    const auto digits = [&] {
      if (!is_digit(here())) malformed("no value");
      while (is_digit(here())) ++at_;
    };
    if (here() == '-') ++at_;
    if (here() == '0') {
      ++at_;
    } else {
      digits();
    }
    if (here() == '.') {
      ++at_;
      digits();
    }
    if (here() == 'e' || here() == 'E') {
      ++at_;
      if (here() == '+' || here() == '-') ++at_;
      digits();
    }
  }

  // ---- Errors ----

  const char* type() {
    switch (next()) {
      case '{': return "an object";
      case '[': return "an array";
      case '"': return "a string";
      case 't':
      case 'f': return "a boolean";
      case 'n': return "null";
      case '-': return "a number";
    }
    if (!is_digit(here())) malformed("no value");
    return "a number";
  }
  // What stands here, as it is written.
  std::string excerpt() const {
    const std::string_view rest = text_.substr(at_);
    return printable(rest.substr(0, rest.find_first_of(",]} \t\n\r")));
  }
  [[noreturn]] void malformed(const std::string& what) const {
    fail("the header is not JSON: ", what, " at byte ", at_);
  }
  [[noreturn]] void twice(Text name) const {
    fail("the header has the name ", in_quotes(header_[name]), " twice");
  }

  SafetensorsHeader& header_;
  const std::string_view text_;  // of the header
  size_t at_ = 0;                // what is read next
  bool has_metadata_ = false;
};

}  // namespace

SafetensorsHeader::SafetensorsHeader(std::string text_) : text(std::move(text_)) { Reader(*this).read(); }

}  // namespace altgrad::detail
