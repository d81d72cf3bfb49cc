// The file format: interchange, and every way in which a file can be malformed. (What a kill or a full disk
// leaves behind is in test_safetensors_writes.cpp.)
#include "catch.h"
#include "errors.h"
#include "temp_folder.h"
#include "values.h"

#include <altgrad/nn/safetensors.h>

#include <cmath>
#include <cstring>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

using namespace altgrad;

namespace {

// Written by the Python library, safetensors 0.8:
//   save_file({"weight": float32 [[1.5, -2.0], [0.25, 3e-8]], "ids": int64 [7, -1, 1 << 40],
//              "half": float16 [1.0, -0.5, 65504, 6e-8, inf], "größe": float64 2.5,
//              "empty": float32 of shape (0, 3), "mask": bool [True, False, True],
//              "codes": uint8 [0, 127, 255], "i16": int16 [-300, 5]},
//             metadata={"step": "12", "note": "a \"quoted\" ü"})
const char* const python_file =
    "10020000000000007b225f5f6d657461646174615f5f223a7b2273746570223a223132222c226e6f7465223a2261205c"
    "2271756f7465645c2220c3bc227d2c22696473223a7b226474797065223a22493634222c227368617065223a5b335d2c"
    "22646174615f6f666673657473223a5b302c32345d7d2c226772c3b6c39f65223a7b226474797065223a22463634222c"
    "227368617065223a5b5d2c22646174615f6f666673657473223a5b32342c33325d7d2c22656d707479223a7b22647479"
    "7065223a22463332222c227368617065223a5b302c335d2c22646174615f6f666673657473223a5b33322c33325d7d2c"
    "22776569676874223a7b226474797065223a22463332222c227368617065223a5b322c325d2c22646174615f6f666673"
    "657473223a5b33322c34385d7d2c2268616c66223a7b226474797065223a22463136222c227368617065223a5b355d2c"
    "22646174615f6f666673657473223a5b34382c35385d7d2c22693136223a7b226474797065223a22493136222c227368"
    "617065223a5b325d2c22646174615f6f666673657473223a5b35382c36325d7d2c22636f646573223a7b226474797065"
    "223a225538222c227368617065223a5b335d2c22646174615f6f666673657473223a5b36322c36355d7d2c226d61736b"
    "223a7b226474797065223a22424f4f4c222c227368617065223a5b335d2c22646174615f6f666673657473223a5b3635"
    "2c36385d7d7d20200700000000000000ffffffffffffffff000000000001000000000000000004400000c03f000000c0"
    "0000803e59d90033003c00b8ff7b0100007cd4fe0500007fff010001";

std::string python_bytes() {
  std::string bytes;
  for (const char* at = python_file; *at; at += 2) bytes += char(std::stoi(std::string(at, 2), nullptr, 16));
  return bytes;
}

// A file of this header and data.
std::string file_of(const std::string& header, const std::string& data = "") {
  const uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), 8) + header + data;
}

}  // namespace

TEST_CASE("a file written by Python's safetensors is read", "[safetensors]") {
  const TempFolder folder;
  write_bytes(folder / "py.safetensors", python_bytes());
  Metadata metadata{{"stale", "entry"}};
  const StateDict t = load_safetensors(folder / "py.safetensors", &metadata);
  CHECK(metadata == Metadata{{"step", "12"}, {"note", "a \"quoted\" ü"}});
  REQUIRE(t.size() == 8);
  CHECK(t.at("weight").shape() == Shape{2, 2});
  CHECK(values<float>(t.at("weight")) == std::vector<float>{1.5f, -2.0f, 0.25f, 3e-8f});
  CHECK(values<int64_t>(t.at("ids")) == std::vector<int64_t>{7, -1, int64_t(1) << 40});
  CHECK(values<float>(t.at("half")) == std::vector<float>{1, -0.5f, 65504, 0x1p-24f, INFINITY});
  CHECK(t.at("größe").shape() == Shape{});
  CHECK(values<double>(t.at("größe")) == std::vector<double>{2.5});
  CHECK(t.at("empty").shape() == Shape{0, 3});
  CHECK(t.at("empty").dtype() == DType::f32);
  CHECK(values<int64_t>(t.at("mask")) == std::vector<int64_t>{1, 0, 1});
  CHECK(values<uint8_t>(t.at("codes")) == std::vector<uint8_t>{0, 127, 255});
  CHECK(values<int64_t>(t.at("i16")) == std::vector<int64_t>{-300, 5});
}

TEST_CASE("all dtypes, shapes, names and metadata come back as they were saved", "[safetensors]") {
  const TempFolder folder;
  const std::string path = folder / "a.safetensors";
  const StateDict saved = {
      {"f32", Tensor::from({1.0f, -0.0f, NAN, INFINITY, 1e-45f, 3.5f}, {3, 2})},
      {"f64", Tensor::from({0.1, 1e300, -5e-324}, {3})},
      {"i64", Tensor::from({INT64_MIN, INT64_MAX, int64_t(0)}, {1, 3, 1})},
      {"u8", Tensor::from({uint8_t(0), uint8_t(255), uint8_t(7)}, {3})},
      {"scalar", Tensor::full({}, 42)},
      {"empty", Tensor::empty({0})},
      {"empty 2", Tensor::empty({4, 0, 2}, {.dtype = DType::u8})},
      {"eight axes", Tensor::full({1, 2, 1, 2, 1, 2, 1, 2}, 3)},
      {"名前.größe \"\\\n\t/", Tensor::ones({2})},
      {"", Tensor::zeros({1})},
  };
  const Metadata notes = {{"", "empty key"}, {"größe", "\"quoted\"\n名前"}, {"empty", ""}};
  save_safetensors(path, saved, notes);
  Metadata metadata;
  const StateDict loaded = load_safetensors(path, &metadata);
  CHECK(metadata == notes);
  CHECK(load_safetensors_metadata(path) == notes);
  REQUIRE(loaded.size() == saved.size());
  for (const auto& [name, tensor] : saved) {
    INFO(name);
    REQUIRE(loaded.contains(name));
    CHECK(same_bits(tensor, loaded.at(name)));
  }
  CHECK(folder.num_files() == 1);
}

TEST_CASE("nothing at all can be saved and loaded", "[safetensors]") {
  const TempFolder folder;
  save_safetensors(folder / "none", {});
  Metadata metadata{{"stale", "entry"}};
  CHECK(load_safetensors(folder / "none", &metadata).empty());
  CHECK(metadata.empty());
}

TEST_CASE("only the tensors that are asked for are read, and all are checked", "[safetensors]") {
  const TempFolder folder;
  const Tensor codes = Tensor::zeros({2}, {.dtype = DType::u8});
  save_safetensors(folder / "a", {{"model.w", Tensor::ones({3})}, {"m.codes", codes}, {"n.codes", codes}},
                   {{"k", "v"}}, {{"m.codes", "F8_E4M3"}, {"n.codes", "F8_E5M2"}});
  const auto under = [](std::string prefix) {
    return LoadSafetensors{.only = [=](std::string_view name) { return name.starts_with(prefix); }};
  };
  Metadata metadata;
  const StateDict model = load_safetensors(folder / "a", &metadata, under("model."));  // no place for dtypes
  CHECK(metadata == Metadata{{"k", "v"}});
  REQUIRE(model.size() == 1);
  CHECK(values<float>(model.at("model.w")) == std::vector<float>{1, 1, 1});
  StoredDTypes dtypes;
  CHECK(load_safetensors(folder / "a", nullptr, &dtypes, under("m.")).size() == 1);
  CHECK(dtypes == StoredDTypes{{"m.codes", "F8_E4M3"}});
  CHECK(load_safetensors(folder / "a", nullptr, under("none")).empty());
  CHECK(throws([&] { load_safetensors(folder / "a", nullptr, under("n.")); }, {"\"n.codes\"", "dtypes"}));
  const std::string bytes = read_bytes(folder / "a");
  write_bytes(folder / "short", bytes.substr(0, bytes.size() - 1));
  CHECK(throws([&] { load_safetensors(folder / "short", nullptr, under("model.")); }, {"codes"}));
}

TEST_CASE("the same tensors give the same bytes, with data and tensors aligned", "[safetensors]") {
  const TempFolder folder;
  const StateDict t = {{"a", Tensor::ones({3}, {.dtype = DType::u8})},
                       {"b", Tensor::ones({3})},
                       {"c", Tensor::ones({1}, {.dtype = DType::f64})}};
  save_safetensors(folder / "1", t, {{"k", "v"}, {"j", "w"}});
  save_safetensors(folder / "2", t, {{"j", "w"}, {"k", "v"}});
  const std::string bytes = read_bytes(folder / "1");
  CHECK(bytes == read_bytes(folder / "2"));
  uint64_t header_size;
  std::memcpy(&header_size, bytes.data(), 8);
  CHECK(header_size % 8 == 0);
  CHECK(bytes.size() == 8 + header_size + 8 + 12 + 3);
  double first;
  std::memcpy(&first, bytes.data() + 8 + header_size, 8);
  CHECK(first == 1);  // the widest comes first
}

TEST_CASE("tied tensors are written under each name", "[safetensors]") {
  const TempFolder folder;
  const Tensor w = Tensor::ones({2, 2}).requires_grad(true);
  save_safetensors(folder / "tied", {{"wte", w}, {"lm_head", w}});
  const StateDict t = load_safetensors(folder / "tied");
  CHECK(same_bits(t.at("wte"), t.at("lm_head")));
  CHECK_FALSE(t.at("wte").is(t.at("lm_head")));
  CHECK_FALSE(t.at("wte").requires_grad());
}

TEST_CASE("every half and bfloat is widened exactly", "[safetensors]") {
  const TempFolder folder;
  std::string data;
  for (int code = 0; code < 65536; ++code) data += {char(code & 255), char(code >> 8)};
  const std::string half = R"("half":{"dtype":"F16","shape":[65536],"data_offsets":[0,131072]})";
  const std::string bfloat = R"("bfloat":{"dtype":"BF16","shape":[65536],"data_offsets":[131072,262144]})";
  write_bytes(folder / "all", file_of("{" + half + "," + bfloat + "}", data + data));
  const StateDict t = load_safetensors(folder / "all");
  const auto h = t.at("half").data<float>(), b = t.at("bfloat").data<float>();
  // (-1)^sign 2^(exponent - bias) 1.mantissa, as the formats' definitions have it
  const auto value = [](int code, int mantissa_bits, int bias, int top) {
    const int exponent = (code & 0x7FFF) >> mantissa_bits;
    const double mantissa = code & ((1 << mantissa_bits) - 1), one = 1 << mantissa_bits;
    const double magnitude = exponent == top ? (mantissa == 0 ? INFINITY : NAN)
                             : exponent == 0 ? std::ldexp(mantissa / one, 1 - bias)
                                             : std::ldexp(1 + mantissa / one, exponent - bias);
    return code & 0x8000 ? -magnitude : magnitude;
  };
  int wrong = 0;
  for (int code = 0; code < 65536; ++code) {
    const double vh = value(code, 10, 15, 31), vb = value(code, 7, 127, 255);
    wrong += !(h[code] == vh || (std::isnan(vh) && std::isnan(h[code]))) ||
             std::signbit(h[code]) != bool(code & 0x8000);
    wrong += !(b[code] == vb || (std::isnan(vb) && std::isnan(b[code]))) ||
             std::signbit(b[code]) != bool(code & 0x8000);
  }
  CHECK(wrong == 0);
}

TEST_CASE("what is read does not depend on the floating-point environment", "[safetensors]") {
#if !defined(__x86_64__)
  SKIP_TEST("the mode is set in a register of x86");
#else
  const TempFolder folder;
  std::string half;
  for (int code = 0; code < 65536; ++code) half += {char(code & 255), char(code >> 8)};
  std::string f32, f64;  // subnormals and signaling NaNs among them
  for (const uint32_t bits : {0x1u, 0x807FFFFFu, 0x7F800001u, 0xFFBFFFFFu})
    f32.append(reinterpret_cast<const char*>(&bits), 4);
  for (const uint64_t bits : {uint64_t(1), uint64_t(0x7FF0000000000001)})
    f64.append(reinterpret_cast<const char*>(&bits), 8);
  write_bytes(folder / "x",
              file_of(R"({"half":{"dtype":"F16","shape":[65536],"data_offsets":[0,131072]},)"
                      R"("bfloat":{"dtype":"BF16","shape":[65536],"data_offsets":[131072,262144]},)"
                      R"("f32":{"dtype":"F32","shape":[4],"data_offsets":[262144,262160]},)"
                      R"("f64":{"dtype":"F64","shape":[2],"data_offsets":[262160,262176]}})",
                      half + half + f32 + f64));
  const StateDict plain = load_safetensors(folder / "x");
  const unsigned mode = _mm_getcsr();
  for (const unsigned other :
       {0x8040u, 0x2000u, 0x4000u, 0x6000u, 0xE040u}) {  // FTZ and DAZ, three roundings, all
    _mm_setcsr(mode | other);
    const StateDict loaded = load_safetensors(folder / "x");
    save_safetensors(folder / "y", loaded);
    const StateDict again = load_safetensors(folder / "y");
    _mm_setcsr(mode);
    for (const auto& [name, tensor] : plain) {
      INFO(name << " under " << other);
      CHECK(same_bits(tensor, loaded.at(name)));
      CHECK(same_bits(tensor, again.at(name)));
    }
  }
  CHECK(std::memcmp(plain.at("f32").raw(), f32.data(), f32.size()) == 0);
  CHECK(std::memcmp(plain.at("f64").raw(), f64.data(), f64.size()) == 0);
#endif
}

TEST_CASE("narrow integers are widened with their sign", "[safetensors]") {
  const TempFolder folder;
  const std::string data("\xFE\xFF\xFF\xFF\xFE\xFF\xFF\xFF\xFE\xFF\xFE", 11);
  write_bytes(folder / "ints", file_of(R"({"i32":{"dtype":"I32","shape":[1],"data_offsets":[0,4]},)"
                                       R"("u32":{"dtype":"U32","shape":[],"data_offsets":[4,8]},)"
                                       R"("u16":{"dtype":"U16","shape":[1],"data_offsets":[8,10]},)"
                                       R"("i8":{"dtype":"I8","shape":[1],"data_offsets":[10,11]}})",
                                       data));
  const StateDict t = load_safetensors(folder / "ints");
  CHECK(values<int64_t>(t.at("i32")) == std::vector<int64_t>{-2});
  CHECK(values<int64_t>(t.at("u32")) == std::vector<int64_t>{4294967294});
  CHECK(values<int64_t>(t.at("u16")) == std::vector<int64_t>{65534});
  CHECK(values<int64_t>(t.at("i8")) == std::vector<int64_t>{-2});
}

TEST_CASE("a file cut short at any length is refused", "[safetensors]") {
  const TempFolder folder;
  const std::string path = folder / "cut", bytes = python_bytes();
  Metadata metadata{{"kept", "as it was"}};
  for (size_t length = 0; length < bytes.size(); ++length) {
    INFO(length);
    write_bytes(path, bytes.substr(0, length));
    REQUIRE(throws([&] { load_safetensors(path, &metadata); }, {"load_safetensors", path}));
  }
  CHECK(metadata == Metadata{{"kept", "as it was"}});
}

TEST_CASE("a file with any byte changed is loaded or refused, never worse", "[safetensors]") {
  const TempFolder folder;
  const std::string path = folder / "changed", bytes = python_bytes();
  int loaded = 0, refused = 0;
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (const char c : {'\0', '9', '"', '}', ',', '-', '\xFF'}) {
      std::string changed = bytes;
      changed[at] = c;
      write_bytes(path, changed);
      try {
        load_safetensors(path);
        ++loaded;
      } catch (const std::invalid_argument&) {
        ++refused;
      }
    }
  }
  CHECK(loaded + refused == 7 * int(bytes.size()));
  CHECK(refused > 1000);
}

TEST_CASE("a malformed file is refused with what is wrong and where", "[safetensors]") {
  const TempFolder folder;
  const std::string path = folder / "bad", eight(8, '\0');
  const auto refused = [&](const std::string& bytes, std::initializer_list<std::string> parts) {
    write_bytes(path, bytes);
    Metadata metadata{{"kept", "as it was"}};
    CHECK(throws([&] { load_safetensors(path, &metadata); }, {"load_safetensors: ", path}));
    CHECK(throws([&] { load_safetensors(path, &metadata); }, parts));
    CHECK(throws([&] { load_safetensors_metadata(path); }, parts));
    CHECK(metadata == Metadata{{"kept", "as it was"}});
  };
  // One F32 tensor "w" of shape (2), but for what is given.
  const auto header = [](const std::string& offsets, const std::string& shape = "[2]",
                         const std::string& dtype = "\"F32\"") {
    return R"({"w":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  const auto two = [](const std::string& first, const std::string& second) {
    return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + first +
           R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}";
  };
  write_bytes(path, file_of(header("[0,8]"), eight));
  REQUIRE(load_safetensors(path).at("w").numel() == 2);
  write_bytes(path, file_of(two("[4,8]", "[0,4]"), eight));
  REQUIRE(load_safetensors(path).size() == 2);

  SECTION("the header's length") {
    std::string lying = file_of("{}");
    lying[0] = 3;
    refused(lying, {"cut short", "header has 3 bytes", "after 2"});
    refused(std::string(8, '\xFF') + "{}", {"18446744073709551615", "at most 100000000"});
    refused(std::string("\xF8\xFF\xFF\xFF\xFF\xFF\xFF\x7F", 8) + "{}", {"at most 100000000"});
    lying[0] = 1;
    refused(lying, {"not JSON"});
    lying[0] = 0;
    refused(lying, {"not a JSON object"});
  }
  SECTION("the header's text") {
    refused(file_of("[]"), {"not a JSON object"});
    refused(file_of(" {}"), {"not a JSON object"});
    refused(file_of("{\"w\":"), {"not JSON"});
    refused(file_of("{} x"), {"not JSON"});
    refused(file_of("{\"\xC3\x28\":{}}"), {"not JSON"});
    refused(file_of("{\"w\":1e999}"), {"tensor \"w\"", "number"});
    refused(file_of("{\"w\":" + std::string(100'000, '[')), {"tensor \"w\"", "array"});
    refused(file_of("{\"w\":3}"), {"tensor \"w\"", "number"});
    refused(file_of("{\"w\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}"),
            {"tensor \"w\"", "array"});
  }
  SECTION("names") {
    const std::string w = R"("w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
    refused(file_of("{" + w + "," + w + "}", eight), {"\"w\"", "twice"});
    refused(file_of(R"({"w":{"dtype":"U8","dtype":"U8","shape":[8],"data_offsets":[0,8]}})", eight),
            {"\"dtype\"", "twice"});
    refused(file_of(R"({"__metadata__":{},"__metadata__":{}})"), {"\"__metadata__\"", "twice"});
    refused(file_of(R"({"__metadata__":{"k":"1","k":"2"}})"), {"\"k\"", "twice"});
  }
  SECTION("metadata") {
    refused(file_of(R"({"__metadata__":"text"})"), {"__metadata__", "not an object"});
    refused(file_of(R"({"__metadata__":{"step":1}})"), {"__metadata__", "\"step\"", "not a string"});
  }
  SECTION("dtypes") {
    refused(file_of(header("[0,8]", "[8]", "\"F8_E3M4\""), eight),
            {"tensor \"w\"", "\"F8_E3M4\"", "F32", "BF16", "F8_E4M3"});
    refused(file_of(header("[0,8]", "[1]", "\"U64\""), eight), {"\"U64\""});
    refused(file_of(header("[0,8]", "[2]", "\"f32\""), eight), {"\"f32\""});
    refused(file_of(header("[0,8]", "[2]", "7"), eight), {"tensor \"w\"", "dtype 7"});
    refused(file_of(R"({"w":{"shape":[2],"data_offsets":[0,8]}})", eight), {"tensor \"w\"", "no \"dtype\""});
  }
  SECTION("shapes") {
    refused(file_of(header("[0,8]", "[-2]"), eight), {"tensor \"w\"", "\"shape\"", "-2"});
    refused(file_of(header("[0,8]", "[2.0]"), eight), {"\"shape\"", "2.0"});
    refused(file_of(header("[0,8]", "[\"2\"]"), eight), {"\"shape\""});
    refused(file_of(header("[0,8]", "2"), eight), {"\"shape\"", "not a list"});
    refused(file_of(header("[0,8]", "[18446744073709551617]"), eight), {"tensor \"w\"", "\"shape\""});
    refused(file_of(header("[0,8]", "[9223372036854775808]"), eight),
            {"tensor \"w\"", "9223372036854775808"});
    refused(file_of(header("[0,8]", "[4294967296,4294967296]"), eight),
            {"tensor \"w\"", "too many elements"});
    refused(file_of(header("[0,8]", "[4611686018427387904,4]"), eight),
            {"tensor \"w\"", "too many elements"});
    refused(file_of(header("[0,8]", "[1,1,1,1,1,1,1,1,2]"), eight), {"tensor \"w\"", "9 dimensions"});
    refused(file_of(R"({"w":{"dtype":"F32","data_offsets":[0,8]}})", eight),
            {"tensor \"w\"", "no \"shape\""});
  }
  SECTION("sizes") {
    refused(file_of(header("[0,8]", "[3]"), eight), {"tensor \"w\"", "F32", "(3)", "12 bytes", "hold 8"});
    refused(file_of(header("[0,8]", "[2]", "\"F64\""), eight), {"tensor \"w\"", "F64", "16 bytes", "hold 8"});
    refused(file_of(header("[0,8]", "[]"), eight), {"4 bytes"});
    refused(file_of(header("[0,8]", "[0]"), eight), {"0 bytes"});
  }
  SECTION("offsets") {
    refused(file_of(header("[8,0]"), eight), {"tensor \"w\"", "end at 0", "begins at 8"});
    refused(file_of(header("[0,8,9]"), eight), {"tensor \"w\"", "two numbers", "3"});
    refused(file_of(header("[-8,0]"), eight), {"tensor \"w\"", "\"data_offsets\"", "-8"});
    refused(file_of(header("{}"), eight), {"\"data_offsets\"", "not a list"});
    refused(file_of(R"({"w":{"dtype":"F32","shape":[2]}})", eight), {"no \"data_offsets\""});
    refused(file_of(header("[9223372036854775799,9223372036854775807]"), eight), {"tensor \"w\""});
    refused(file_of(header("[0,16]", "[4]"), eight), {"tensor \"w\"", "end at 16", "at 8"});
    refused(file_of(header("[4,12]"), eight + eight), {"tensor \"w\"", "hole", "from 0 to 4"});
    refused(file_of(two("[0,4]", "[2,6]"), eight), {"tensor \"b\"", "at 2", "overlaps", "at 4"});
    refused(file_of(two("[0,4]", "[0,4]"), eight.substr(4)), {"overlaps"});
    refused(file_of(two("[0,4]", "[5,9]"), eight + "x"), {"tensor \"b\"", "hole", "from 4 to 5"});
    refused(file_of(header("[0,8]"), eight + "x"), {"1 bytes after the last tensor"});
    refused(file_of("{}", eight), {"8 bytes after the last tensor"});
  }
}
