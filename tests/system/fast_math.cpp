// A user's program compiled and linked with -ffast-math. With GCC before 13 it flushes subnormals from its start. What it
// gets from the library, and from what is inline in public headers, must be the bits that any program gets. Comparisons
// here are of bits, as this file may not trust its own with NaN.
#include <altgrad/altgrad.h>

#include <bit>
#include <cstring>

#include "errors.h"

namespace ag = altgrad;
using namespace altgrad::fp8;

#if !ALTGRAD_FAST_MATH
#error "this file is to be compiled with -ffast-math"
#endif

namespace {

constexpr uint32_t nan_bits = 0x7fc00000, inf_bits = 0x7f800000;

// The upper halves of all floats.
ag::Tensor all_halves() {
  const ag::Tensor x = ag::Tensor::empty({1 << 16});
  for (uint32_t i = 0; i < 1 << 16; ++i) {
    const uint32_t bits = i << 16;
    std::memcpy(x.ptr<float>() + i, &bits, sizeof bits);
  }
  return x;
}

uint32_t bits_at(const ag::Tensor& x, int64_t i) {
  uint32_t bits;
  std::memcpy(&bits, x.ptr<float>() + i, sizeof bits);
  return bits;
}

}  // namespace

TEST_CASE("rounders of a file under -ffast-math give the library's bits") {
  const ag::Tensor x = all_halves();
  for (const Format& f : formats()) {
    INFO(f.name);
    const ag::Tensor y = quantize(x, f, 1.0f);
    const Rounder<float> r(f);
    int wrong = 0;
    for (int64_t i = 0; i < x.numel(); ++i) {
      const float v = std::bit_cast<float>(bits_at(x, i));
      const bool nan = (bits_at(x, i) & 0x7fffffff) > inf_bits;
      wrong +=
          std::bit_cast<uint32_t>(r(v)) != bits_at(y, i) && !(nan && (bits_at(y, i) & 0x7fffffff) > inf_bits);
      const bool finite = (bits_at(x, i) & inf_bits) != inf_bits;
      if (r.has_nearest() && finite)
        wrong += std::bit_cast<uint32_t>(r.nearest(v)) != std::bit_cast<uint32_t>(r(v));
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("codes of a file under -ffast-math are the library's, both ways") {
  const ag::Tensor x = all_halves();
  for (const Format& f : formats()) {
    if (f.bits() > 8 || !f.has_nan()) continue;
    INFO(f.name);
    const ag::Tensor codes = encode(x, f, 1.0f), values = decode(codes, f, 1.0f);
    const Rounder<float> r(f);
    int wrong = 0;
    for (int64_t i = 0; i < x.numel(); ++i) {
      const uint8_t code = codes.ptr<uint8_t>()[i];
      wrong += r.code(r(std::bit_cast<float>(bits_at(x, i)))) != code;
      // A double's bits tell E8M0's 2^-127 from 0, where a float's comparison flushes it.
      const uint64_t wide = std::bit_cast<uint64_t>(f.decode(code));
      const bool nan = (wide & ~(uint64_t{1} << 63)) > uint64_t{0x7ff} << 52;
      if (nan) wrong += (bits_at(values, i) & 0x7fffffff) <= inf_bits;
      if (!nan) wrong += f.encode(f.decode(code)) != code;
    }
    CHECK(wrong == 0);
  }
  CHECK(std::bit_cast<uint64_t>(float8_e8m0fnu.decode(0)) == uint64_t{1023 - 127} << 52);
  CHECK(bits_at(decode(ag::Tensor::zeros({1}, {.dtype = ag::DType::u8}), float8_e8m0fnu, 1.0f), 0) ==
        0x00400000);
  CHECK(std::bit_cast<uint64_t>(E4M3.decode(0x80)) == uint64_t{1} << 63);
  CHECK(std::bit_cast<uint64_t>(E5M2.decode(0x7c)) == uint64_t{0x7ff} << 52);
}

TEST_CASE(
    "conversions to bf16 of a file under -ffast-math are the library's, and right where they are rounded "
    "once") {
  const ag::Tensor x = ag::Tensor::empty({1 << 18});
  for (uint32_t i = 0; i < 1 << 18; ++i) {
    const uint32_t low[] = {0, 0x7fff, 0x8000, 0x8001}, bits = i >> 2 << 16 | low[i & 3];
    std::memcpy(x.ptr<float>() + i, &bits, sizeof bits);
  }
  const ag::Tensor y = x.to(ag::DType::bf16), wide = x.to(ag::DType::f64);
  int wrong = 0;
  for (int64_t i = 0; i < x.numel(); ++i) {
    const uint16_t bits = y.ptr<ag::bfloat16>()[i].bits;
    wrong += ag::bfloat16(std::bit_cast<float>(bits_at(x, i))).bits != bits ||
             ag::bfloat16(wide.ptr<double>()[i]).bits != bits;
    wrong += std::bit_cast<uint32_t>(float(y.ptr<ag::bfloat16>()[i])) != uint32_t(bits) << 16;
  }
  CHECK(wrong == 0);
  CHECK(ag::bfloat16(std::bit_cast<float>(0x80018000u)).bits == 0x8002);
  CHECK(ag::bfloat16(std::bit_cast<float>(0xff800001u)).bits == 0xffc0);
  CHECK(ag::bfloat16(std::bit_cast<double>(uint64_t{0x3ff0100000000001})).bits == 0x3f81);
}

TEST_CASE("the library tells NaN and infinity from numbers for a program under -ffast-math") {
  const ag::Tensor x = ag::Tensor::ones({8}).requires_grad(true);
  std::memcpy(x.ptr<float>() + 3, &nan_bits, 4);
  CHECK(throws([&] { x.detach().reshape({8}).narrow(0, 3, 1).item<int64_t>(); }, {"cannot hold"}));
  CHECK(x.detach().reshape({8}).narrow(0, 3, 1).item<bool>());
  CHECK((std::bit_cast<uint32_t>(amax(x)) & 0x7fffffff) > inf_bits);
  CHECK((bits_at(quantize(x, E4M3, 1.0f), 3) & 0x7fffffff) > inf_bits);
  CHECK(throws([&] { encode(x, E3M4, 1.0f); }, {"NaN"}));
  CHECK(throws([&] { compute_scale(std::bit_cast<float>(nan_bits), E4M3); }, {"finite"}));
  CHECK(throws([&] { compute_scale(std::bit_cast<float>(inf_bits), E4M3); }, {"finite"}));
  CHECK(throws([&] { quantize(x, E4M3, std::bit_cast<float>(nan_bits)); }, {"scale"}));
  ag::Tape tape({.detect_anomaly = true});
  CHECK(throws<std::runtime_error>([&] { x * 2.0; }, {"detect_anomaly"}));
}

TEST_CASE("layers of a program under -ffast-math round to numbers of their format") {
  ag::manual_seed(1);
  ag::nn::Sequential net(ag::nn::Linear(ag::Tensor::randn({16, 16}), {}));
  quantize_model(net, E4M3, {.input_format = E4M3});
  const ag::Tensor x = ag::Tensor::randn({32, 16});
  const ag::Tensor eye = ag::Tensor::zeros({16, 16});
  for (int i = 0; i < 16; ++i) eye.ptr<float>()[17 * i] = 1;
  const ag::Tensor w = net(eye);  // the rounded weight, transposed, on its scale
  const float scale = compute_scale(amax(net.parameter("0.weight")), E4M3);
  int wrong = 0;
  for (const float v : w.data<float>()) {
    const float q = v / scale;
    wrong += std::abs(E4M3.decode(E4M3.encode(q)) - q) > 1e-5f * std::abs(q);
  }
  CHECK(wrong == 0);
}
