// GPT-2's alphabet, in which its files write bytes as printable characters: those that print in Latin-1 stand for
// themselves, the n-th of the others is U+0100 + n, so that a space is U+0120.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace altgrad::detail {

std::string in_byte_alphabet(std::string_view bytes);
// The bytes; none where a character is not of the alphabet.
std::optional<std::string> from_byte_alphabet(std::string_view text);

}  // namespace altgrad::detail
