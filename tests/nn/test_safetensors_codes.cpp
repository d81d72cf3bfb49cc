// 8-bit floats in files: held as codes, with their dtypes beside them.
#include "catch.h"
#include "errors.h"
#include "temp_folder.h"
#include "values.h"

#include <altgrad/nn/safetensors.h>

using namespace altgrad;

namespace {

// Written by the Python library, safetensors 0.8, of 1, -0.375 and 240 (e5: 57344; e8m0: 1, 0.5, 2) as torch's float8
// dtypes, and a float32 of 0.25.
std::string python_file() {
  const std::string header = R"({"scale":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                             R"("e5m2fnuz":{"dtype":"F8_E5M2FNUZ","shape":[3],"data_offsets":[4,7]},)"
                             R"("e4m3fnuz":{"dtype":"F8_E4M3FNUZ","shape":[3],"data_offsets":[7,10]},)"
                             R"("e8m0":{"dtype":"F8_E8M0","shape":[3],"data_offsets":[10,13]},)"
                             R"("e4m3":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[13,16]},)"
                             R"("e5m2":{"dtype":"F8_E5M2","shape":[3],"data_offsets":[16,19]}}   )";
  const uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), 8) + header +
         std::string("\0\0\x80>@\xba\x7f@\xb4\x7f\x7f~\x80\x38\xacw<\xb6{", 19);
}

const StoredDTypes python_dtypes = {{"e4m3", "F8_E4M3"},
                                    {"e4m3fnuz", "F8_E4M3FNUZ"},
                                    {"e5m2", "F8_E5M2"},
                                    {"e5m2fnuz", "F8_E5M2FNUZ"},
                                    {"e8m0", "F8_E8M0"}};

}  // namespace

TEST_CASE("8-bit floats written by Python's safetensors are read as codes, and written as they were",
          "[safetensors]") {
  const TempFolder folder;
  write_bytes(folder / "py", python_file());
  Metadata metadata{{"stale", "entry"}};
  StoredDTypes dtypes{{"stale", "F8_E4M3"}};
  const StateDict tensors = load_safetensors(folder / "py", &metadata, &dtypes);
  CHECK(metadata.empty());
  CHECK(dtypes == python_dtypes);
  const auto codes = [&](const char* name) { return values<uint8_t>(tensors.at(name)); };
  CHECK(codes("e4m3") == std::vector<uint8_t>{56, 172, 119});
  CHECK(codes("e5m2") == std::vector<uint8_t>{60, 182, 123});
  CHECK(codes("e4m3fnuz") == std::vector<uint8_t>{64, 180, 127});
  CHECK(codes("e5m2fnuz") == std::vector<uint8_t>{64, 186, 127});
  CHECK(codes("e8m0") == std::vector<uint8_t>{127, 126, 128});
  CHECK(values<float>(tensors.at("scale")) == std::vector<float>{0.25f});

  StateDict moved;
  for (const auto& [name, tensor] : tensors) moved[name] = on_device(tensor);
  save_safetensors(folder / "again", moved, {{"k", "v"}}, dtypes);
  const std::string bytes = read_bytes(folder / "again");
  for (const auto& [name, dtype] : python_dtypes)
    CHECK(bytes.find("\"" + name + R"(":{"data_offsets":[)") != bytes.npos);
  StoredDTypes again;
  const StateDict same = load_safetensors(folder / "again", &metadata, &again);
  CHECK(again == python_dtypes);
  CHECK(metadata == Metadata{{"k", "v"}});
  REQUIRE(same.size() == tensors.size());
  for (const auto& [name, tensor] : tensors) CHECK(same_bits(same.at(name), tensor));

  // Without their dtypes they are bytes.
  save_safetensors(folder / "bytes", moved);
  CHECK(load_safetensors(folder / "bytes", nullptr, &again).size() == 6);
  CHECK(again.empty());
}

TEST_CASE("8-bit floats are not taken for bytes where nobody asks for their dtypes", "[safetensors]") {
  const TempFolder folder;
  write_bytes(folder / "py", python_file());
  Metadata metadata{{"kept", "as it was"}};
  CHECK(throws([&] { load_safetensors(folder / "py", &metadata); },
               {"load_safetensors: " + (folder / "py"), "F8_", "codes in u8", "a place for dtypes"}));
  CHECK(metadata == Metadata{{"kept", "as it was"}});
}

TEST_CASE("a stored dtype that does not fit its tensor is refused, and no file is left", "[safetensors]") {
  const TempFolder folder;
  const Tensor codes = here::zeros({2}, {.dtype = DType::u8});
  const auto refuses = [&](const StateDict& tensors, const StoredDTypes& dtypes,
                           std::initializer_list<std::string> parts) {
    return throws([&] { save_safetensors(folder / "x", tensors, {}, dtypes); }, parts);
  };
  CHECK(refuses({{"w", here::zeros({2})}}, {{"w", "F8_E4M3"}}, {"save_safetensors", "\"w\" is f32", "u8"}));
  CHECK(refuses({{"w", codes}}, {{"w", "F8_E3M4"}}, {"\"w\"", "\"F8_E3M4\"", "F8_E4M3, F8_E5M2, F8_E8M0"}));
  CHECK(refuses({{"w", codes}}, {{"w", "U8"}}, {"\"U8\" is none of codes"}));
  CHECK(refuses({{"w", codes}}, {{"v", "F8_E5M2"}}, {"F8_E5M2", "\"v\"", "not given"}));
  CHECK(folder.num_files() == 0);
}
