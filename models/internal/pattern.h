// The regular expression that cuts text into pieces before any merging, by PCRE2 (pattern.cpp); without that library
// pattern_stub.cpp, whose constructor throws.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace altgrad::detail {

// A compiled pattern, which any number of threads may share. Its meaning is that of tiktoken's and of tokenizers'
// engines: Unicode's classes, `\s` for Unicode's White_Space, which is not PCRE2's, and `$` for the very end only.
class Pattern {
 public:
  // `who` is the function that errors name. Throws std::invalid_argument where PCRE2 does not take the pattern, or it
  // has `\w`, `\b` or others whose meaning differs; std::runtime_error in a build without PCRE2.
  Pattern(const std::string& who, const std::string& pattern);
  const std::string& text() const { return text_; }

  class Matcher;

 private:
  std::string text_;
  std::shared_ptr<const void> code_;
};

// One thread's search for the pieces of texts, one after the other.
class Pattern::Matcher {
 public:
  explicit Matcher(const Pattern& pattern);
  // text must stay as it is while its pieces are asked for.
  void start(std::string_view text) {
    text_ = text;
    at_ = found_ = end_ = valid_ = 0;
  }
  // The next piece; empty at the text's end. What lies between matches is a piece as well, and so are bytes that are
  // not UTF-8: all pieces together are the text.
  std::string_view next();

 private:
  void find();

  std::string_view text_;
  size_t at_ = 0;               // what has been returned
  size_t found_ = 0, end_ = 0;  // the match that begins there or later
  size_t valid_ = 0;            // the end of what is UTF-8 from there
  std::shared_ptr<const void> code_;
  std::shared_ptr<void> match_;
  bool has_jit_ = false;
};

}  // namespace altgrad::detail
