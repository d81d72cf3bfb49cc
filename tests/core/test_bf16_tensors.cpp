// Tensors of bf16: they are made, moved, compared, printed and saved, and ops that compute refuse them.
#include <altgrad/altgrad.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "catch.h"
#include "errors.h"
#include "reference.h"
#include "temp_folder.h"

using namespace altgrad;

namespace {

constexpr TensorOptions in_bf16{.dtype = DType::bf16};

// All codes, in order.
Tensor all_codes() {
  std::vector<bfloat16> codes;
  for (uint32_t code = 0; code < 1 << 16; ++code) codes.push_back(std::bit_cast<bfloat16>(uint16_t(code)));
  return here::from(codes, {1 << 16});
}

std::vector<float> floats(const Tensor& t) {
  const std::vector<bfloat16> all = values<bfloat16>(t);
  return {all.begin(), all.end()};
}

// A parameter, and a buffer in bf16.
struct Stored : nn::ModuleOf<Stored> {
  Tensor weight = here::ones({2}).requires_grad(true), table = here::zeros({2}, in_bf16);
  void visit(nn::Visitor& v) override { v("weight", weight), v.buffer("table", table); }
};

}  // namespace

TEST_CASE("bf16 tensors are made, filled and read", "[bf16]") {
  CHECK(here::empty({3, 2}, in_bf16).nbytes() == 12);
  CHECK(floats(here::zeros({2}, in_bf16)) == std::vector<float>{0, 0});
  CHECK(floats(here::ones({2}, in_bf16)) == std::vector<float>{1, 1});
  CHECK(here::full({}, 0x1.010000004p0, in_bf16).item<double>() == 0x1.02p0);  // rounded once
  CHECK(here::full({}, 1e300, in_bf16).item<float>() == INFINITY);
  CHECK(floats(here::arange(4, in_bf16)) == std::vector<float>{0, 1, 2, 3});
  CHECK(floats(here::arange(258, in_bf16))[257] == 256);

  const Tensor x = here::from({bfloat16(1.5f), bfloat16(-2.f)}, {2, 1});
  CHECK(x.dtype() == DType::bf16);
  CHECK(floats(x) == std::vector<float>{1.5f, -2});
  x.fill_(-2.75);
  const Tensor one = x.narrow(0, 0, 1);
  CHECK(one.item<float>() == -2.75f);
  CHECK(one.item<double>() == -2.75);
  CHECK(one.item<int>() == -2);
  CHECK(one.item<bool>());
  CHECK(one.item<bfloat16>().bits == 0xc030);
  CHECK(here::from({int64_t(1) << 62 | int64_t(1) << 54 | 1}, {}).item<bfloat16>() == 0x1.02p62f);
  CHECK(throws([&] { here::full({}, NAN, in_bf16).item<int>(); }, {"item"}));
  CHECK(throws([&] { here::full({}, 300, in_bf16).item<uint8_t>(); }, {"item"}));
  CHECK(throws([&] { x.data<float>(); }, {"data<f32>", "bf16"}));
  CHECK(throws([&] { here::zeros({2}).data<bfloat16>(); }, {"data<bf16>", "f32"}));
  CHECK(throws([&] { x.copy_(here::zeros({3}, in_bf16)); }, {"copy_", "(3)"}));
  CHECK(throws([&] { here::zeros({}, {.dtype = DType(5)}); }, {"empty: dtype 5"}));
}

TEST_CASE("ops that move elements move bf16's bits", "[bf16]") {
  const Tensor codes = all_codes(), x = codes.reshape({2, 256, 128});
  CHECK(codes.is(x));
  CHECK(same_bits(codes.clone(), codes));
  CHECK_FALSE(codes.clone().is(codes));
  CHECK(codes.detach().is(codes));
  CHECK(codes.to(device()).is(codes));
  const Tensor permuted = x.permute({2, 0, 1});
  using Elements = std::vector<bfloat16>;
  const Elements p = values<bfloat16>(permuted), n = values<bfloat16>(x.narrow(1, 3, 5)),
                 e = values<bfloat16>(expand(x.narrow(0, 1, 1), {3, 256, 128}));
  const auto bits = [](const Elements& t, int64_t i) { return int(t[size_t(i)].bits); };
  int wrong = 0;
  for (int64_t i = 0; i < 2; ++i) {
    for (int64_t j = 0; j < 256; ++j) {
      for (int64_t k = 0; k < 128; ++k) {
        const int64_t code = (i * 256 + j) * 128 + k;
        wrong += bits(p, (k * 2 + i) * 256 + j) != code;
        if (j >= 3 && j < 8) wrong += bits(n, (i * 5 + j - 3) * 128 + k) != code;
        if (i == 1) {
          for (int64_t c = 0; c < 3; ++c) wrong += bits(e, (c * 256 + j) * 128 + k) != code;
        }
      }
    }
  }
  CHECK(wrong == 0);
  CHECK(same_bits(permuted.permute({1, 2, 0}), x));
  CHECK(same_bits(cat({x.narrow(1, 0, 100), x.narrow(1, 100, 156)}, 1), x));
  CHECK(same_bits(stack({x.narrow(0, 0, 1).reshape({256, 128}), x.narrow(0, 1, 1).reshape({256, 128})}), x));
  CHECK(throws([&] { cat({codes, codes.to(DType::f32)}); }, {"cat", "dtypes differ", "bf16", "f32"}));
}

TEST_CASE("bf16 tensors are compared as numbers", "[bf16]") {
  const Tensor a = here::from({1.f, 0.f, NAN, -1.f, 0x1p-133f}, {5}).to(DType::bf16),
               b = here::from({1.f, -0.f, NAN, -2.f, 0.f}, {5}).to(DType::bf16);
  CHECK(values<uint8_t>(equal(a, b)) == std::vector<uint8_t>{1, 1, 0, 0, 0});
  CHECK(values<uint8_t>(greater(a, b)) == std::vector<uint8_t>{0, 0, 0, 1, 1});
  CHECK(values<uint8_t>(greater(a, here::zeros({}, in_bf16))) == std::vector<uint8_t>{1, 0, 0, 0, 1});
  CHECK(throws([&] { equal(a, a.to(DType::f32)); }, {"equal", "dtypes differ"}));
}

TEST_CASE("bf16 tensors print so that all numbers look different", "[bf16]") {
  CHECK(concat(Tensor::from({1.f, -2.5f, 3.140625f}, {3}).to(DType::bf16)) ==
        "tensor([1, -2.5, 3.141], shape=(3), bf16)");
  CHECK(concat(DType::bf16) == "bf16");
  CHECK(concat(bfloat16(0.5f)) == "0.5");
  int wrong = 0;
  for (int code = 0; code < 1 << 16; ++code) {
    if ((code & 0x7fff) > 0x7f80) continue;
    const std::string text = concat(Tensor::from({std::bit_cast<bfloat16>(uint16_t(code))}, {}));
    wrong += bfloat16(std::strtod(text.c_str() + 7, nullptr)).bits != code;
  }
  CHECK(wrong == 0);
}

TEST_CASE("bf16 tensors are saved as BF16 and come back bit for bit", "[bf16]") {
  const TempFolder folder;
  const std::string path = folder / "x";
  const Tensor codes = all_codes().reshape({256, 256});
  const Tensor byte = here::ones({1}, {.dtype = DType::u8}), wide = here::ones({1});
  save_safetensors(
      path, {{"byte", byte}, {"codes", codes}, {"none", here::empty({0, 2}, in_bf16)}, {"wide", wide}});
  const std::string bytes = read_bytes(path);
  uint64_t header_size;
  std::memcpy(&header_size, bytes.data(), 8);
  const std::string header = bytes.substr(8, header_size);
  CHECK_THAT(header,
             ContainsSubstring(R"("codes":{"data_offsets":[4,131076],"dtype":"BF16","shape":[256,256]})"));
  CHECK(std::memcmp(bytes.data() + 8 + header_size + 4, host(codes).raw(), codes.nbytes()) == 0);

  const StateDict kept = load_safetensors(path, nullptr, {.keep_bf16 = true});
  CHECK(same_bits(kept.at("codes"), codes));
  CHECK(kept.at("none").dtype() == DType::bf16);
  CHECK(same_bits(kept.at("wide"), wide));
  const StateDict widened = load_safetensors(path);  // as before there were bf16 tensors
  CHECK(same_bits(widened.at("codes").to(DType::bf16), codes.to(DType::f32).to(DType::bf16)));
  REQUIRE(widened.at("codes").dtype() == DType::f32);
  int wrong = 0;
  for (uint32_t code = 0; code < 1 << 16; ++code) {
    uint32_t bits;
    std::memcpy(&bits, widened.at("codes").ptr<float>() + code, 4);
    wrong += bits != code << 16;
  }
  CHECK(wrong == 0);
  save_safetensors(folder / "y", kept);
  CHECK(read_bytes(folder / "y") == bytes);
}

TEST_CASE("a module's bf16 buffer comes back from a checkpoint bit for bit", "[bf16]") {
  const TempFolder folder;
  Stored model, resumed;
  model.table = all_codes(), resumed.table = here::zeros({1 << 16}, in_bf16);
  optim::SGD optimizer(model.parameters(), {}), other(resumed.parameters(), {});
  nn::save_checkpoint(folder / "x", model, optimizer, {});
  nn::load_checkpoint(folder / "x", resumed, other);
  CHECK(same_bits(resumed.table, model.table));
}

TEST_CASE("a state of bf16 loads into f32 and f64, and the other way", "[bf16]") {
  Stored model;
  const Tensor half = here::from({bfloat16(0.5f), bfloat16(-3.f)}, {2});
  for (const DType dtype : {DType::f32, DType::f64}) {
    model.to(dtype);
    CHECK(model.table.dtype() == DType::bf16);
    model.weight.detach().fill_(0);
    model.load_state_dict({{"weight", half}, {"table", here::from({1 + 0x1p-8, 1 + 0x1.8p-7}, {2})}});
    CHECK(values<float>(model.weight.detach().to(DType::f32)) == std::vector<float>{0.5f, -3});
    CHECK(floats(model.table) == std::vector<float>{1, 1 + 0x1p-6f});
  }
  const Tensor ids = here::zeros({2}, {.dtype = DType::i64});
  CHECK(throws(
      [&] {
        model.load_state_dict({{"weight", half}, {"table", ids}});
      },
      {"mismatched: table, here (2) bf16, given (2) i64"}));
  CHECK(floats(model.table) == std::vector<float>{1, 1 + 0x1p-6f});
}

TEST_CASE("conversions to bf16 and back have gradients, also where one is used twice", "[bf16]") {
  const Tensor x = here::from({1.f, -2.f}, {2}).requires_grad(true);
  Tape tape;
  const Tensor y = x.to(DType::bf16), moved = y.reshape({1, 2}).to(DType::f32) + y.to(DType::f32);
  CHECK(tape.num_ops() == 5);
  tape.backward(sum(moved * x));
  CHECK(values<float>(x.grad()) == std::vector<float>{4, -8});

  const Tensor stored = here::ones({2}, in_bf16).requires_grad(true);
  Tape other;
  other.backward(sum(stored.to(DType::f32) * 3.0));
  CHECK(stored.grad().dtype() == DType::bf16);
  CHECK(floats(stored.grad()) == std::vector<float>{3, 3});
}

TEST_CASE("the watch for NaN sees those of bf16", "[bf16]") {
  const Tensor nan = here::full({2}, NAN).requires_grad(true);
  Tape tape({.detect_anomaly = true});
  CHECK(throws<std::runtime_error>([&] { nan.to(DType::bf16); }, {"detect_anomaly", "'copy' gave NaN"}));
}

TEST_CASE("parameters of bf16 are refused", "[bf16]") {
  const Tensor stored = here::ones({2}, in_bf16);
  Stored model;
  model.weight.set_grad(here::ones({2}));
  CHECK(throws([&] { model.to(DType::bf16); }, {"to", "bf16", "f32 or f64"}));
  CHECK(model.weight.dtype() == DType::f32);
  CHECK(model.weight.has_grad());
  CHECK(throws([&] { optim::AdamW({stored}, {}); }, {"adamw", "bf16", "must be f32 or f64"}));
  const Tensor held = here::ones({2}, in_bf16);
  held.set_grad(stored);
  CHECK(throws([&] { nn::clip_grad_norm(std::vector{held}, 1); }, {"clip_grad_norm", "bf16"}));
  const auto check =
      gradcheck([](auto in) { return in[0].to(DType::bf16); }, {here::ones({2}, {DType::f64})});
  CHECK_FALSE(check.ok);
  CHECK_THAT(check.message, ContainsSubstring("bf16") && ContainsSubstring("not differentiable"));
}

TEST_CASE("on the CPU ops that compute refuse bf16 by their name", "[bf16]") {
  if (!device().is_cpu()) SKIP_TEST("on a GPU they compute with it");
  const Tensor a = Tensor::ones({2, 2}, in_bf16), f = Tensor::ones({2, 2});
  const Tensor ids = Tensor::zeros({2}, {.dtype = DType::i64}),
               mask = Tensor::ones({2, 2}, {.dtype = DType::u8});
  fp8::QuantizedLinear layer = fp8::QuantizedLinear::from_linear(nn::Linear(2, 2), fp8::E4M3);
  using Calls = std::vector<std::pair<const char*, std::function<void()>>>;
  const Calls on_a_gpu = {
      {"add", [&] { add(a, a); }},
      {"mul", [&] { a * 2.0; }},
      {"maximum", [&] { maximum(a, a); }},
      {"where", [&] { where(mask, a, a); }},
      {"neg", [&] { neg(a); }},
      {"exp", [&] { exp(a); }},
      {"gelu", [&] { gelu(a); }},
      {"clamp", [&] { clamp(a, 0, 1); }},
      {"dropout", [&] { dropout(a, 0.5); }},
      {"sum", [&] { sum(a); }},
      {"mean", [&] { mean(a, {0}); }},
      {"linear", [&] { linear(a, f); }},
      {"softmax", [&] { softmax(a); }},
      {"layer_norm", [&] { layer_norm(a, Tensor::ones({2})); }},
      {"rms_norm", [&] { rms_norm(a, Tensor::ones({2})); }},
      {"cross_entropy", [&] { cross_entropy(a, ids); }},
      {"causal_attention",
       [&] {
         causal_attention(Tensor::ones({1, 2, 6}, in_bf16), 1);
       }},
      {"quantized_linear", [&] { layer(a); }},
      {"amax", [&] { fp8::amax(a); }},
  };
  const Calls nowhere = {
      {"rand", [&] { Tensor::rand({2}, in_bf16); }},
      {"randn", [&] { Tensor::randn({2}, in_bf16); }},
      {"uniform_", [&] { nn::init::uniform_(a, 0, 1); }},
      {"max", [&] { max(a); }},
      {"argmax", [&] { argmax(a); }},
      {"var", [&] { var(a); }},
      {"index_select", [&] { index_select(a, 0, ids); }},
      {"matmul", [&] { matmul(a, a); }},
      {"embedding", [&] { embedding(ids, a); }},
      {"mse_loss", [&] { mse_loss(a, a); }},
      {"quantize", [&] { fp8::quantize(a, fp8::E4M3, 1.f); }},
      {"encode", [&] { fp8::encode(a, fp8::E4M3, 1.f); }},
  };
  const auto before = default_generator().state();
  for (const auto& [op, call] : on_a_gpu) {
    INFO(op);
    CHECK(throws(call, {op, "computes in bf16 on a GPU only", "convert it with .to(DType::f32)"}));
  }
  for (const auto& [op, call] : nowhere) {
    INFO(op);
    CHECK(throws(call, {op, "computes in f32 and f64, and not in bf16", "convert it with .to(DType::f32)"}));
  }
  CHECK(default_generator().state() == before);
  CHECK(throws([&] { add(a, f); }, {"add", "dtypes differ"}));
  CHECK(floats(a) == std::vector<float>(4, 1));
}
