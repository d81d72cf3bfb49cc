// Native FP8: codes as tensor cores read them, and cuBLASLt's products of them. On a GPU from sm_89 on, and on the simulated
// device.
#include <altgrad/altgrad.h>
#include <altgrad/core/dispatch.h>
#include <altgrad/core/internal/kernels/gemm.h>
#include <altgrad/fp8/internal/kernels.h>
#include <altgrad/fp8/internal/operand.h>

#include <cmath>
#include <cstdlib>
#include <random>

#include "catch.h"
#include "values.h"

using namespace altgrad;

#define NEEDS_FP8() \
  if (!device_has_fp8()) SKIP_TEST("the device has no tensor cores for FP8")

namespace {
bool device_has_fp8() { return !device().is_cpu() && kernels::has_fp8(detail::CurrentCuda(0).device()); }
// Tensor cores keep fewer bits of a sum of FP8 products than a float has; the simulated device, which ctest names an sm_89
// here, adds floats.
double off_of_sums() { return std::getenv("ALTGRAD_SIMULATOR_SM") ? 1e-6 : 1e-2; }
}  // namespace

namespace {
// y, dx, dw and db of a layer.
constexpr size_t bias_grad = 3;  // sums of floats, by any device
std::vector<Tensor> results_of_layer(bool native, int64_t rows, int64_t in, int64_t out,
                                     const fp8::Format& weight, const fp8::Format& input,
                                     const fp8::Format& grad) {
  manual_seed(7);
  nn::Linear linear = on_device(nn::Linear(in, out));
  auto layer = fp8::QuantizedLinear::from_linear(
      linear, weight, {.input_format = input, .grad_format = grad, .native_fp8 = native});
  const Tensor x = here::randn({rows, in}).requires_grad(true);
  Tape tape;
  const Tensor y = layer(x);
  tape.backward(y, here::randn({rows, out}));
  return {y, x.grad(), layer.weight().grad(), layer.bias()->grad()};
}
}  // namespace

TEST_CASE("native FP8 multiplies what the simulated formats multiply, at any sizes", "[native_fp8]") {
  NEEDS_FP8();
  using fp8::E4M3, fp8::E5M2;
  for (const auto& [rows, in, out] : std::vector<std::array<int64_t, 3>>{
           {96, 64, 160}, {16, 16, 16}, {1, 48, 32}, {37, 70, 3}, {64, 130, 80}, {450, 32, 144}}) {
    for (const auto& [weight, input, grad] :
         {std::tuple{E4M3, E4M3, E5M2}, std::tuple{E4M3, E4M3, E4M3}, std::tuple{E5M2, E4M3, E4M3}}) {
      CAPTURE(rows, in, out, weight.name, input.name, grad.name);
      const auto simulated = results_of_layer(false, rows, in, out, weight, input, grad),
                 native = results_of_layer(true, rows, in, out, weight, input, grad);
      for (size_t i = 0; i < native.size(); ++i) {
        const std::vector<double> got = values(native[i]), expected = values(simulated[i]);
        double worst = 0, largest = 0;
        for (size_t j = 0; j < got.size(); ++j) {
          const double off = std::abs(got[j] - expected[j]);
          worst = off <= worst ? worst : off;  // NaN counts
          largest = std::max(largest, std::abs(expected[j]));
        }
        CAPTURE(i);
        CHECK(worst <= (i == bias_grad ? 1e-6 : off_of_sums()) * largest);
      }
    }
  }
}

TEST_CASE("the bias's gradient of native FP8 does not depend on what else is trained, and is 0 of no rows",
          "[native_fp8]") {
  NEEDS_FP8();
  uint64_t seed = 7;  // other numbers each time: memory may still hold the last ones' sums
  const auto gradient = [&](int64_t rows, bool weight_trains, bool x_trains,
                            std::optional<fp8::Format> grad) {
    manual_seed(seed++);
    fp8::LinearQuantizers quantizers{.weight = {fp8::E4M3, fp8::AmaxHistory(4, device())},
                                     .input = {fp8::E4M3, fp8::AmaxHistory(4, device())},
                                     .grad = {grad, fp8::AmaxHistory(4, device())},
                                     .native_fp8 = true};
    const Tensor x = here::randn({rows, 32}).requires_grad(x_trains),
                 w = here::randn({48, 32}).requires_grad(weight_trains),
                 b = here::zeros({48}).requires_grad(true), dy = here::randn({rows, 48});
    Tape tape;
    tape.backward(fp8::quantized_linear(x, w, b, quantizers, true), dy);
    return std::pair{values(b.grad()), values(sum(dy, {0}))};
  };
  for (const int64_t rows : {0, 1, 200}) {
    for (const auto& grad : {std::optional(fp8::E5M2), std::optional<fp8::Format>()}) {
      for (const unsigned trains : {0u, 1u, 2u, 3u}) {
        CAPTURE(rows, grad.has_value(), trains);
        const auto [got, expected] = gradient(rows, trains & 1, trains & 2, grad);
        for (size_t i = 0; i < got.size(); ++i) REQUIRE(std::abs(got[i] - expected[i]) <= 1e-5);
      }
    }
  }
}

TEST_CASE("operands of native FP8 are the codes that encode gives, by rows and by columns", "[native_fp8]") {
  NEEDS_FP8();
  const auto with_equal_nans = [](const Tensor& t) {
    std::vector<double> all = values(t);
    for (double& x : all) x = std::isnan(x) ? 12345 : x;
    return all;
  };
  for (const auto& [rows, columns] : std::vector<std::array<int64_t, 2>>{
           {1, 1}, {64, 64}, {67, 130}, {128, 64}, {272, 208}, {3, 0}, {0, 3}}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const fp8::Format& f : {fp8::E4M3, fp8::E5M2}) {
        for (const fp8::Overflow overflow : {fp8::Overflow::to_special, fp8::Overflow::saturate_finite}) {
          for (const bool stochastic : {false, true}) {
            CAPTURE(rows, columns, dtype == DType::bf16, f.name, int(overflow), stochastic);
            std::vector<float> numbers = values<float>(here::randn({rows, columns}) * 100.0);
            const bool has_odd = numbers.size() > 1;
            if (has_odd) numbers[3] = NAN, numbers[size_t(columns)] = INFINITY, numbers[9] = -INFINITY;
            const Tensor x = here::from(numbers, {rows, columns}).to(dtype);
            const fp8::CastOptions cast{stochastic ? fp8::Rounding::stochastic : fp8::Rounding::nearest_even,
                                        overflow};
            fp8::Quantizer quantizer{f, fp8::AmaxHistory(1, device()), fp8::Scaling::delayed, cast};
            quantizer.history.update(100.f);  // smaller than some
            manual_seed(5);
            const fp8::QTensor q = quantizer.apply(x, true, {}, true);
            manual_seed(5);
            const Tensor codes = fp8::encode(x.to(DType::f32), f, q.scale.item<float>(), cast);
            const float scale = q.scale.item<float>();
            CHECK(with_equal_nans(fp8::decode(q.values, f, 1)) == with_equal_nans(fp8::decode(codes, f, 1)));
            CHECK(with_equal_nans(q.dequantize()) == with_equal_nans(fp8::decode(codes, f, scale)));
            CHECK(same_bits(q.values_t, q.values.transpose()));
            if (columns == 1) CHECK(quantizer.history.amax() == fp8::amax(x));
            CHECK(quantizer.history.non_finite() == int64_t(has_odd));
          }
        }
      }
    }
  }
}

TEST_CASE("codes of native FP8 are those of x / scale, close to ties and at any scale", "[native_fp8]") {
  NEEDS_FP8();
  const detail::CurrentCuda current(0);
  const int64_t rows = 256, columns = 128;  // whole tiles
  std::mt19937_64 random(5);
  const auto exponent = [&](int most) { return int(random() % uint64_t(2 * most)) - most; };
  for (int trial = 0; trial < 40; ++trial) {
    // Beyond 2^-40 and 2^60 none is rounded the short way.
    const int range = trial % 4 == 3 ? 120 : trial % 4 == 2 ? 80 : 30;
    const float scale = std::ldexp(1 + float(random() % (1 << 23)) * 0x1p-23f, exponent(range));
    const fp8::Format& f = trial % 2 ? fp8::E4M3 : fp8::E5M2;
    std::vector<float> numbers(size_t(rows * columns));
    for (float& x : numbers) {
      const double middle = (f.decode(uint32_t(random() % 120)) + f.decode(uint32_t(random() % 120))) / 2;
      x = float(middle * double(scale));
      for (uint64_t steps = random() % 3; steps > 0; --steps)
        x = std::nextafter(x, random() % 2 ? INFINITY : -INFINITY);
      x = random() % 7 == 0 ? -x : random() % 50 == 0 ? std::ldexp(x, exponent(20)) : x;
    }
    // Some warps have what is large, or no number.
    numbers[5] = 0x1p100f, numbers[size_t(20 * columns)] = NAN,
    numbers[size_t(70 * columns + 100)] = -INFINITY;
    const fp8::Rounder<float> rounder(f);
    const Tensor x = here::from(numbers, {rows, columns}), on_device = here::full({}, double(scale)),
                 y = here::empty({rows, columns}, {DType::u8}),
                 y_t = here::empty({columns, rows}, {DType::u8});
    kernels::quantize(current.device(),
                      kernels::Codes{y.ptr<uint8_t>(), y_t.ptr<uint8_t>(),
                                     f == fp8::E4M3 ? kernels::Fp8::e4m3 : kernels::Fp8::e5m2, rows, columns},
                      x.ptr<float>(), on_device.ptr<float>(), {rounder, {}}, x.numel());
    const std::vector<uint8_t> codes = values<uint8_t>(y);
    int64_t wrong = 0;
    for (size_t i = 0; i < numbers.size(); ++i) {
      const float expected = rounder(kernels::quotient(numbers[i], scale));
      wrong += !std::isnan(expected) ? codes[i] != rounder.code(expected) : !std::isnan(f.decode(codes[i]));
    }
    CAPTURE(scale, f.name);
    CHECK(wrong == 0);
    CHECK(same_bits(y_t, y.transpose()));
  }
}

TEST_CASE("native FP8 adds a bias to bf16 within the product, and rounds each sum once", "[native_fp8]") {
  NEEDS_FP8();
  fp8::Quantizer quantizer{fp8::E4M3, fp8::AmaxHistory(1, device())};
  for (const auto& [rows, n] : std::vector<std::array<int64_t, 2>>{{32, 48}, {32, 17}, {7, 48}}) {
    for (const DType result : {DType::bf16, DType::f32}) {
      CAPTURE(rows, n, result == DType::bf16);
      const fp8::QTensor x = quantizer.apply(here::randn({rows, 40}), false, {}, true),
                         w = quantizer.apply(here::randn({n, 40}), false, {}, true);
      const Tensor bias = here::randn({n}) * 8.0;
      const auto exact = [](const Tensor& t) { return t.to(DType::f64); };
      const Tensor y = fp8::detail::product(x, w.t(), bias, result);
      const std::vector<double> got = values(exact(y)),
                                expected = values(
                                    matmul(exact(x.dequantize()), exact(w.dequantize()).permute({1, 0})) +
                                    exact(bias.to(result)));
      const double last_bit = result == DType::bf16 ? 0x1.01p-8 : 1e-6, off = 10 * off_of_sums();
      for (size_t i = 0; i < got.size(); ++i)
        CHECK(std::abs(got[i] - expected[i]) <= last_bit * std::abs(expected[i]) + off);
    }
  }
}

TEST_CASE("in native FP8 E5M2 keeps its Inf, and NaN stays", "[native_fp8]") {
  NEEDS_FP8();
  const Tensor one = here::ones({}),
               x = here::from({1.f, INFINITY, -INFINITY, NAN, -57344.f, 0x1p-16f}, {6, 1});
  const Tensor codes = fp8::encode(x, fp8::E5M2, 1), row = codes.reshape({1, 6}),
               code = fp8::encode(here::ones({1, 1}), fp8::E4M3, 1);
  const fp8::QTensor b{code, one, fp8::E4M3, true, code};
  for (const bool transposed : {false, true}) {
    const fp8::QTensor left = transposed ? fp8::QTensor{row, one, fp8::E5M2, true, codes}
                                         : fp8::QTensor{codes, one, fp8::E5M2, false, row};
    const std::vector<double> got = values(fp8::matmul(left, b)), expected = values(x);
    for (size_t i = 0; i < got.size(); ++i)
      CHECK((got[i] == expected[i] || (std::isnan(got[i]) && std::isnan(expected[i]))));
  }
}
