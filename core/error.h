// Errors: one call builds the message from its parts and throws.
//   fail("linear: x ", x.shape(), " does not match weight ", w.shape());
// Wrong arguments are std::invalid_argument; what the machine cannot give is std::runtime_error.
#pragma once

#include <altgrad/core/export.h>

#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>

ALTGRAD_API_BEGIN
namespace altgrad {

/// Streams all parts into one string. Numbers are written as in C++ source, whatever the program's global locale.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  out.imbue(std::locale::classic());
  (out << ... << parts);
  return out.str();
}

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw std::invalid_argument(concat(parts...));
}

template <class... Parts>
[[noreturn]] void fail_runtime(const Parts&... parts) {
  throw std::runtime_error(concat(parts...));
}

}  // namespace altgrad
ALTGRAD_API_END
