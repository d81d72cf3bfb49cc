// safetensors files, tensor by tensor: for what must not hold all of them at once.
#pragma once

#include <altgrad/core/tensor.h>
#include <altgrad/nn/internal/files.h>
#include <altgrad/nn/internal/safetensors_header.h>

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace altgrad::detail {

// The dtypes of 8-bit floats: "F8_E4M3", ... Their codes are held as u8.
bool is_code_dtype(std::string_view name);
std::string code_dtypes();  // all of them, for errors

// An open file whose header has been read and checked. Throws std::runtime_error where it cannot be read, and
// std::invalid_argument, which says what is wrong and not with which file, where it is not well-formed.
class SafetensorsFile {
 public:
  using Entry = SafetensorsHeader::Entry;
  // `reader` is the function that errors name.
  SafetensorsFile(std::string reader, std::string path);

  const std::string& path() const { return file_.path(); }
  const std::deque<Entry>& tensors() const { return header_.tensors; }  // in the order of their data
  std::string_view operator[](SafetensorsHeader::Text part) const { return header_[part]; }
  std::map<std::string, std::string> metadata() const;
  // The dtype that load_safetensors holds a tensor in.
  DType held_dtype(const Entry& tensor) const;
  // The tensor's elements from `first` on, in memory of the CPU: in held_dtype, or in bf16 those of a BF16.
  void read(const Entry& tensor, const Tensor& to, int64_t first = 0) const;

 private:
  InputFile file_;
  SafetensorsHeader header_;
};

// A tensor to be written: what make() gives, on the CPU and of this shape, lies in the file as `dtype`.
struct StoredTensor {
  std::string name, dtype;
  Shape shape;
  std::function<Tensor()> make;

  int64_t nbytes() const;
};
const char* stored_dtype(DType dtype);

// Writes a file of these tensors, which are made one after the other, wider elements first so that each is aligned.
// `writer` stands before what it throws: std::invalid_argument on text that is not UTF-8 and a header too large.
void write_safetensors(AtomicFile& file, const std::string& writer, std::vector<StoredTensor> tensors,
                       const std::map<std::string, std::string>& metadata);

}  // namespace altgrad::detail
