// Text that comes from a file: which bytes are UTF-8, and how an error shows them.
#pragma once

#include <string>
#include <string_view>

namespace altgrad::detail {

// Bytes of the character that text begins with, 0 where it is not UTF-8.
int utf8_length(std::string_view text);
// For errors, whose text must not be as large, or as wild, as the file that they are about: cut after some 80 bytes,
// control characters and what is not UTF-8 as \x1b.
std::string printable(std::string_view text);
std::string in_quotes(std::string_view text);

}  // namespace altgrad::detail
