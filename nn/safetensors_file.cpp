// A file is read only after all of its header has been checked, as the format's reference implementation
// does: the tensors' byte ranges must tile the rest of the file, without holes or overlaps.
#include <altgrad/nn/internal/safetensors_file.h>

#include <altgrad/core/internal/utf8.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <bit>
#include <span>
#include <tuple>

namespace altgrad::detail {
namespace {

using Entry = SafetensorsHeader::Entry;

static_assert(std::endian::native == std::endian::little,
              "the format is little-endian, and bytes are copied as they are");

// Widened by integers alone: what a file holds must not depend on the floating-point environment.
struct Half {
  uint16_t bits;
  explicit operator float() const {
    const uint32_t sign = uint32_t(bits & 0x8000) << 16;
    uint32_t exponent = bits >> 10 & 31, mantissa = bits & 0x3FF;
    if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000 | mantissa << 13);
    if (exponent == 0 && mantissa == 0) return std::bit_cast<float>(sign);
    exponent += 127 - 15;
    if (exponent == 127 - 15) {  // subnormal: the leading one becomes the implicit one
      const auto shift = uint32_t(std::countl_zero(mantissa)) - 21;
      mantissa = mantissa << shift & 0x3FF;
      exponent -= shift - 1;
    }
    return std::bit_cast<float>(sign | exponent << 23 | mantissa << 13);
  }
};

// Reads the elements of `to`, which lie in the file as From.
template <class To, class From>
void read_elements(const InputFile& file, int64_t at, const Tensor& to) {
  std::span<To> rest = to.data<To>();
  if constexpr (std::is_same_v<To, From>) {
    file.read(at, rest.data(), rest.size_bytes());
  } else {
    std::vector<From> buffer(std::min<size_t>(rest.size(), 1 << 16));
    while (!rest.empty()) {
      const std::span<From> part = std::span(buffer).first(std::min(rest.size(), buffer.size()));
      file.read(at, part.data(), part.size_bytes());
      std::transform(part.begin(), part.end(), rest.begin(), [](From x) { return To(x); });
      rest = rest.subspan(part.size());
      at += int64_t(part.size_bytes());
    }
  }
}

// How a dtype of the format is read.
struct DTypeReader {
  const char* name;
  size_t size;  // bytes an element
  DType dtype;  // that it is held as
  void (*read)(const InputFile& file, int64_t at, const Tensor& to);
};
template <class To, class From>
constexpr DTypeReader reader(const char* name) {
  return {name, sizeof(From), dtype_of<To>, read_elements<To, From>};
}
constexpr DTypeReader readers[] = {
    reader<float, float>("F32"),
    reader<double, double>("F64"),
    reader<int64_t, int64_t>("I64"),
    reader<uint8_t, uint8_t>("U8"),
    reader<float, Half>("F16"),
    reader<float, bfloat16>("BF16"),
    reader<int64_t, int32_t>("I32"),
    reader<int64_t, uint32_t>("U32"),
    reader<int64_t, int16_t>("I16"),
    reader<int64_t, uint16_t>("U16"),
    reader<int64_t, int8_t>("I8"),
    reader<int64_t, uint8_t>("BOOL"),
    reader<uint8_t, uint8_t>("F8_E4M3"),
    reader<uint8_t, uint8_t>("F8_E5M2"),
    reader<uint8_t, uint8_t>("F8_E8M0"),
    reader<uint8_t, uint8_t>("F8_E4M3FNUZ"),
    reader<uint8_t, uint8_t>("F8_E5M2FNUZ"),
};
constexpr DTypeReader bf16_reader = reader<bfloat16, bfloat16>("BF16");

const DTypeReader& reader_of(std::string_view name) {
  std::string known;
  for (const DTypeReader& r : readers) {
    if (name == r.name) return r;
    known += concat(" ", r.name);
  }
  fail("dtype ", in_quotes(name), " is not one that can be read:", known);
}

// ---- Reading ----

// The tensor's bytes must be as many as it needs, and lie from `at` on.
void check(const SafetensorsHeader& header, const Entry& e, int64_t at, int64_t data_size) try {
  const DTypeReader& reader = reader_of(header[e.dtype]);
  const int64_t needed = e.shape.numel() * int64_t(reader.size);
  if (needed != e.end - e.begin) {
    fail(reader.name, " of shape ", e.shape, " needs ", needed, " bytes, its offsets hold ", e.end - e.begin);
  }
  if (e.begin < at) fail("its data at ", e.begin, " overlaps what ends at ", at);
  if (e.begin > at) fail("a hole lies before its data, from ", at, " to ", e.begin);
  if (e.end > data_size) fail("its data would end at ", e.end, ", the file's end at ", data_size);
} catch (const std::invalid_argument& error) {
  fail("tensor ", in_quotes(header[e.name]), ": ", error.what());
}

// Together the tensors must be all of the data. Leaves them in its order.
void sort_and_check(SafetensorsHeader& header, int64_t data_size) {
  std::sort(header.tensors.begin(), header.tensors.end(), [&](const Entry& a, const Entry& b) {
    return std::tuple(a.begin, a.end, header[a.name]) < std::tuple(b.begin, b.end, header[b.name]);
  });
  int64_t at = 0;
  for (const Entry& e : header.tensors) {
    check(header, e, at, data_size);
    at = e.end;
  }
  if (at != data_size) fail("has ", data_size - at, " bytes after the last tensor");
}

// The header of a well-formed file, its tensors in the order of their data.
SafetensorsHeader read_header(const InputFile& file) {
  if (file.size() < 8) fail("has ", file.size(), " bytes, the length of the header alone takes 8");
  uint64_t size = 0;
  file.read(0, &size, 8);
  if (size > max_header) fail("the header would have ", size, " bytes, at most ", max_header, " are allowed");
  if (size > uint64_t(file.size()) - 8) {
    fail("is cut short: the header has ", size, " bytes, the file ends after ", file.size() - 8);
  }
  std::string text(size, '\0');
  file.read(8, text.data(), size);
  SafetensorsHeader header(std::move(text));
  sort_and_check(header, file.size() - int64_t(8 + size));
  return header;
}

}  // namespace

std::string code_dtypes() {
  std::string names;
  for (const DTypeReader& r : readers)
    if (std::string_view(r.name).starts_with("F8_")) names += concat(names.empty() ? "" : ", ", r.name);
  return names;
}

bool is_code_dtype(std::string_view name) {
  return name.starts_with("F8_") &&
         std::ranges::any_of(readers, [&](const DTypeReader& r) { return name == r.name; });
}

SafetensorsFile::SafetensorsFile(std::string reader, std::string path)
    : file_(std::move(reader), std::move(path)), header_(read_header(file_)) {}

std::map<std::string, std::string> SafetensorsFile::metadata() const {
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : header_.metadata) metadata.emplace(header_[key], header_[value]);
  return metadata;
}

DType SafetensorsFile::held_dtype(const Entry& tensor) const {
  return reader_of(header_[tensor.dtype]).dtype;
}

void SafetensorsFile::read(const Entry& tensor, const Tensor& to, int64_t first) const {
  const DTypeReader& held = reader_of(header_[tensor.dtype]);
  const int64_t at = int64_t(8 + header_.text.size()) + tensor.begin + first * int64_t(held.size);
  (to.dtype() == DType::bf16 ? bf16_reader : held).read(file_, at, to);
}

// ---- Writing ----

int64_t StoredTensor::nbytes() const { return shape.numel() * int64_t(reader_of(dtype).size); }

const char* stored_dtype(DType dtype) {
  switch (dtype) {
    case DType::f32: return "F32";
    case DType::f64: return "F64";
    case DType::i64: return "I64";
    case DType::u8: return "U8";
    case DType::bf16: return "BF16";
  }
  __builtin_unreachable();
}

void write_safetensors(AtomicFile& file, const std::string& writer, std::vector<StoredTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::ranges::stable_sort(tensors, std::ranges::greater(),
                           [](const StoredTensor& t) { return reader_of(t.dtype).size; });
  nlohmann::json header = nlohmann::json::object();
  if (!metadata.empty()) header[std::string(metadata_key)] = metadata;
  int64_t at = 0;
  for (const StoredTensor& t : tensors) {
    header[t.name] = {{"dtype", t.dtype},
                      {"shape", std::vector<int64_t>(t.shape.begin(), t.shape.end())},
                      {"data_offsets", {at, at + t.nbytes()}}};
    at += t.nbytes();
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception& e) {
    fail(writer, ": a name or metadata is not UTF-8: ", e.what());
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > max_header) fail(writer, ": names and metadata exceed ", max_header, " bytes");

  const uint64_t header_size = text.size();
  file.write(&header_size, sizeof header_size);
  file.write(text.data(), text.size());
  for (const StoredTensor& t : tensors) {
    const Tensor made = t.make();
    file.write(made.raw(), made.nbytes());
  }
}

}  // namespace altgrad::detail
