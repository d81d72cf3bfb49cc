#include <altgrad/models/internal/byte_alphabet.h>

#include <array>
#include <cstdint>

namespace altgrad::detail {
namespace {

struct Alphabet {
  std::array<uint16_t, 256> character;  // of each byte; below U+0800, two bytes in UTF-8
  std::array<int16_t, 0x180> byte;      // of each character, or -1

  constexpr Alphabet() : character(), byte() {
    byte.fill(-1);
    uint16_t others = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool prints = (b > 0x20 && b < 0x7F) || (b > 0xA0 && b != 0xAD);
      character[size_t(b)] = prints ? uint16_t(b) : others++;
      byte[character[size_t(b)]] = int16_t(b);
    }
  }
};
constexpr Alphabet alphabet;

}  // namespace

std::string in_byte_alphabet(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) {
    const unsigned c = alphabet.character[static_cast<unsigned char>(byte)];
    if (c < 0x80) {
      text += char(c);
    } else {
      text += {char(0xC0 | c >> 6), char(0x80 | (c & 0x3F))};
    }
  }
  return text;
}

std::optional<std::string> from_byte_alphabet(std::string_view text) {
  std::string bytes;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned c = static_cast<unsigned char>(text[i]);
    if (c >= 0x80) {
      if (c < 0xC2 || c > 0xDF || i + 1 == text.size()) return {};
      const unsigned next = static_cast<unsigned char>(text[++i]);
      if ((next & 0xC0) != 0x80) return {};
      c = (c & 0x1F) << 6 | (next & 0x3F);
    }
    if (c >= alphabet.byte.size() || alphabet.byte[c] < 0) return {};
    bytes += char(alphabet.byte[c]);
  }
  return bytes;
}

}  // namespace altgrad::detail
