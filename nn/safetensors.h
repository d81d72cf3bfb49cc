// The safetensors file format: 8 bytes of header length (little-endian), a JSON header with each tensor's
// dtype, shape and byte range, then the bytes. Files are interchangeable with the Python library's.
// https://github.com/huggingface/safetensors#format
#pragma once

#include <altgrad/nn/module.h>

ALTGRAD_API_BEGIN
namespace altgrad {

using Metadata = std::map<std::string, std::string>;

// Writes to a temporary file beside `path` (PATH.tmp-...), syncs it and renames it, so that a kill at any
// moment leaves the old file or the new one. A symbolic link is followed. The same input gives the same
// bytes. Throws std::runtime_error where the file system refuses (the old file is as it was),
// std::invalid_argument on an undefined tensor, the reserved name "__metadata__", or text that is not UTF-8.
void save_safetensors(const std::string& path, const StateDict& tensors, const Metadata& metadata = {});
// Reads through a memory map; tensors are on the CPU. F32, F64, I64 and U8 are held as they are; F16 and BF16
// are widened to f32, BOOL and the other integers but U64 to i64. Throws std::runtime_error where the file
// cannot be read, and std::invalid_argument, saying what is wrong, where it is not well-formed or holds
// another dtype. `metadata`, where given, is set to the file's.
StateDict load_safetensors(const std::string& path, Metadata* metadata = nullptr);

}  // namespace altgrad
ALTGRAD_API_END
