// What QuantizedLinear computes, forward and backward, against plain loops in f64 over operands rounded by
// table lookup.
#include <altgrad/autograd/ops.h>
#include <altgrad/fp8/quantized_linear.h>

#include "catch.h"
#include "errors.h"
#include "fp8_reference.h"
#include "thread_count.h"

using namespace altgrad;
using namespace altgrad::fp8;
using reference::largest;
using Case = reference::LinearCase;

namespace {

// Each value rounded under the scale amax / max.
std::vector<double> rounded(std::vector<double> values, const Format& format) {
  const reference::Rounder round(format);
  const double scale = largest(values) / round.max();
  for (double& v : values) v = round(v / scale) * scale;
  return values;
}

// (m, k) (k, n), with strides
std::vector<double> product(const std::vector<double>& a, const std::vector<double>& b, int64_t m, int64_t n,
                            int64_t k, bool trans_a, bool trans_b) {
  std::vector<double> c(size_t(m * n));
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t l = 0; l < k; ++l) {
        c[size_t(i * n + j)] +=
            a[size_t(trans_a ? l * m + i : i * k + l)] * b[size_t(trans_b ? j * k + l : l * n + j)];
      }
    }
  }
  return c;
}

void require_close(const Tensor& actual, const std::vector<double>& expected, double tolerance) {
  const std::vector<double> got = values(actual);
  REQUIRE(got.size() == expected.size());
  const double top = std::max(1e-30, largest(expected));
  for (size_t i = 0; i < got.size(); ++i) {
    if (!(std::abs(got[i] - expected[i]) <= tolerance * top)) {
      FAIL("element " << i << ": " << got[i] << ", expected " << expected[i]);
    }
  }
}

}  // namespace

TEST_CASE("quantizers and operands that are none are refused", "[fp8]") {
  const Tensor x = Tensor::ones({2, 2}), one = Tensor::ones({});
  const auto apply = [&](const Format& format, Scaling scaling, CastOptions cast) {
    Quantizer{format, AmaxHistory(2), scaling, cast}.apply(x, true);
  };
  CHECK(throws([&] { apply(float8_e8m0fnu, Scaling::window, {}); }, {"quantize", "has no sign"}));
  CHECK(throws([&] { apply({.exponent_bits = 40, .mantissa_bits = 3}, Scaling::window, {}); }, {"40"}));
  CHECK(throws([&] { apply(E4M3, Scaling(7), {}); }, {"quantize: scaling is 7"}));
  CHECK(throws([&] { apply(E4M3, Scaling::window, {.rounding = Rounding(9)}); }, {"quantize", "9"}));
  CHECK(throws([&] { Quantizer{.format = E4M3}.apply(x.to(DType::i64), true); }, {"needs a floating dtype"}));

  const Tensor bf16 = x.to(DType::bf16);
  const QTensor wrong[] = {{bf16, {}, E4M3},
                           {bf16, one.to(DType::f64), E4M3},
                           {bf16, Tensor::ones({2}), E4M3},
                           {bf16, Tensor::ones({0}), E4M3},
                           {x.to(DType::u8), one, E4M3},
                           {}};
  for (const QTensor& q : wrong) {
    CHECK(throws([&] { q.dequantize(); }, {"dequantize: "}));
    CHECK(throws([&] { matmul(q, QTensor{x, {}, {}}); }, {"matmul: "}));
    CHECK(throws([&] { matmul(QTensor{x, {}, {}}, q); }, {"matmul: "}));
  }
  CHECK(values(matmul(QTensor{bf16, one, E4M3}, QTensor{x, {}, {}})) == std::vector<double>(4, 2));
}

TEST_CASE("quantized_linear forward produces quantized output", "[fp8]") {
  manual_seed(1);
  const auto linear = std::make_shared<nn::Linear>(on_device(nn::Linear(64, 48)));
  auto layer = QuantizedLinear::from_linear(linear, E4M3);
  const Tensor x = here::randn({4, 9, 64});
  const Tensor y = layer(x), plain = (*linear)(x);
  REQUIRE(y.shape() == Shape{4, 9, 48});
  // A weight is off by at most 2^-4 of itself, or half the smallest step (2^-9) under the scale.
  const std::vector<double> w = values(linear->weight()), xs = values(x), a = values(y), b = values(plain);
  const double half_step = largest(w) / 448 * 0x1p-10;
  int64_t different = 0;
  for (int64_t r = 0; r < 36; ++r) {
    for (int64_t o = 0; o < 48; ++o) {
      double bound = 1e-6;
      for (int64_t i = 0; i < 64; ++i) {
        bound += std::abs(xs[r * 64 + i]) * std::max(std::abs(w[o * 64 + i]) * 0x1p-4, half_step);
      }
      REQUIRE(std::abs(a[r * 48 + o] - b[r * 48 + o]) <= bound);
      different += a[r * 48 + o] != b[r * 48 + o];
    }
  }
  REQUIRE(different > 36 * 48 / 2);
}

TEST_CASE("quantized_linear gradient flow to input, weight, bias", "[fp8]") {
  const Case c;
  auto layer = QuantizedLinear::from_linear(c.linear, E4M3);
  c.run(layer);
  const std::vector<double> w = rounded(values(layer.weight()), E4M3), x = values(c.x), dy = values(c.dy);
  require_close(c.x.grad(), product(dy, w, c.rows, c.in, c.out, false, false), 1e-6);
  require_close(layer.weight().grad(), product(dy, x, c.out, c.in, c.rows, true, false), 1e-12);
  require_close(layer.bias()->grad(),
                product(std::vector<double>(c.rows, 1), dy, 1, c.out, c.rows, false, false), 1e-12);
}

TEST_CASE("bias is absent where the Linear has none", "[fp8]") {
  const Case c(DType::f64, false);
  auto layer = QuantizedLinear::from_linear(c.linear, E4M3);
  REQUIRE_FALSE(layer.bias().has_value());
  REQUIRE(layer.named_parameters().size() == 1);
  const Tensor y = c.run(layer);
  require_close(
      y, product(values(c.x), rounded(values(layer.weight()), E4M3), c.rows, c.out, c.in, false, true), 1e-6);
}

TEST_CASE("the layer's format is the one asked for", "[fp8]") {
  for (const Format& f : {E4M3, E5M2, E3M4, E2M5}) {
    const Case c(DType::f64, false);
    auto layer = QuantizedLinear::from_linear(c.linear, f);
    REQUIRE(layer.format().name == f.name);
    REQUIRE_FALSE(layer.input_format().has_value());
    require_close(layer(c.x),
                  product(values(c.x), rounded(values(layer.weight()), f), c.rows, c.out, c.in, false, true),
                  1e-6);
  }
}

TEMPLATE_TEST_CASE("with all three formats dX = Q(dY) Q(W), dW = Q(dY)^T Q(X), db from dY", "[fp8]", float,
                   double) {
  const Case c(dtype_of<TestType>);
  auto layer = QuantizedLinear::from_linear(c.linear, E4M3, {.input_format = E4M3, .grad_format = E5M2});
  const Tensor y = c.run(layer);
  const std::vector<double> w = rounded(values(layer.weight()), E4M3), x = rounded(values(c.x), E4M3),
                            dy = rounded(values(c.dy), E5M2), bias = values(*layer.bias());
  std::vector<double> expected = product(x, w, c.rows, c.out, c.in, false, true);
  for (size_t i = 0; i < expected.size(); ++i) expected[i] += bias[i % bias.size()];
  require_close(y, expected, 2e-6);
  require_close(c.x.grad(), product(dy, w, c.rows, c.in, c.out, false, false), 2e-6);
  require_close(layer.weight().grad(), product(dy, x, c.out, c.in, c.rows, true, false), 2e-6);
  require_close(layer.bias()->grad(),
                product(std::vector<double>(c.rows, 1), values(c.dy), 1, c.out, c.rows, false, false), 2e-6);
  REQUIRE(layer.grad_history().size() == 1);
  REQUIRE(layer.grad_history().amax() == Approx(largest(values(c.dy))).epsilon(1e-6));
}

TEST_CASE(
    "a bias has the sum of dy's rows as its gradient, and nothing else depends on whether it is trained",
    "[fp8]") {
  struct Gradients {
    Tensor x, w, b;
    std::vector<double> sums;  // of dy's rows, which are small integers: any order gives them
  };
  const auto train = [](DType dtype, int64_t rows, int64_t out, Rounding rounding, bool trains_bias) {
    manual_seed(9);
    const DType computed = dtype == DType::f64 ? DType::f64 : DType::f32;
    const auto quantizer = [&](const Format& format) {
      return Quantizer{format, AmaxHistory(3, device()), Scaling::window, {.rounding = rounding}};
    };
    LinearQuantizers quantizers{quantizer(E4M3), quantizer(E4M3), quantizer(E5M2)};
    const Tensor x = here::randn({rows, 24}).to(dtype).requires_grad(true),
                 w = here::randn({out, 24}).to(computed).requires_grad(true),
                 b = here::zeros({out}).to(computed).requires_grad(trains_bias);
    Gradients g;
    g.sums.resize(size_t(out));
    for (const double unit :
         {1.0, 4.0, 0.5}) {  // the predicted scale is none, too small, and the one to be had
      std::vector<double> dy(size_t(rows * out));
      for (size_t i = 0; i < dy.size(); ++i) {
        dy[i] = unit * double(int64_t(i * 2654435761u >> 7) % 15 - 7);
        g.sums[i % size_t(out)] += dy[i];
      }
      Tape tape;
      tape.backward(quantized_linear(x, w, b, quantizers, true), here::from(dy, {rows, out}).to(dtype));
    }
    g.x = x.grad(), g.w = w.grad();
    if (trains_bias) g.b = b.grad();
    return g;
  };
  std::vector<DType> dtypes{DType::f32, DType::f64};
  if (!device().is_cpu()) dtypes.push_back(DType::bf16);
  for (const DType dtype : dtypes) {
    for (const auto& [rows, out] : {std::pair{1, 1}, {64, 64}, {200, 136}, {65, 67}, {3, 130}}) {
      for (const Rounding rounding : {Rounding::nearest_even, Rounding::stochastic}) {
        CAPTURE(dtype, rows, out, rounding == Rounding::stochastic);
        const Gradients with = train(dtype, rows, out, rounding, true),
                        without = train(dtype, rows, out, rounding, false);
        REQUIRE(values(with.b) == with.sums);
        REQUIRE(same_bits(with.x, without.x));
        REQUIRE(same_bits(with.w, without.w));
      }
    }
  }
}

TEST_CASE("window scaling never clips a gradient, whatever the amax", "[fp8]") {
  manual_seed(8);
  for (const Format& f : {E4M3, E5M2, E3M4, float4_e2m1fn}) {
    for (int i = 0; i < 200; ++i) {
      const auto linear = std::make_shared<nn::Linear>(on_device(nn::Linear(1, 1, {.bias = false})));
      auto layer = QuantizedLinear::from_linear(linear, f, {.input_format = f, .ste = Ste::clipped});
      const Tensor x = here::randn({1, 1}).requires_grad(true);
      Tape tape;
      tape.backward(layer(x));
      REQUIRE(x.grad().item<float>() != 0);
      REQUIRE(linear->weight().grad().item<float>() != 0);
    }
  }
}

TEST_CASE("stochastic rounding never leaves the range under window scaling", "[fp8]") {
  manual_seed(8);
  auto layer = QuantizedLinear::from_linear(
      on_device(nn::Linear(64, 64)), E4M3,
      {.input_format = E4M3, .rounding = Rounding::stochastic, .overflow = Overflow::to_special});
  for (int i = 0; i < 50; ++i) {
    const Tensor y = layer(here::randn({16, 64}));
    for (float v : values<float>(y)) REQUIRE(std::isfinite(v));
  }
}

TEST_CASE("a zero weight and a zero input are quantized to zero", "[fp8]") {
  const auto linear = std::make_shared<nn::Linear>(here::zeros({3, 4}).requires_grad(true));
  auto layer = QuantizedLinear::from_linear(linear, E4M3, {.input_format = E4M3, .grad_format = E5M2});
  const Tensor x = here::zeros({2, 4}).requires_grad(true);
  Tape tape;
  const Tensor y = layer(x);
  tape.backward(y, here::zeros({2, 3}));
  for (const Tensor& t : {y, x.grad(), linear->weight().grad()}) {
    for (float v : values<float>(t)) REQUIRE(v == 0);
  }
}

TEST_CASE("every signed format runs through QuantizedLinear, forward and backward", "[fp8]") {
  for (const Format& f : formats()) {
    const Case c(DType::f32);
    INFO(f.name);
    if (!f.has_sign) {
      REQUIRE(throws([&] { QuantizedLinear::from_linear(c.linear, f); }, {std::string(f.name), "sign"}));
      REQUIRE(throws([&] { QuantizedLinear::from_linear(c.linear, E4M3, {.input_format = f}); },
                     {std::string(f.name), "input"}));
      REQUIRE(throws([&] { QuantizedLinear::from_linear(c.linear, E4M3, {.grad_format = f}); },
                     {std::string(f.name), "grad"}));
      continue;
    }
    auto layer = QuantizedLinear::from_linear(c.linear, f, {.input_format = f, .grad_format = f});
    const Tensor y = c.run(layer);
    for (const Tensor& t : {y, c.x.grad(), layer.weight().grad(), layer.bias()->grad()}) {
      double total = 0;
      for (float v : values<float>(t)) total += std::abs(v);
      REQUIRE(std::isfinite(total));
      REQUIRE(total > 0);
    }
    if (f.bits() <= 8) {
      std::vector<double> expected = product(rounded(values(c.x), f), rounded(values(layer.weight()), f),
                                             c.rows, c.out, c.in, false, true);
      for (size_t i = 0; i < expected.size(); ++i) expected[i] += values(*layer.bias())[i % c.out];
      require_close(y, expected, 2e-6);
    }
  }
}

TEST_CASE("a frozen weight gets no gradient and the input still does", "[fp8]") {
  const Case c;
  c.linear->weight().requires_grad(false);
  auto layer = QuantizedLinear::from_linear(c.linear, E4M3);
  c.run(layer);
  REQUIRE_FALSE(c.linear->weight().has_grad());
  REQUIRE(c.x.has_grad());
  REQUIRE(c.linear->bias()->has_grad());
}

TEST_CASE("a layer used twice on one tape adds both gradients", "[fp8]") {
  const Case c;
  auto layer = QuantizedLinear::from_linear(c.linear, E4M3);
  c.run(layer);
  const Tensor once = layer.weight().grad();
  layer.zero_grad();
  Tape tape;
  tape.backward(layer(c.x) + layer(c.x), c.dy);
  std::vector<double> twice = values(once);
  for (double& v : twice) v *= 2;
  require_close(layer.weight().grad(), twice, 1e-12);
}

TEST_CASE("quantized_linear is deterministic, and the same but for the order of sums on 1, 2 and 3 threads",
          "[fp8]") {
  manual_seed(4);
  const auto linear = std::make_shared<nn::Linear>(on_device(nn::Linear(130, 257)));
  const Tensor x = here::randn({150, 130}).requires_grad(true), dy = here::randn({150, 257});
  const auto run = [&](int threads) -> std::vector<Tensor> {
    const ThreadCount count(threads);
    manual_seed(6);
    for (const Tensor& t : {x, linear->weight(), *linear->bias()}) t.set_grad({});
    auto layer = QuantizedLinear::from_linear(
        linear, E4M3, {.input_format = E4M3, .grad_format = E5M2, .rounding = Rounding::stochastic});
    Tape tape;
    const Tensor y = layer(x);
    tape.backward(y, dy);
    return {y, x.grad(), linear->weight().grad(), linear->bias()->grad()};
  };
  const std::vector<Tensor> one = run(1);
  for (int threads : {1, 2, 3}) {
    const std::vector<Tensor> first = run(threads), again = run(threads);
    for (size_t i = 0; i < one.size(); ++i) {
      INFO(threads << " threads, result " << i);
      REQUIRE(same_bits(first[i], again[i]));
      require_close(first[i], values(one[i]), 2e-6);
    }
  }
}

TEST_CASE("products of E0M7, E1M6 and E2M5 are exact for up to 264 terms, so the same on any device",
          "[fp8]") {
  for (const Format& format : {E0M7, E1M6, E2M5}) {
    for (const int64_t k : {1, 33, 264}) {
      for (const bool trans_a : {false, true}) {
        for (const bool trans_b : {false, true}) {
          CAPTURE(format.name, k, trans_a, trans_b);
          const auto codes = [&](bool transposed, int64_t rows, int64_t columns, uint64_t seed) {
            const Shape shape = transposed ? Shape{columns, rows} : Shape{rows, columns};
            Quantizer quantizer{.format = format, .history = AmaxHistory(1, device())};
            const QTensor q =
                quantizer.apply(reference::randn(shape, seed, DType::f32) * 0.3, true, {format});
            return transposed ? q.t() : q;
          };
          const QTensor a = codes(trans_a, 35, k, 1), b = codes(trans_b, k, 18, 2);
          if (a.values.dtype() != DType::bf16) SKIP_TEST("this CPU has no instructions for bf16");
          const std::vector<double> sums =
              product(values(a.values), values(b.values), 35, 18, k, trans_a, trans_b);
          const auto scale = float(a.scale.item<double>() * b.scale.item<double>());
          const std::vector<float> got = values<float>(matmul(a, b));
          int wrong = 0;
          for (size_t i = 0; i < sums.size(); ++i)
            wrong += double(float(sums[i])) != sums[i] || got[i] != scale * float(sums[i]);
          CHECK(wrong == 0);
        }
      }
    }
  }
}
