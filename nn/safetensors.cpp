// What is read and written whole; internal/safetensors_file.h does it tensor by tensor.
#include <altgrad/nn/safetensors.h>

#include <altgrad/core/internal/utf8.h>
#include <altgrad/nn/internal/safetensors_file.h>

namespace altgrad {

using namespace detail;

void save_safetensors(const std::string& path, const StateDict& tensors, const Metadata& metadata,
                      const StoredDTypes& dtypes) {
  const std::string writer = "save_safetensors";
  for (const auto& [name, dtype] : dtypes) {
    const auto tensor = tensors.find(name);
    if (tensor == tensors.end())
      fail(writer, ": ", dtype, " is asked for ", in_quotes(name), ", which is not given");
    if (!is_code_dtype(dtype))
      fail(writer, ": tensor ", in_quotes(name), ": dtype ", in_quotes(dtype),
           " is none of codes: ", code_dtypes());
    if (tensor->second.defined() && tensor->second.dtype() != DType::u8)
      fail(writer, ": tensor ", in_quotes(name), " is ", tensor->second.dtype(), ", and ", dtype,
           " is of codes in u8");
  }
  std::vector<StoredTensor> stored;
  for (const auto& [name, tensor] : tensors) {
    if (!tensor.defined()) fail(writer, ": tensor ", in_quotes(name), " is undefined");
    if (name == metadata_key) fail(writer, ": the name ", in_quotes(metadata_key), " is reserved");
    const auto asked = dtypes.find(name);
    stored.push_back({name, asked == dtypes.end() ? stored_dtype(tensor.dtype()) : asked->second,
                      tensor.shape(), [&tensor = tensor] { return tensor.detach().to(Device::cpu()); }});
  }
  AtomicFile file(writer, path);
  write_safetensors(file, writer + ": " + path, std::move(stored), metadata);
  file.commit();
}

StateDict load_safetensors(const std::string& path, Metadata* metadata, StoredDTypes* dtypes,
                           LoadSafetensors options) try {
  const SafetensorsFile file("load_safetensors", path);
  StateDict tensors;
  StoredDTypes codes;
  for (const SafetensorsFile::Entry& e : file.tensors()) {
    const std::string name(file[e.name]), dtype(file[e.dtype]);
    if (options.only && !options.only(name)) continue;
    if (is_code_dtype(dtype)) {
      if (!dtypes)
        fail("tensor ", in_quotes(name), ": ", dtype,
             " is held as codes in u8: load_safetensors needs a place for dtypes");
      codes.emplace(name, dtype);
    }
    const bool keep = options.keep_bf16 && dtype == stored_dtype(DType::bf16);
    const Tensor t = Tensor::empty(e.shape, {.dtype = keep ? DType::bf16 : file.held_dtype(e)});
    file.read(e, t);
    tensors.emplace(name, t);
  }
  if (metadata) *metadata = file.metadata();
  if (dtypes) *dtypes = std::move(codes);
  return tensors;
} catch (const std::invalid_argument& e) {
  fail("load_safetensors: ", path, ": ", e.what());
}

StateDict load_safetensors(const std::string& path, Metadata* metadata, LoadSafetensors options) {
  return load_safetensors(path, metadata, nullptr, options);
}

Metadata load_safetensors_metadata(const std::string& path) try {
  return SafetensorsFile("load_safetensors_metadata", path).metadata();
} catch (const std::invalid_argument& e) {
  fail("load_safetensors_metadata: ", path, ": ", e.what());
}

}  // namespace altgrad
