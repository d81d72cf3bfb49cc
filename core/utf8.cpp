// Which bytes are characters, and which of them an error shows.
#include <altgrad/core/internal/utf8.h>

#include <cstdint>

namespace altgrad::detail {

int utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const uint32_t first = byte(0);
  if (text.empty()) return 0;
  if (first < 0x80) return 1;
  const int length = first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
  if (length == 0) return 0;
  uint32_t code = first & (0x7F >> length);
  for (int i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
    code = code << 6 | (byte(i) & 0x3F);
  }
  // Each code has one form, and those of UTF-16's halves are none.
  const bool too_long = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
  return too_long || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000) ? 0 : length;
}

std::string printable(std::string_view text) {
  constexpr size_t most = 80;
  constexpr const char* digits = "0123456789abcdef";
  std::string shown;
  while (!text.empty() && shown.size() < most) {
    const auto byte = static_cast<unsigned char>(text[0]);
    const int length = byte < 0x20 || byte == 0x7F ? 0 : utf8_length(text);
    if (length == 0) {
      shown += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
    } else {
      shown += text.substr(0, size_t(length));
    }
    text.remove_prefix(length == 0 ? 1 : size_t(length));
  }
  return text.empty() ? shown : shown + "...";
}

std::string in_quotes(std::string_view text) { return '"' + printable(text) + '"'; }

}  // namespace altgrad::detail
