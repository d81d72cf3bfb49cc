// The JSON header of a safetensors file. A reader of exactly the format's grammar: strings are decoded where they
// lie, so that reading takes three times the header's own size and no more, whatever it holds (a general JSON parser
// took seven times, and its callbacks time that grew with the square of the number of tensors).
#pragma once

#include <altgrad/core/shape.h>

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <utility>

namespace altgrad::detail {

constexpr std::string_view metadata_key = "__metadata__";
constexpr uint64_t max_header = 100'000'000;  // as the format's reference implementation

struct SafetensorsHeader {
  struct Text {  // a part of `text`, decoded
    uint32_t at = 0, size = 0;
  };
  struct Entry {  // a tensor
    Text name, dtype;
    Shape shape;
    int64_t begin = 0, end = 0;  // bytes after the header
  };

  std::string text;
  std::deque<Entry> tensors;  // by name
  std::deque<std::pair<Text, Text>> metadata;

  // `text` is all of it, without its length. Members that the format does not know are skipped. Throws
  // std::invalid_argument, saying what is wrong, where it is not the header of a file.
  explicit SafetensorsHeader(std::string text);
  std::string_view operator[](Text part) const { return std::string_view(text).substr(part.at, part.size); }
};

}  // namespace altgrad::detail
