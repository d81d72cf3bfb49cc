// Scalars in a file that TensorBoard reads: records as TensorFlow frames them (tensorflow/core/lib/io/record_writer.h),
// each an Event message of protocol buffers (tensorboard/compat/proto/event.proto).
#pragma once

#include <bit>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "run_file.h"

namespace tensorboard {

static_assert(std::endian::native == std::endian::little, "numbers are written as they lie in memory");

// CRC-32C (Castagnoli; RFC 3720, appendix B.4), bit by bit: records are short.
inline uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (const char byte : bytes) {
    crc ^= uint8_t(byte);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
  }
  return ~crc;
}
// A checksum of data that may itself hold checksums.
inline uint32_t masked(uint32_t crc) { return std::rotr(crc, 15) + 0xA282EAD8u; }

template <class T>
std::string bytes_of(T number) {
  std::string bytes(sizeof number, '\0');
  std::memcpy(bytes.data(), &number, sizeof number);
  return bytes;
}
template <class T>
T number_at(std::string_view bytes, size_t at) {
  T number{};
  std::memcpy(&number, bytes.data() + at, sizeof number);
  return number;
}

// Length, its checksum, data, its checksum.
inline std::string record(const std::string& data) {
  const std::string length = bytes_of(uint64_t(data.size()));
  return length + bytes_of(masked(crc32c(length))) + data + bytes_of(masked(crc32c(data)));
}

// Fields of a message: a number of seven bits a byte, and what follows is so long.
inline std::string varint(uint64_t n) {
  std::string bytes;
  for (; n >= 128; n >>= 7) bytes += char(n | 128);
  return bytes + char(n);
}
inline std::string field(char tag, const std::string& bytes) { return tag + varint(bytes.size()) + bytes; }

// wall_time = 1 (double), file_version = 3
inline std::string version_event(double wall_time) {
  return '\x09' + bytes_of(wall_time) + field('\x1A', "brain.Event:2");
}
// wall_time, step = 2 (int64), summary = 5 with value = 1 of tag = 1 and simple_value = 2 (float)
inline std::string scalars_event(double wall_time, int64_t step,
                                 const std::vector<std::pair<std::string, float>>& scalars) {
  std::string values;
  for (const auto& [tag, value] : scalars) {
    values += field('\x0A', field('\x0A', tag) + '\x15' + bytes_of(value));
  }
  return '\x09' + bytes_of(wall_time) + '\x10' + varint(uint64_t(step)) + field('\x2A', values);
}

// The bytes of the records up to that step, as long as they are whole.
inline int64_t bytes_of_records(const std::string& path, int64_t last_step) {
  std::ifstream in(path, std::ios::binary);
  int64_t kept = 0;
  while (true) {
    std::string head(12, '\0');
    if (!in.read(head.data(), 12) || masked(crc32c(head.substr(0, 8))) != number_at<uint32_t>(head, 8)) break;
    const auto length = number_at<uint64_t>(head, 0);
    if (length < 11 || length > 1 << 20) break;  // none of ours
    std::string data(length + 4, '\0');
    if (!in.read(data.data(), std::streamsize(data.size()))) break;
    if (masked(crc32c(data.substr(0, length))) != number_at<uint32_t>(data, length)) break;
    uint64_t step = 0;
    for (size_t i = 10, shift = 0; data[9] == '\x10' && i < length && shift < 64; ++i, shift += 7) {
      step |= uint64_t(data[i] & 127) << shift;
      if (!(data[i] & 128)) break;
    }
    if (int64_t(step) > last_step) break;
    kept += int64_t(head.size() + data.size());
  }
  return kept;
}

}  // namespace tensorboard

// TensorBoard takes all files with "tfevents" in their names. This one has the same name in every run of a folder, so
// that a resumed run goes on in it.
class EventFile {
 public:
  // Starts anew, or after the events up to `resumed_step` where that is not 0. Makes the folder.
  EventFile(const std::string& folder, int64_t resumed_step)
      : file_(file_in(folder), [&](const std::string& path) {
          return resumed_step == 0 ? 0 : tensorboard::bytes_of_records(path, resumed_step);
        }) {}

  void begin() {
    file_.begin();
    if (file_.begins_anew()) file_.append(tensorboard::record(tensorboard::version_event(now())));
  }

  void write(int64_t step, const std::vector<std::pair<std::string, float>>& scalars) {
    file_.append(tensorboard::record(tensorboard::scalars_event(now(), step, scalars)));
  }

 private:
  static std::string file_in(const std::string& folder) {
    std::error_code error;
    std::filesystem::create_directories(folder, error);  // what is wrong with it, opening the file will say
    return (std::filesystem::path(folder) / "events.out.tfevents.0.train_gpt").string();
  }
  static double now() {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  }
  RunFile file_;
};
