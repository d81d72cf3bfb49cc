// quantize, encode and decode on tensors, against rounding by table lookup one element at a time.
#include "catch.h"
#include "errors.h"
#include "fp8_reference.h"
#include "thread_count.h"

#include <altgrad/autograd/ops.h>
#include <altgrad/fp8/quantize.h>

using namespace altgrad;
using namespace altgrad::fp8;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
const float nan_value = std::nanf("");

bool is_number_format(const Format& f) { return f.has_sign && f.has_subnormals; }

// Values over the format's range and beyond, its grid points and the midpoints between them among them.
template <class T>
Tensor probes(const Format& f, T scale) {
  std::vector<T> values;
  const std::vector<double> grid = reference::magnitudes(f);
  for (size_t i = 0; i < grid.size(); i += 1 + grid.size() / 256) {
    const double next = i + 1 < grid.size() ? grid[i + 1] : grid[i] * 1.125;
    for (double v : {grid[i], (grid[i] + next) / 2, grid[i] + (next - grid[i]) * 0.3, next * 0.9999}) {
      values.push_back(T(v) * scale);
      values.push_back(T(-v) * scale);
    }
  }
  const Tensor normal = here::randn({1000}, {.dtype = dtype_of<T>});
  const std::vector<T> drawn = ::values<T>(normal);
  values.insert(values.end(), drawn.begin(), drawn.end());
  return here::from(values, {int64_t(values.size())});
}

template <class T>
void compare_with_reference(const Format& f, T scale) {
  const reference::Rounder round(f);
  const Tensor x = probes<T>(f, scale);
  const std::vector<T> in = values<T>(x), y = values<T>(quantize(x, f, float(scale)));
  for (size_t i = 0; i < in.size(); ++i) {
    const T quotient = in[i] / scale, expected = T(round(double(quotient))) * scale;
    INFO(f.name << ", scale " << scale << ", x " << in[i] << ", y " << y[i]);
    REQUIRE(std::memcmp(&y[i], &expected, sizeof(T)) == 0);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("quantize is round(x / scale) * scale in every format of up to 8 bits", "[fp8]", float,
                   double) {
  manual_seed(3);
  for (const Format& f : formats()) {
    if (f.bits() > 8 || !is_number_format(f)) continue;
    for (TestType scale : {TestType(1), TestType(0.5), TestType(0.3f), TestType(7e-5f), TestType(3e4f)}) {
      compare_with_reference<TestType>(f, scale);
    }
  }
}

TEST_CASE("quantize handles 16-bit formats", "[fp8]") {
  const Tensor x = here::from({1.f, 1.00048828125f, 65519.f, -3e-8f, 0.1f}, {5});
  const Tensor y = quantize(x, E5M10, 1);
  const float expected[] = {1.f, 1.f, 65504.f, -5.9604645e-8f, 0.099975586f};
  for (size_t i = 0; i < 5; ++i) REQUIRE(values<float>(y)[i] == expected[i]);
}

TEST_CASE("quantize works on any shape, odd sizes and no elements", "[fp8]") {
  const reference::Rounder round(E5M2);
  for (const Shape& shape : {Shape{}, Shape{1}, Shape{0, 3}, Shape{7}, Shape{3, 5, 7}, Shape{65, 33}}) {
    const Tensor x = here::randn(shape), y = quantize(x, E5M2, 0.25f);
    REQUIRE(y.shape() == shape);
    const std::vector<float> in = values<float>(x), out = values<float>(y);
    for (size_t i = 0; i < in.size(); ++i) {
      REQUIRE(out[i] == float(round(in[i] / 0.25f)) * 0.25f);
    }
  }
}

TEST_CASE("quantizing twice changes nothing more", "[fp8]") {
  const Tensor x = here::randn({1000});
  for (float scale : {1.0f, 0.125f, 0.0037f}) {
    const Tensor y = quantize(x, E4M3, scale);
    REQUIRE(same_bits(quantize(y, E4M3, scale), y));
  }
}

TEST_CASE("quantize keeps NaN, Inf follows the overflow policy, values beyond max saturate", "[fp8]") {
  const Tensor x = here::from({nan_value, infinity, -infinity, 1e6f, -1e6f}, {5});
  const auto run = [&](const Format& f, Overflow overflow) {
    return values<float>(quantize(x, f, 2, {.overflow = overflow}));
  };
  for (const Format& f : {E4M3, E5M2, E3M4}) {
    for (Overflow overflow : {Overflow::to_special, Overflow::saturate_finite, Overflow::saturate_all}) {
      REQUIRE(std::isnan(run(f, overflow)[0]));
    }
    const float top = float(f.max()) * 2;
    REQUIRE(run(f, Overflow::saturate_finite)[3] == top);
    REQUIRE(run(f, Overflow::saturate_finite)[4] == -top);
    REQUIRE(run(f, Overflow::saturate_all)[1] == top);
    REQUIRE(run(f, Overflow::saturate_all)[2] == -top);
  }
  REQUIRE(std::isnan(run(E4M3, Overflow::saturate_finite)[1]));
  REQUIRE(run(E5M2, Overflow::saturate_finite)[1] == infinity);
  REQUIRE(std::isnan(run(E4M3, Overflow::to_special)[3]));
  REQUIRE(run(E5M2, Overflow::to_special)[4] == -infinity);
}

TEST_CASE("a finite value saturates even where x / scale is beyond the floats", "[fp8]") {
  const Tensor x = here::from({1e30f, -1e30f, infinity}, {3});
  const float scale = 1e-20f;
  const std::vector<float> y = values<float>(quantize(x, E4M3, scale));
  REQUIRE(y[0] == 448 * scale);
  REQUIRE(y[1] == -448 * scale);
  REQUIRE(std::isnan(y[2]));
  REQUIRE(values<uint8_t>(encode(x.narrow(0, 0, 2), E4M3, scale))[0] == 0x7E);
}

TEST_CASE("rounding toward zero never grows a magnitude and is the last number not above it", "[fp8]") {
  const std::vector<double> grid = reference::magnitudes(E4M3);
  const Tensor x = probes<float>(E4M3, 1.0f);
  const std::vector<float> in = values<float>(x),
                           y = values<float>(quantize(x, E4M3, 1, {.rounding = Rounding::toward_zero}));
  for (size_t i = 0; i < in.size(); ++i) {
    const double a = std::abs(in[i]);
    const double expected = *std::prev(std::upper_bound(grid.begin(), grid.end(), a));
    REQUIRE(std::abs(y[i]) == expected);
    REQUIRE(std::signbit(y[i]) == std::signbit(in[i]));
  }
}

TEMPLATE_TEST_CASE("stochastic rounding of element i uses word i of one stream", "[fp8]", float, double) {
  for (int64_t n : {1, 3, 4, 5, 1023, 70001}) {
    const Tensor x = here::randn({n}, {.dtype = dtype_of<TestType>});
    manual_seed(11);
    const RandomStream random = rounding_generator().next();
    const Generator::State after = rounding_generator().state();
    manual_seed(11);
    const auto in = values<TestType>(x),
               y = values<TestType>(quantize(x, E4M3, 0.75f, {.rounding = Rounding::stochastic}));
    for (size_t i = 0; i < in.size(); ++i) {
      const auto code = E4M3.encode(in[i] / TestType(0.75f), Rounding::stochastic, Overflow::saturate_finite,
                                    random.word(i));
      if (y[i] != TestType(E4M3.decode(code)) * TestType(0.75f)) {
        FAIL("element " << i << " of " << n << ": x " << in[i] << ", y " << y[i]);
      }
    }
    REQUIRE(rounding_generator().state() == after);
  }
}

TEST_CASE("stochastic rounding has the value as its mean and the two neighbours as its values", "[fp8]") {
  manual_seed(5);
  const int64_t n = 200000;
  for (float v : {1.03f, -0.4f, 300.f, 0.0007f}) {
    const Tensor y = quantize(here::full({n}, v), E4M3, 1, {.rounding = Rounding::stochastic});
    double total = 0, low = infinity, high = -infinity;
    for (float q : values<float>(y)) {
      total += q;
      low = std::min<double>(low, q);
      high = std::max<double>(high, q);
    }
    const double down =
        quantize(here::full({1}, v), E4M3, 1, {.rounding = Rounding::toward_zero}).item<double>();
    REQUIRE((low == down || high == down));
    REQUIRE((low < v && v < high));
    // Five standard deviations of the mean of n draws of two values.
    REQUIRE(std::abs(total / n - v) < 5 * 0.5 * (high - low) / std::sqrt(double(n)));
  }
}

TEST_CASE("quantize draws no randomness unless asked to", "[fp8]") {
  manual_seed(1);
  quantize(here::ones({4}), E4M3, 1);
  REQUIRE(default_generator().state() == Generator::State{1, 0});
}

TEST_CASE("quantize and encode give the same bits on 1, 2 and 3 threads", "[fp8]") {
  const Tensor x = here::randn({300007});
  Tensor values[4], random[4], codes[4];
  for (int threads : {1, 2, 3}) {
    const ThreadCount count(threads);
    manual_seed(2);
    values[threads] = quantize(x, E4M3, 0.01f);
    random[threads] = quantize(x, E4M3, 0.01f, {.rounding = Rounding::stochastic});
    codes[threads] = encode(x, E4M3, 0.01f, {.rounding = Rounding::stochastic});
    REQUIRE(same_bits(values[threads], values[1]));
    REQUIRE(same_bits(random[threads], random[1]));
    REQUIRE(same_bits(codes[threads], codes[1]));
  }
  REQUIRE_FALSE(same_bits(values[1], random[1]));
}

TEST_CASE("the straight-through gradient passes dy unchanged", "[fp8]") {
  const Tensor x = here::randn({5, 7}).requires_grad(true), weight = here::randn({5, 7});
  Tape tape;
  tape.backward(sum(quantize(x, E4M3, 1e-4f) * weight));  // a scale at which most values saturate
  REQUIRE(same_bits(x.grad(), weight));
}

TEMPLATE_TEST_CASE("the clipped straight-through gradient is zero exactly where |x / scale| > max", "[fp8]",
                   float, double) {
  const TestType edge = TestType(448 * 0.5);
  const std::vector<TestType> values = {0,
                                        1,
                                        -1,
                                        edge,
                                        -edge,
                                        std::nextafter(edge, TestType(1000)),
                                        std::nextafter(-edge, TestType(-1000)),
                                        1e5,
                                        TestType(-infinity)};
  const Tensor x = here::from(values, {9}).requires_grad(true);
  const Tensor weight = here::randn({9}, {.dtype = dtype_of<TestType>});
  Tape tape;
  const Tensor y = quantize(x, E4M3, 0.5f, {.overflow = Overflow::saturate_all, .ste = Ste::clipped});
  tape.backward(sum(y * weight));
  const auto dx = ::values<TestType>(x.grad()), dy = ::values<TestType>(weight);
  for (size_t i = 0; i < 9; ++i) {
    REQUIRE(dx[i] == (i < 5 ? dy[i] : TestType(0)));
  }
}

TEST_CASE("every code of every format of up to 8 bits survives decode and encode", "[fp8]") {
  for (const Format& f : formats()) {
    if (f.bits() > 8) continue;
    std::vector<uint8_t> numbers;
    for (uint32_t code = 0; code < f.num_codes(); ++code) {
      if (std::isfinite(f.decode(code))) numbers.push_back(uint8_t(code));
    }
    const Tensor codes = here::from(numbers, {int64_t(numbers.size())});
    INFO(f.name);
    REQUIRE(codes.numel() >= int64_t(f.num_codes() * 3 / 4));
    for (float scale : {1.0f, 0.25f}) {
      const Tensor decoded = decode(codes, f, scale);
      REQUIRE(same_bits(encode(decoded, f, scale), codes));
      REQUIRE(values<float>(decoded)[5] == float(f.decode(numbers[5])) * scale);
    }
  }
}

TEST_CASE("decode of encode has the bits of quantize", "[fp8]") {
  for (const Format& f : formats()) {
    if (f.bits() > 8 || !is_number_format(f)) continue;
    const Tensor x = probes<float>(f, 0.3f);
    for (Rounding rounding : {Rounding::nearest_even, Rounding::toward_zero, Rounding::stochastic}) {
      INFO(f.name);
      manual_seed(9);
      const Tensor codes = encode(x, f, 0.3f, {.rounding = rounding});
      manual_seed(9);
      REQUIRE(same_bits(decode(codes, f, 0.3f), quantize(x, f, 0.3f, {.rounding = rounding})));
    }
  }
}

TEST_CASE("encode takes NaN where the format has one and throws where it has none", "[fp8]") {
  const Tensor x = here::from({1.f, nan_value}, {2});
  const Tensor codes = encode(x, E4M3, 1);
  REQUIRE(values<uint8_t>(codes)[1] == 0x7F);
  REQUIRE(std::isnan(values<float>(decode(codes, E4M3, 1))[1]));
  REQUIRE(throws([&] { encode(x, E3M4, 1); }, {"NaN", "E3M4"}));
}

TEST_CASE("decode gives NaN for what is no code of a narrow format", "[fp8]") {
  const Tensor codes = here::from(std::vector<uint8_t>{0x07, 0x0F, 0x10, 0xFF}, {4});
  const std::vector<float> decoded = values<float>(decode(codes, float4_e2m1fn, 0.5f));
  REQUIRE(decoded[0] == 3);
  REQUIRE(decoded[1] == -3);
  REQUIRE(std::isnan(decoded[2]));
  REQUIRE(std::isnan(decoded[3]));
}

TEST_CASE("quantize, encode and decode refuse a scale that is not positive and finite", "[fp8]") {
  const Tensor x = here::ones({2}), codes = here::zeros({2}, {.dtype = DType::u8});
  for (float scale : {0.0f, -1.0f, infinity, -infinity, nan_value}) {
    REQUIRE(throws([&] { quantize(x, E4M3, scale); }, {"quantize", "scale"}));
    REQUIRE(throws([&] { encode(x, E4M3, scale); }, {"encode", "scale"}));
    REQUIRE(throws([&] { decode(codes, E4M3, scale); }, {"decode", "scale"}));
  }
}

TEST_CASE("quantize, encode and decode refuse other dtypes and formats that do not fit", "[fp8]") {
  const Tensor ids = here::zeros({2}, {.dtype = DType::i64}), x = here::ones({2});
  REQUIRE_THROWS_AS(quantize(ids, E4M3, 1), std::invalid_argument);
  REQUIRE_THROWS_AS(encode(ids, E4M3, 1), std::invalid_argument);
  REQUIRE(throws([&] { decode(x, E4M3, 1); }, {"u8"}));
  REQUIRE(throws([&] { encode(x, E5M10, 1); }, {"16 bits"}));
  const Format nonsense{.exponent_bits = 40, .mantissa_bits = 3, .bias = 0, .name = "nonsense"};
  REQUIRE(throws([&] { quantize(x, nonsense, 1); }, {"nonsense"}));
}
