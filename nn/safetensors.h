// The safetensors file format: 8 bytes of header length (little-endian), a JSON header with each tensor's
// dtype, shape and byte range, then the bytes. Files are interchangeable with the Python library's.
// https://github.com/huggingface/safetensors#format
#pragma once

#include <altgrad/nn/module.h>

#include <functional>
#include <string_view>

ALTGRAD_API_BEGIN
namespace altgrad {

using Metadata = std::map<std::string, std::string>;
/// Of tensors of 8-bit floats, which are held as their codes in u8, by name: the dtype that they have in a file, F8_E4M3,
/// F8_E5M2, F8_E8M0, F8_E4M3FNUZ or F8_E5M2FNUZ. (fp8/quantized_state.h makes numbers of codes.)
using StoredDTypes = std::map<std::string, std::string>;

/// Writes a temporary file in the folder of `path` (".altgrad-tmp-" and 16 hexadecimal digits, locked as long as it
/// is written), syncs it and renames it, so that a kill at any moment leaves the old file or the new one; what is left
/// of the temporary is removed by the next saving to that folder. Any number of processes, also in containers, may
/// save to one folder. Symbolic links are followed, to a file that is not there yet too; the mode of a file that is
/// replaced is kept (not its owner, ACLs and hard links), and a read-only file is not replaced. On a file system
/// without flock nothing is lost, and left-overs stay. The same input gives the same bytes. Throws std::runtime_error
/// where the file system refuses (the old file is as it was), std::invalid_argument on an undefined tensor, the
/// reserved name "__metadata__", text that is not UTF-8, or a stored dtype that is none, or of a tensor that is not there
/// or not u8.
void save_safetensors(const std::string& path, const StateDict& tensors, const Metadata& metadata = {},
                      const StoredDTypes& dtypes = {});
struct LoadSafetensors {
  bool keep_bf16 = false;  ///< BF16 as bf16, bit for bit, in half the memory; ops want f32
  /// The tensors that are read, by name; empty: all. The whole header is checked all the same.
  std::function<bool(std::string_view name)> only = {};
};

/// Tensors are on the CPU. F32, F64, I64 and U8 are held as they are, bit for bit; F16 and, but for keep_bf16, BF16
/// are widened to f32, BOOL and the other integers but U64 to i64; 8-bit floats are held as codes in u8, and need a
/// place for their dtypes. Throws std::runtime_error where the file cannot be read, or becomes shorter while it is, and
/// std::invalid_argument, saying what is wrong, where it is not well-formed or holds another dtype. Besides what it
/// returns, it takes at most four times the header's size. `metadata` and `dtypes`, where given, are set to the file's.
StateDict load_safetensors(const std::string& path, Metadata* metadata, StoredDTypes* dtypes,
                           LoadSafetensors options = {});
StateDict load_safetensors(const std::string& path, Metadata* metadata = nullptr,
                           LoadSafetensors options = {});
/// The metadata alone: only the header is read, and checked as load_safetensors does.
Metadata load_safetensors_metadata(const std::string& path);

}  // namespace altgrad
ALTGRAD_API_END
