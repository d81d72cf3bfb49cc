// Headers that are large, deep or wild: what reading them takes, and what errors say of them.
#include "allocations.h"
#include "catch.h"
#include "errors.h"
#include "temp_folder.h"

#include <altgrad/nn/checkpoint.h>
#include <altgrad/nn/layers.h>

#include <algorithm>
#include <functional>
#include <vector>

using namespace altgrad;

namespace {

std::string file_of(const std::string& header, const std::string& data = "") {
  const uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), 8) + header + data;
}

std::string repeated(const std::string& text, size_t times) {
  std::string all;
  all.reserve(text.size() * times);
  for (size_t i = 0; i < times; ++i) all += text;
  return all;
}

// A list, or an object of what comes after the brace: part(0), part(1), ...
std::string joined(const std::string& open, size_t count, const std::function<std::string(size_t)>& part,
                   const std::string& close) {
  std::string all = open;
  for (size_t i = 0; i < count; ++i) all += (i ? "," : "") + part(i);
  return all + close;
}

std::string text_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const std::invalid_argument& e) {
    return e.what();
  }
  return "nothing was thrown";
}

const std::string empty_tensor = R"({"dtype":"F32","shape":[0],"data_offsets":[0,0]})";
std::string many_tensors(size_t count) {
  return joined(
      "{", count, [](size_t i) { return "\"t" + std::to_string(i) + "\":" + empty_tensor; }, "}");
}

}  // namespace

TEST_CASE("a member of the wrong type is refused at once, however deep it is", "[safetensors]") {
  const TempFolder folder;
  const size_t depth = 100'000;
  for (const std::string& deep : {repeated("[", depth) + repeated("]", depth),
                                  repeated("{\"a\":", depth) + "1" + repeated("}", depth)}) {
    const std::string start = R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8])";
    for (const std::string& header : std::vector<std::string>{
             "{\"w\":" + deep + "}",
             R"({"w":{"shape":[2],"data_offsets":[0,8],"dtype":)" + deep + "}}",
             R"({"w":{"dtype":"F32","data_offsets":[0,8],"shape":)" + deep + "}}",
             R"({"w":{"dtype":"F32","data_offsets":[0,8],"shape":[)" + deep + "]}}",
             R"({"w":{"dtype":"F32","shape":[2],"data_offsets":)" + deep + "}}",
             R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[)" + deep + ",8]}}",
             R"({"__metadata__":)" + deep + "}",
             R"({"__metadata__":{"k":)" + deep + "}}",
             start + ",\"unknown\":" + deep + "}}",
         }) {
      INFO(header.substr(0, 80));
      write_bytes(folder / "x", file_of(header, std::string(8, '\0')));
      const std::string text = text_of([&] { load_safetensors(folder / "x"); });
      INFO(text.substr(0, 1000));
      CHECK(text.starts_with("load_safetensors: "));
      CHECK(text.size() < 500);
    }
  }
}

// As the reference implementation does (serde ignores them, and nests at most 127 deep in all).
TEST_CASE("members that the format does not know are skipped", "[safetensors]") {
  const TempFolder folder;
  const auto load = [&](const std::string& unknown) {
    write_bytes(folder / "x", file_of(R"({"w":{"x":)" + unknown +
                                          R"(,"dtype":"U8","shape":[1],"x":null,"data_offsets":[0,1]}})",
                                      "7"));
    return load_safetensors(folder / "x").at("w").data<uint8_t>()[0] == '7';
  };
  for (const char* value : {"null", "true", "false", "0", "-1.5e+3", "12E-1", "\"\\u00e9\"", "[]", "{}",
                            "[ 1 , [ ] ]", R"({"dtype":{"a":[{},{"b":"]"}]}})"}) {
    INFO(value);
    CHECK(load(value));
  }
  CHECK(load(repeated("[", 125) + repeated("]", 125)));
  CHECK(throws([&] { load(repeated("[", 126) + repeated("]", 126)); }, {"tensor \"w\"", "125 deep"}));
  for (const char* value : {"",
                            "nul",
                            "+1",
                            "01",
                            "1.",
                            ".5",
                            "1e",
                            "--1",
                            "[1,]",
                            "[,1]",
                            "{1:2}",
                            "{\"a\"}",
                            "{\"a\":1,}",
                            "[1}",
                            "'a'",
                            "\"a",
                            "\"\t\"",
                            "\"\\x\"",
                            "\"\\u12\"",
                            "\"\\u12g4\"",
                            "\"\\ud800\"",
                            "\"\\ud800\\u0041\"",
                            "\"\\udc00\"",
                            "\"\xC0\x80\"",
                            "\"\xED\xA0\x80\"",
                            "\"\xF4\x90\x80\x80\"",
                            "\"\x80\"",
                            "\"\xE2\x82\""}) {
    INFO(value);
    CHECK(throws([&] { load(value); }, {"tensor \"w\"", "not JSON", "at byte "}));
  }
}

TEST_CASE("names and metadata may be escaped in every way of JSON", "[safetensors]") {
  const TempFolder folder;
  write_bytes(
      folder / "x",
      file_of(
          R"({"\u0077\"\\\/\b\f\n\r\t\u00e9\u20ac\ud83d\ude00\u0000":{"d\u0074ype":"\u0046\u00332","shape":[0],)"
          R"("data_offsets":[0,0]},"__meta\u0064ata__":{"\u006b":"\uD834\uDd1e"}})"));
  Metadata metadata;
  const StateDict t = load_safetensors(folder / "x", &metadata);
  REQUIRE(t.size() == 1);
  CHECK(t.begin()->first == std::string("w\"\\/\b\f\n\r\té€😀\0", 19));
  CHECK(metadata == Metadata{{"k", "\xF0\x9D\x84\x9E"}});

  write_bytes(folder / "x", file_of(R"({"w":)" + empty_tensor + R"(,"\u0077":)" + empty_tensor + "}"));
  CHECK(throws([&] { load_safetensors(folder / "x"); }, {"\"w\" twice"}));
  write_bytes(folder / "x", file_of(R"({"__metadata__":{"k":"","\u006B":""}})"));
  CHECK(throws([&] { load_safetensors(folder / "x"); }, {"\"k\" twice"}));
  write_bytes(folder / "x", file_of(R"({"__metadata__":null})"));  // as the reference implementation
  CHECK(load_safetensors(folder / "x", &metadata).empty());
  CHECK(metadata.empty());
}

TEST_CASE("an error shows no more of a header than a line, and nothing that a terminal would obey",
          "[safetensors]") {
  const TempFolder folder;
  const std::string large(1 << 20, 'x');
  for (const std::string& header : std::vector<std::string>{
           "{\"" + large,
           "{\"" + large + "\":3}",
           "{\"" + large + "\":" + empty_tensor + ",\"" + large + "\":" + empty_tensor + "}",
           "{\"" + large + R"(":{"dtype":")" + large + R"(","shape":[0],"data_offsets":[0,0]}})",
           R"({"w":{"dtype":)" + repeated("1", 1 << 20) + "}}",
           R"({"w":{"shape":[)" + repeated("1", 1 << 20) + "]}}",
           R"({"w":{"shape":[)" + repeated("1,", 1 << 20) + "1]}}",
           R"({"w":{"data_offsets":[")" + large + "\"]}}",
           R"({"__metadata__":{")" + large + "\":3}}",
           R"({"__metadata__":{")" + large + R"(":"","")" + large + "\":\"\"}}",
           "{\"\\u001b[2J\\n\":3}",
           "{\"w\":{\"shape\":[\x1b[2J\n]}}",
           "{\"w\":{\"shape\":[\xFF\xFE]}}",
       }) {
    INFO(header.substr(0, 80));
    write_bytes(folder / "x", file_of(header));
    const std::string text = text_of([&] { load_safetensors(folder / "x"); });
    INFO(text.substr(0, 1000));
    CHECK(text.starts_with("load_safetensors: "));
    CHECK(text.size() < 500);
    CHECK(std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7F; }));
  }
  const std::string wild = "\x1b\xFF" + large;
  CHECK(text_of([&] { save_safetensors(folder / "y", {{wild, Tensor()}}); }).size() < 500);
}

TEST_CASE("a state that does not fit is named in a few lines, however much of it there is", "[safetensors]") {
  nn::Linear model(2, 2);
  optim::SGD optimizer(model.parameters(), {.lr = 0.1});
  const std::string large = "\x1b" + std::string(1 << 20, 'x');
  StateDict state = model.state_dict(), memory = optimizer.state_dict();
  for (int i = 0; i < 1000; ++i) state[large.substr(0, 1000) + std::to_string(i)] = Tensor::zeros({1});
  memory[large] = Tensor::zeros({1});
  for (const std::string& text : {text_of([&] { model.load_state_dict(state); }),
                                  text_of([&] { optimizer.load_state_dict(memory); })}) {
    INFO(text.substr(0, 1000));
    CHECK(text.find("unexpected") != text.npos);
    CHECK(text.size() < 5000);
    CHECK(text.find('\x1b') == text.npos);
  }
  CHECK(throws([&] { model.load_state_dict(state); }, {"\n  and 9", " more that are unexpected"}));

  const TempFolder folder;
  nn::save_checkpoint(folder / "x", model, optimizer, {});
  Metadata metadata;
  const StateDict saved = load_safetensors(folder / "x", &metadata);
  for (const std::string key : {"altgrad_checkpoint", "step", "generator.seed"}) {
    Metadata changed = metadata;
    changed.at(key) = large;
    save_safetensors(folder / "x", saved, changed);
    const std::string text = text_of([&] { nn::load_checkpoint(folder / "x", model, optimizer); });
    INFO(text.substr(0, 1000));
    CHECK(text.starts_with("load_checkpoint: "));
    CHECK(text.size() < 500);
    CHECK(text.find('\x1b') == text.npos);
  }
}

// The parts of a header that cost most for their size. What is loaded is the caller's: these load nothing.
TEST_CASE("reading a header takes at most four times its size", "[safetensors]") {
  const TempFolder folder;
  const size_t size = 1 << 21;
  const auto item = [](size_t i) { return "\"" + std::to_string(i) + "\":\"\""; };
  const std::string large(size, 'x');
  for (const std::string& header : std::vector<std::string>{
           many_tensors(size / 50),
           joined(
               "{", size / 50, [](size_t i) { return "\"" + std::to_string(i) + "\":" + empty_tensor; }, "}"),
           joined(R"({"__metadata__":{)", size / 9, item, "}}"),
           R"({"__metadata__":{"k":")" + large + "\"}}",
           R"({"__metadata__":{"k":")" + repeated("\\n", size / 2) + "\"}}",
           R"({"__metadata__":{"k":")" + large,
           R"({"__metadata__":{"k":")" + large + "\xFF",
           "{\"" + large + "\":" + empty_tensor + "}",
           R"({"w":{"dtype":"F32","shape":[0)" + repeated(",0", size / 2) + R"(],"data_offsets":[0,0]}})",
           R"({"w":{"dtype":"F32","shape":[0],"data_offsets":[0)" + repeated(",0", size / 2) + "]}}",
           R"({"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"x":[0)" + repeated(",[]", size / 3) +
               "]}}",
           R"({"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"x":)" + joined("{", size / 9, item, "}") +
               "}}",
           "{\"w\":" + repeated("[", size),
           "{\"w\":" + std::string(size, ' '),
       }) {
    INFO(header.substr(0, 80));
    write_bytes(folder / "x", file_of(header, "x"));  // a byte that is no tensor's
    heap_watch();
    CHECK(throws([&] { load_safetensors(folder / "x"); }, {"load_safetensors: "}));
    CHECK(double(heap_peak()) / double(header.size()) <= 4);
  }
}

TEST_CASE("any number of tensors is read",
          "[safetensors]") {  // in minutes, where each costs as much as all before it
  const TempFolder folder;
  write_bytes(folder / "x", file_of(many_tensors(200'000)));
  CHECK(load_safetensors(folder / "x").size() == 200'000);
}
