// PCRE2, compiled to machine code where the system allows it. It is given UTF-8 only, and told so: it would check all
// of a text again for each piece.
#include <altgrad/models/internal/pattern.h>

#include <altgrad/core/error.h>
#include <altgrad/core/internal/utf8.h>

#include <cstdint>
#include <cstring>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace altgrad::detail {
namespace {

// Unicode's White_Space. PCRE2's own \s has U+180E as well.
constexpr std::string_view white_space =
    R"(\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

// The pattern as PCRE2 has to be told it.
std::string in_pcre2(const std::string& who, const std::string& pattern) {
  std::string translated;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i], escaped = c == '\\' && i + 1 < pattern.size() ? pattern[i + 1] : '\0';
    if (!escaped) {
      if (c == '[' && in_class) fail(who, ": the pattern has a class in a class: ", in_quotes(pattern));
      if (c == '[') in_class = true;
      if (c == ']') in_class = false;
      translated += c;
      continue;
    }
    ++i;
    const bool spaces = escaped == 's' || escaped == 'S';
    if (std::string_view("wWbBKQ").find(escaped) != std::string_view::npos || (escaped == 'S' && in_class)) {
      fail(who, ": the pattern has \\", std::string(1, escaped), in_class ? " in a class" : "",
           ", which means something else in PCRE2: ", in_quotes(pattern));
    }
    if (spaces && !in_class) translated += escaped == 's' ? "[" : "[^";
    translated += spaces ? std::string(white_space) : std::string{c, escaped};
    if (spaces && !in_class) translated += ']';
  }
  return translated;
}

// Bytes at the beginning that are UTF-8, and those that are not.
size_t valid_bytes(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    uint64_t eight = 0;
    if (text.size() - at >= 8 && (std::memcpy(&eight, &text[at], 8), (eight & 0x8080808080808080) == 0)) {
      at += 8;
    } else if (static_cast<unsigned char>(text[at]) < 0x80) {
      ++at;
    } else if (const int length = utf8_length(text.substr(at, 4))) {
      at += size_t(length);
    } else {
      break;
    }
  }
  return at;
}
size_t invalid_bytes(std::string_view text) {
  size_t at = 0;
  while (at < text.size() && utf8_length(text.substr(at, 4)) == 0) ++at;
  return at;
}

const pcre2_code* code_of(const std::shared_ptr<const void>& code) {
  return static_cast<const pcre2_code*>(code.get());
}
pcre2_match_data* data_of(const std::shared_ptr<void>& match) {
  return static_cast<pcre2_match_data*>(match.get());
}

std::string error_text(int error) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(error, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

}  // namespace

Pattern::Pattern(const std::string& who, const std::string& pattern) : text_(pattern) {
  const std::string translated = in_pcre2(who, pattern);
  int error = 0;
  size_t at = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY | PCRE2_NEVER_BACKSLASH_C,
                                   &error, &at, nullptr);
  if (!code) fail(who, ": the pattern ", in_quotes(pattern), " is not one of PCRE2's: ", error_text(error));
  code_ = {code, [](const void* old) { pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(old))); }};
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // else it is interpreted
}

Pattern::Matcher::Matcher(const Pattern& pattern)
    : code_(pattern.code_),
      match_(pcre2_match_data_create_from_pattern(code_of(code_), nullptr),
             [](void* old) { pcre2_match_data_free(static_cast<pcre2_match_data*>(old)); }) {
  size_t machine_code = 0;
  has_jit_ = pcre2_pattern_info(code_of(code_), PCRE2_INFO_JITSIZE, &machine_code) == 0 && machine_code > 0;
}

// Sets [found_, end_) to the next match that is not empty, or to the end of what is UTF-8.
void Pattern::Matcher::find() {
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text_.data());
  const auto match = [&](uint32_t options) {
    return pcre2_match(code_of(code_), subject, valid_, at_, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY | options,
                       data_of(match_), nullptr);
  };
  int result = has_jit_ ? pcre2_jit_match(code_of(code_), subject, valid_, at_, PCRE2_NOTEMPTY,
                                          data_of(match_), nullptr)
                        : match(0);
  if (result == PCRE2_ERROR_JIT_STACKLIMIT)
    result = match(PCRE2_NO_JIT);  // it takes its memory from the heap
  if (result < 0 && result != PCRE2_ERROR_NOMATCH) {
    fail_runtime("encode: PCRE2 gave up at byte ", at_, " of a text of ", text_.size(), ": ",
                 error_text(result));
  }
  const size_t* place = pcre2_get_ovector_pointer(data_of(match_));
  found_ = result < 0 ? valid_ : place[0];
  end_ = result < 0 ? valid_ : place[1];
}

std::string_view Pattern::Matcher::next() {
  const size_t from = at_;
  if (at_ == valid_) {
    at_ += invalid_bytes(text_.substr(at_));
    if (at_ > from) {
      found_ = end_ = valid_ = at_;
      return text_.substr(from, at_ - from);
    }
    valid_ += valid_bytes(text_.substr(at_));
  }
  if (at_ == end_ && at_ < valid_) find();
  at_ = from < found_ ? found_ : end_;
  return text_.substr(from, at_ - from);
}

}  // namespace altgrad::detail
