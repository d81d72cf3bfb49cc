// Products on codes in bf16: the kernels against plain loops in f64, the layer against products of rounded values,
// and the short ways of dividing and rounding against the long ones.
#include <altgrad/altgrad.h>
#include <altgrad/core/cpu/isa.h>
#include <altgrad/core/cpu/matmul.h>
#include <altgrad/core/internal/kernels/gemm.h>
#include <altgrad/fp8/internal/kernels.h>

#include "reference.h"
#include "thread_count.h"

#include <cmath>
#include <cstring>
#include <memory>
#include <random>

using namespace altgrad;
using reference::distance;
using reference::randn;

namespace {

constexpr auto no_bf16 = "this CPU has no instructions for bf16";

// Normal numbers rounded to E4M3.
std::vector<bfloat16> random_codes(int64_t rows, int64_t columns, unsigned seed) {
  const Tensor x = host(randn({rows, columns}, seed) * 100.0);
  std::vector<bfloat16> all;
  for (const double value : x.data<double>()) all.emplace_back(fp8::E4M3.decode(fp8::E4M3.encode(value)));
  return all;
}

using Product =
    std::function<void(float*, const bfloat16*, const bfloat16*, const float* bias, const kernels::Gemm&)>;

#if defined(__x86_64__)
// A matrix filled up with zeros to multiples of 32, as the products themselves read it.
struct Padded {
  std::vector<uint16_t> values;
  cpu::MatrixView<uint16_t> operand;
  Padded(const bfloat16* x, bool trans, int64_t rows, int64_t columns) {
    if (trans) std::swap(rows, columns);
    constexpr int64_t unit = cpu::bf16_padding;
    const int64_t stride = (columns + unit - 1) / unit * unit;
    values.resize(size_t((rows + unit - 1) / unit * unit * stride));
    for (int64_t i = 0; i < rows * columns; ++i)
      values[size_t(i / columns * stride + i % columns)] = x[i].bits;
    operand = trans ? cpu::MatrixView<uint16_t>{values.data(), 1, stride}
                    : cpu::MatrixView<uint16_t>{values.data(), stride, 1};
  }
};
#endif

// That in use, on AMX the one for CPUs without it as well.
std::vector<std::pair<const char*, Product>> products() {
  std::vector<std::pair<const char*, Product>> all = {
      {"in use", [](auto... args) { kernels::gemm(Cpu{}, args...); }}};
#if defined(__x86_64__)
  if (cpu::matmul_isa() >= cpu::Isa::avx512_bf16) {
    all.emplace_back("avx512_bf16", [](float* c, const bfloat16* a, const bfloat16* b, const float* bias,
                                       const kernels::Gemm& g) {
      const std::unique_ptr<void, decltype(&std::free)> memory(
          std::aligned_alloc(64, cpu::bf16_scratch * sizeof(uint32_t)), std::free);
      const Padded A(a, g.trans_a, g.m, g.k), B(b, g.trans_b, g.k, g.n);
      cpu::matmul_avx512_bf16(c, g.n, A.operand, B.operand, g.m, g.n, g.k, float(g.alpha), float(g.beta),
                              bias, static_cast<uint32_t*>(memory.get()));
    });
  }
#endif
  return all;
}

// Two matrices, a bias and the plain loops' product, in f64.
struct Operands {
  int64_t m, n, k;
  bool trans_a, trans_b;
  std::vector<bfloat16> a, b;
  Tensor bias;
  std::vector<double> sums;

  Operands(int64_t rows, int64_t columns, int64_t terms, bool a_transposed, bool b_transposed)
      : m(rows),
        n(columns),
        k(terms),
        trans_a(a_transposed),
        trans_b(b_transposed),
        a(trans_a ? random_codes(k, m, 1) : random_codes(m, k, 1)),
        b(trans_b ? random_codes(n, k, 2) : random_codes(k, n, 2)),
        bias(host(100 * randn({n}, 3).to(DType::f32))) {
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t p = 0; p < k; ++p) {
          sum += double(a[size_t(trans_a ? p * m + i : i * k + p)]) *
                 double(b[size_t(trans_b ? j * k + p : p * n + j)]);
        }
        sums.push_back(sum);
      }
    }
  }
};

struct Variant {
  double alpha, beta;
  bool with_bias;
};

void check(const Product& product, const Operands& operands, const Variant& variant) {
  const auto& [m, n, k, trans_a, trans_b, a, b, bias, sums] = operands;
  const auto& [alpha, beta, with_bias] = variant;
  CAPTURE(m, n, k, trans_a, trans_b, alpha, beta, with_bias);
  const float before = beta == 0 ? NAN : 100.f;  // NaN must not be read
  std::vector<float> c(m * n + 1, before);
  product(c.data(), a.data(), b.data(), with_bias ? bias.ptr<float>() : nullptr,
          {m, n, k, trans_a, trans_b, alpha, beta});
  double worst = 0, largest = 0;
  for (int64_t i = 0; i < m * n; ++i) {
    const double expected = alpha * sums[size_t(i)] + (beta == 0 ? 0 : beta * before) +
                            (with_bias ? bias.ptr<float>()[i % n] : 0);
    const double off = std::abs(c[size_t(i)] - expected);
    worst = off <= worst ? worst : off;
    largest = std::max(largest, std::abs(expected));
  }
  REQUIRE(worst <= 3e-7 * largest);
  REQUIRE((std::isnan(before) ? std::isnan(c[m * n]) : c[m * n] == before));
}

}  // namespace

TEST_CASE("products of bf16 agree with plain loops in f64", "[codes]") {
  if (!kernels::has_bf16(Cpu{})) SKIP_TEST(no_bf16);
  const auto check_all = [](const Operands& operands, const std::vector<Variant>& variants) {
    for (const auto& [name, product] : products()) {
      INFO(name);
      for (const Variant& variant : variants) check(product, operands, variant);
    }
  };
  for (const bool trans_a : {false, true}) {
    for (const bool trans_b : {false, true}) {
      for (const int64_t m : {1, 13, 15, 32, 33, 65}) {
        for (const int64_t n : {1, 16, 31, 33, 65}) {
          for (const int64_t k : {1, 2, 31, 32, 65}) check_all({m, n, k, trans_a, trans_b}, {{1, 0, false}});
        }
      }
      for (const auto& [m, n, k] :
           std::vector<std::array<int64_t, 3>>{{300, 40, 1100}, {31, 530, 65}, {460, 33, 70}, {5, 7, 2050}}) {
        check_all({m, n, k, trans_a, trans_b},
                  {{0.37, 0, false}, {1, 1, false}, {2, -0.5, false}, {1, 0, true}, {2, -0.5, true}});
      }
    }
  }
}

TEST_CASE("products of bf16 have the same bits on any number of threads", "[codes]") {
  if (!kernels::has_bf16(Cpu{})) SKIP_TEST(no_bf16);
  for (const auto& [m, n, k] :
       std::vector<std::array<int64_t, 3>>{{130, 100, 300}, {768, 65, 128}, {65, 700, 200}}) {
    const auto a = random_codes(m, k, 1), b = random_codes(k, n, 2);
    const Tensor bias = host(randn({n}, 3).to(DType::f32));
    std::vector<float> one;
    for (const int threads : {1, 2, 3}) {
      const ThreadCount count(threads);
      std::vector<float> c(m * n);
      kernels::gemm(Cpu{}, c.data(), a.data(), b.data(), bias.ptr<float>(), {.m = m, .n = n, .k = k});
      if (threads == 1) one = c;
      CHECK(std::memcmp(c.data(), one.data(), c.size() * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("a product of bf16 adds its bias once, and without terms is beta C and bias", "[codes]") {
  if (!kernels::has_bf16(Cpu{})) SKIP_TEST(no_bf16);
  const int64_t m = 5, n = 40;
  const Tensor bias = host(randn({n}, 3).to(DType::f32));
  for (const int64_t k : {0, 1, 1024, 2050}) {
    const auto a = random_codes(m, k, 1), b = random_codes(k, n, 2);
    std::vector<float> plain(m * n, 2), with(m * n, 2), unread(m * n, NAN);
    kernels::gemm(Cpu{}, plain.data(), a.data(), b.data(), nullptr, {.m = m, .n = n, .k = k, .beta = 0.5});
    kernels::gemm(Cpu{}, with.data(), a.data(), b.data(), bias.ptr<float>(),
                  {.m = m, .n = n, .k = k, .beta = 0.5});
    kernels::gemm(Cpu{}, unread.data(), a.data(), b.data(), nullptr, {.m = m, .n = n, .k = k});
    double worst = 0, largest = 1;
    for (int64_t i = 0; i < m * n; ++i) {
      const double expected = double(plain[size_t(i)]) + bias.ptr<float>()[i % n];
      worst = std::max(worst, std::abs(with[size_t(i)] - expected));
      largest = std::max(largest, std::abs(expected));
      if (k == 0) CHECK((plain[size_t(i)] == 1 && unread[size_t(i)] == 0));
    }
    CAPTURE(k);
    CHECK(worst <= 3e-7 * largest);
  }
}

TEST_CASE("a product of bf16 is scaled by numbers in memory", "[codes]") {
  if (!kernels::has_bf16(Cpu{})) SKIP_TEST(no_bf16);
  const auto a = random_codes(5, 33, 1), b = random_codes(33, 7, 2);
  const float scale_a = 0.3f, scale_b = 1.7f;
  std::vector<float> by_alpha(35), by_scales(35);
  kernels::gemm(Cpu{}, by_alpha.data(), a.data(), b.data(), nullptr,
                {.m = 5, .n = 7, .k = 33, .alpha = 2 * double(scale_a) * double(scale_b)});
  kernels::gemm(Cpu{}, by_scales.data(), a.data(), b.data(), nullptr,
                {.m = 5, .n = 7, .k = 33, .alpha = 2, .scale_a = &scale_a, .scale_b = &scale_b});
  CHECK(by_scales == by_alpha);
}

TEST_CASE("a layer on codes gives zeros for the weight's gradient of an empty batch", "[codes]") {
  using namespace fp8;
  auto layer = QuantizedLinear::from_linear(on_device(nn::Linear(64, 32)), E4M3,
                                            {.input_format = E4M3, .grad_format = E5M2});
  here::full({32, 64}, 7);  // what memory is made of
  Tape tape;
  const Tensor y = layer(here::zeros({0, 64}));
  tape.backward(y, here::zeros({0, 32}));
  CHECK(max(abs(layer.weight().grad())).item<float>() == 0);
}

TEST_CASE("a layer that runs on codes gives the products of rounded values", "[codes]") {
  using namespace fp8;
  const auto rounded = [](const Tensor& x, const Format& f) {
    const Tensor wide = x.to(DType::f64);
    return quantize(wide, f, compute_scale(amax(x), f));
  };
  for (const auto& [weight, input, grad] :
       std::vector<std::array<Format, 3>>{{E4M3, E4M3, E5M2},
                                          {E5M2, E3M4, E4M3},
                                          {E2M5, E0M7, E6M1},
                                          {E7M0, E4M3, E4M3},
                                          {fp8::bf16, fp8::bf16, fp8::bf16},
                                          {fp16, E4M3, E4M3},
                                          {float8_e4m3fnuz, float8_e5m2fnuz, float4_e2m1fn}}) {
    for (const auto& [rows, in, out] :
         std::vector<std::array<int64_t, 3>>{{1, 1, 1}, {37, 65, 33}, {64, 96, 128}}) {
      CAPTURE(weight.name, input.name, grad.name, rows, in, out);
      const Tensor x = randn({rows, in}, 1).to(DType::f32), w = randn({out, in}, 2).to(DType::f32),
                   b = randn({out}, 3).to(DType::f32), dy = randn({rows, out}, 4).to(DType::f32);
      for (const Tensor& t : {x, w, b}) t.requires_grad(true);
      auto layer = QuantizedLinear::from_linear(nn::Linear(w, b), weight,
                                                {.input_format = input, .grad_format = grad});
      Tape tape;
      const Tensor y = layer(x);
      tape.backward(y, dy);
      const Tensor qx = rounded(x, input), qw = rounded(w, weight), qdy = rounded(dy, grad);
      const double limit = 1e-6;  // of the largest element
      const auto close = [&](const Tensor& got, const Tensor& expected) {
        return distance(got, expected) <= limit * max(abs(expected)).item<double>();
      };
      CHECK(close(y, matmul(qx, qw.transpose()) + b.to(DType::f64)));
      CHECK(close(x.grad(), matmul(qdy, qw)));
      CHECK(close(w.grad(), matmul(qdy.transpose(), qx)));
      CHECK(close(b.grad(), sum(dy.to(DType::f64), {0})));
    }
  }
}

TEST_CASE("products on codes are closer to the truth than f32 products of rescaled values", "[codes]") {
  if (!kernels::has_bf16(Cpu{})) SKIP_TEST(no_bf16);
  using namespace fp8;
  double log_ratio = 0;
  int products = 0;
  for (const Format& f : {E4M3, E5M2, E3M4}) {
    for (const auto& [rows, in, out] :
         std::vector<std::array<int64_t, 3>>{{33, 65, 40}, {128, 384, 96}, {64, 1000, 64}}) {
      const Tensor x = randn({rows, in}, 1).to(DType::f32), w = randn({out, in}, 2).to(DType::f32);
      const Tensor qx = quantize(x, f, compute_scale(amax(x), f)),
                   qw = quantize(w, f, compute_scale(amax(w), f));
      const auto in_f64 = [&](const Tensor& t) {  // q * scale without rounding
        return quantize(t.to(DType::f64), f, compute_scale(amax(t), f));
      };
      const Tensor truth = matmul(in_f64(x), in_f64(w).transpose());
      auto layer = QuantizedLinear::from_linear(nn::Linear(w), f, {.input_format = f});
      const auto error = [&](const Tensor& y) {
        const Tensor off = y.to(DType::f64) - truth;
        return std::sqrt(sum(off * off).item<double>());
      };
      const double on_codes = error(layer(x)), in_f32 = error(matmul(qx, qw.transpose()));
      CAPTURE(f.name, rows, in, out, on_codes, in_f32);
      log_ratio += std::log(on_codes / in_f32);
      ++products;
    }
  }
  const double ratio = std::exp(log_ratio / products);  // 0.15 on AVX512-BF16
  CAPTURE(ratio);
  CHECK(ratio < 0.5);
}

TEST_CASE("the short way of rounding gives the bits of the long one", "[codes][format]") {
  int with = 0;
  for (const fp8::Format& f : fp8::formats()) {
    for (const fp8::Overflow overflow : {fp8::Overflow::saturate_finite, fp8::Overflow::saturate_all}) {
      const fp8::Rounder<float> r(f, fp8::Rounding::nearest_even, overflow);
      const fp8::Rounder<double> wide(f, fp8::Rounding::nearest_even, overflow);
      if (!r.has_nearest()) continue;
      ++with;
      std::mt19937_64 random(7);
      int64_t wrong = 0;
      for (uint32_t i = 0; i < 400'000; ++i) {
        // All upper halves, with lower halves around the ties; then anything.
        const uint32_t low[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
        const uint32_t bits = i < 6 * 65536 ? (i / 6) << 16 | low[i % 6] : uint32_t(random());
        const float x = std::bit_cast<float>(bits);
        if (!std::isfinite(x)) continue;
        const float a = r(x), b = fp8::NearestRounder(r)(x, x);
        if (std::abs(x) <= r.max())
          wrong += std::bit_cast<uint32_t>(fp8::NearestRounder(r).operator()<false>(x, x)) !=
                   std::bit_cast<uint32_t>(b);
        const double d = wide(double(x)), e = fp8::NearestRounder(wide)(double(x), double(x));
        wrong +=
            std::bit_cast<uint32_t>(a) != std::bit_cast<uint32_t>(b) && !(std::isnan(a) && std::isnan(b));
        wrong +=
            std::bit_cast<uint64_t>(d) != std::bit_cast<uint64_t>(e) && !(std::isnan(d) && std::isnan(e));
      }
      CAPTURE(f.name, int(overflow));
      CHECK(wrong == 0);
    }
  }
  CHECK(with == 62);  // 25 formats, two ways to saturate
}

TEST_CASE("quantize gives what the rounder gives, whatever else is in the block", "[codes]") {
  const int64_t n = 5 * 2048 + 7;
  const float odd_ones[] = {0.f,     -0.f,     1e30f,     -1e30f, 3e38f,  -3e38f, 1e-45f,
                            -1e-45f, INFINITY, -INFINITY, NAN,    447.9f, 448.1f};
  for (const fp8::Format& f : {fp8::E4M3, fp8::E5M2, fp8::float8_e4m3fnuz, fp8::E2M5}) {
    for (const fp8::Overflow overflow :
         {fp8::Overflow::to_special, fp8::Overflow::saturate_finite, fp8::Overflow::saturate_all}) {
      for (const float odd : odd_ones) {
        for (const float scale : {1.f, 0.37f, 1e-9f, 1e-20f}) {
          const Tensor x = host(randn({n}, 3).to(DType::f32)).clone();
          for (int64_t i = 0; i < n; ++i) x.ptr<float>()[i] *= scale;
          x.ptr<float>()[2 * 2048 + 5] = odd;
          const Tensor y = host(fp8::quantize(on_device(x), f, scale, {.overflow = overflow}));
          const fp8::Rounder<float> r(f, fp8::Rounding::nearest_even, overflow);
          int64_t wrong = 0;
          for (int64_t i = 0; i < n; ++i) {
            const float v = x.ptr<float>()[i], most = std::numeric_limits<float>::max();
            const float q = std::isfinite(v) ? std::clamp(v / scale, -most, most) : v;
            const float expected = r(q) * scale, got = y.ptr<float>()[i];
            wrong += std::bit_cast<uint32_t>(got) != std::bit_cast<uint32_t>(expected) &&
                     !(std::isnan(got) && std::isnan(expected));
          }
          CAPTURE(f.name, int(overflow), odd, scale);
          CHECK(wrong == 0);
        }
      }
    }
  }
}

TEST_CASE("large tensors round as small ones do", "[codes]") {
  const int64_t n = (int64_t(1) << 22) + 5;
  const ThreadCount one(1);  // all of it in one piece
  const Tensor x = host(randn({n}, 7, DType::f32));
  const fp8::Rounder<float> rounder(fp8::E5M2);
  const float amax = fp8::amax(x);
  for (const float scale : {fp8::compute_scale(amax, fp8::E5M2), amax / 1e5f}) {  // the second one saturates
    for (const int64_t offset : {0, 1}) {  // y aligned to 64 bytes, and to 4
      const Tensor memory = Tensor::zeros({n + 1});
      float* const y = memory.ptr<float>() + offset;
      float largest = 0;
      kernels::quantize(Cpu{}, y, x.ptr<float>(), &scale, {rounder, {}}, n, &largest);
      CHECK(largest == amax);
      int64_t wrong = 0;
      for (int64_t i = 0; i < n; ++i) wrong += y[i] != rounder(x.ptr<float>()[i] / scale) * scale;
      CHECK(wrong == 0);
      CHECK(memory.ptr<float>()[offset ? 0 : n] == 0);
    }
  }
}

TEST_CASE("rounding x / scale divides exactly", "[codes]") {
  // Close to ties of x / scale, where a quotient that is off by its last bit rounds to another code.
  std::mt19937_64 random(5);
  const int64_t n = 1 << 14;
  for (int trial = 0; trial < 200; ++trial) {
    const float scale = std::ldexp(1 + float(random() % (1 << 23)) * 0x1p-23f, int(random() % 60) - 30);
    const fp8::Format& f = trial % 2 ? fp8::E4M3 : fp8::E5M2;
    const Tensor x = Tensor::empty({n}), codes = Tensor::empty({n}, {.dtype = DType::bf16});
    for (int64_t i = 0; i < n; ++i) {
      const double middle = (f.decode(uint32_t(random() % 120)) + f.decode(uint32_t(random() % 120))) / 2;
      float near = float(middle * scale);
      for (int64_t step = int64_t(random() % 5) - 2; step != 0; step += step < 0 ? 1 : -1)
        near = std::nextafter(near, step < 0 ? -INFINITY : INFINITY);
      x.ptr<float>()[i] = i % 7 == 0 ? -near : near;
    }
    const fp8::Rounder<float> rounder(f);
    const Tensor y = host(fp8::quantize(on_device(x), f, scale));
    float largest = 0;
    const bool looks = trial % 4 < 2;
    kernels::quantize(Cpu{}, codes.ptr<bfloat16>(), x.ptr<float>(), &scale, {rounder, {}}, n,
                      looks ? &largest : nullptr);
    REQUIRE(largest == (looks ? fp8::amax(x) : 0));
    int64_t wrong = 0;
    for (int64_t i = 0; i < n; ++i) {
      const float expected = rounder(x.ptr<float>()[i] / scale);
      wrong += y.ptr<float>()[i] != expected * scale;
      wrong += float(codes.ptr<bfloat16>()[i]) != expected;
    }
    CAPTURE(scale, f.name);
    REQUIRE(wrong == 0);
  }
}
