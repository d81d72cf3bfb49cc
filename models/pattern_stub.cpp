// In the place of pattern.cpp where there is no PCRE2.
#include <altgrad/models/internal/pattern.h>

#include <altgrad/core/error.h>

namespace altgrad::detail {

Pattern::Pattern(const std::string& who, const std::string&) {
  fail_runtime(who,
               ": this altgrad was built without PCRE2, which cuts text into pieces: install it "
               "(Debian: libpcre2-dev, Fedora: pcre2-devel, Homebrew: pcre2) and build altgrad again");
}

Pattern::Matcher::Matcher(const Pattern&) {}
std::string_view Pattern::Matcher::next() { return {}; }

}  // namespace altgrad::detail
