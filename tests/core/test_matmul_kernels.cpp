// The packed f32 products, each that this CPU can run and the one in use, against plain loops in f64: all
// transposes, sizes around every tile, panel and block, strided operands, results inside larger rows.
#include <altgrad/core/cpu/isa.h>
#include <altgrad/core/cpu/matmul.h>
#include <altgrad/core/device.h>
#include <altgrad/core/internal/kernels/gemm.h>

#include "reference.h"
#include "thread_count.h"

#include <array>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>

using namespace altgrad;
using cpu::MatrixView;
using reference::randn;

namespace {

using Product = std::function<void(float*, int64_t, MatrixView<float>, MatrixView<float>, int64_t, int64_t,
                                   int64_t, float, float, const float*)>;
using Memory = std::unique_ptr<float[], decltype(&std::free)>;

Memory aligned(int64_t floats) {
  return {static_cast<float*>(std::aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64)), std::free};
}

Product whole(const cpu::PackedKernels& kernels) {
  const std::shared_ptr<float[]> memory = aligned(cpu::packed_scratch);
  return [=, &kernels](auto... args) { cpu::packed_matmul(kernels, args..., memory.get()); };
}

// Through a PackedB; the bias is added afterwards.
void factored(float* c, int64_t ldc, MatrixView<float> a, MatrixView<float> b, int64_t m, int64_t n,
              int64_t k, float alpha, float beta, const float* bias) {
  const Memory memory = aligned(cpu::PackedB<float>::size(k, n));
  const cpu::PackedB<float> factor(memory.get(), b, k, n);
  factor.multiply(c, ldc, a, m, n, k, alpha, beta);
  for (int64_t i = 0; bias && i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) c[i * ldc + j] += bias[j];
  }
}

std::vector<std::pair<const char*, Product>> products() {
  std::vector<std::pair<const char*, Product>> all = {{"in use", cpu::matmul<float>}, {"factor", factored}};
#if defined(__x86_64__)
  if (cpu::matmul_isa() >= cpu::Isa::avx512) all.emplace_back("avx512", whole(cpu::packed_avx512));
  if (cpu::matmul_isa() >= cpu::Isa::avx2) all.emplace_back("avx2", whole(cpu::packed_avx2));
#endif
  return all;
}

struct Case {
  int64_t m, n, k;
  bool trans_a, trans_b;
  float alpha, beta;
  bool bias = false;
};

// Plain loops in f64: the sums, and the largest sum of squared terms. The same for all products of a shape.
struct PlainProduct {
  std::vector<double> sums;
  double squares = 0;
};
const PlainProduct& plain_product(const Case& s, MatrixView<float> a, MatrixView<float> b) {
  static std::map<std::array<int64_t, 5>, PlainProduct> known;
  const auto [found, is_new] = known.try_emplace({s.m, s.n, s.k, s.trans_a, s.trans_b});
  PlainProduct& product = found->second;
  for (int64_t i = 0; is_new && i < s.m; ++i) {
    for (int64_t j = 0; j < s.n; ++j) {
      double sum = 0, squares = 0;
      for (int64_t p = 0; p < s.k; ++p) {
        const double term =
            double(a.data[i * a.row + p * a.column]) * double(b.data[p * b.row + j * b.column]);
        sum += term;
        squares += term * term;
      }
      product.sums.push_back(sum);
      product.squares = std::max(product.squares, squares);
    }
  }
  return product;
}

// With `pad` columns after each matrix's own, filled with NaN: the largest |difference| from f64, in units of the largest
// sum that such terms would make with random signs (a sum may cancel out, its rounding does not); Inf where memory beside
// C was written.
double error(const Product& product, const Case& s, int64_t pad) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  const auto filled = [&](int64_t rows, int64_t columns, uint64_t seed) {
    std::vector<float> all(rows * (columns + pad), nan);
    const Tensor values = randn({rows, columns}, seed).to(DType::f32);
    for (int64_t r = 0; r < rows; ++r)
      std::copy_n(values.ptr<float>() + r * columns, columns, &all[r * (columns + pad)]);
    return all;
  };
  const auto a = s.trans_a ? filled(s.k, s.m, 1) : filled(s.m, s.k, 1);
  const auto b = s.trans_b ? filled(s.n, s.k, 2) : filled(s.k, s.n, 2);
  auto c = filled(s.m, s.n, 3);
  const MatrixView<float> A =
      s.trans_a ? MatrixView<float>{a.data(), 1, s.m + pad} : MatrixView<float>{a.data(), s.k + pad, 1};
  const MatrixView<float> B =
      s.trans_b ? MatrixView<float>{b.data(), 1, s.k + pad} : MatrixView<float>{b.data(), s.n + pad, 1};

  const Tensor bias = randn({s.n}, 4).to(DType::f32);
  const PlainProduct& plain = plain_product(s, A, B);
  std::vector<double> expected = plain.sums;
  double largest = std::abs(s.alpha) * std::sqrt(plain.squares);
  for (int64_t i = 0; i < s.m; ++i) {
    for (int64_t j = 0; j < s.n; ++j) {
      float& old = c[i * (s.n + pad) + j];
      double& y = expected[i * s.n + j];
      y = s.alpha * y + (s.beta == 0 ? 0 : s.beta * double(old)) + (s.bias ? bias.ptr<float>()[j] : 0);
      largest = std::max(largest, std::abs(y));
      if (s.beta == 0) old = nan;  // must not be read
    }
  }
  product(c.data(), s.n + pad, A, B, s.m, s.n, s.k, s.alpha, s.beta, s.bias ? bias.ptr<float>() : nullptr);
  double worst = 0;
  for (int64_t i = 0; i < s.m; ++i) {
    for (int64_t j = 0; j < s.n + pad; ++j) {
      const double got = c[i * (s.n + pad) + j];
      if (j >= s.n) {
        if (!std::isnan(got)) return INFINITY;
      } else {
        const double off = std::abs(got - expected[i * s.n + j]) / largest;
        worst = off <= worst ? worst : off;  // NaN counts
      }
    }
  }
  return worst;
}

}  // namespace

TEST_CASE("packed products agree with plain loops in f64", "[matmul]") {
  for (const auto& [name, product] : products()) {
    INFO(name);
    for (const bool trans_a : {false, true}) {
      for (const bool trans_b : {false, true}) {
        for (const int64_t m : {1, 5, 6, 7, 13, 14, 15, 29, 65}) {
          for (const int64_t n : {1, 7, 8, 9, 16, 17, 31, 32, 33, 65}) {
            for (const int64_t k : {1, 3, 4, 65}) {
              CAPTURE(m, n, k, trans_a, trans_b);
              for (const int64_t pad : {3, 0})
                REQUIRE(error(product, {m, n, k, trans_a, trans_b, 1, 0}, pad) < 1e-6);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("packed products of several blocks, scaled and added", "[matmul]") {
  for (const auto& [name, product] : products()) {
    INFO(name);
    for (const bool trans_a : {false, true}) {
      for (const bool trans_b : {false, true}) {
        for (const auto& [m, n, k] : std::vector<std::array<int64_t, 3>>{{600, 40, 400},
                                                                         {31, 800, 193},
                                                                         {3, 385, 769},
                                                                         {530, 33, 385},
                                                                         {1, 1, 1000},
                                                                         {30, 40, 1021}}) {
          CAPTURE(m, n, k, trans_a, trans_b);
          CHECK(error(product, {m, n, k, trans_a, trans_b, 1, 0}, 3) < 1e-6);
          CHECK(error(product, {m, n, k, trans_a, trans_b, -0.5f, 2}, 3) < 1e-6);
          CHECK(error(product, {m, n, k, trans_a, trans_b, 3, 1}, 3) < 1e-6);
          CHECK(error(product, {m, n, k, trans_a, trans_b, 2, 0, true}, 3) < 1e-6);
          CHECK(error(product, {m, n, k, trans_a, trans_b, 1, -1, true}, 3) < 1e-6);
        }
      }
    }
  }
}

TEST_CASE("a factor gives the product with its first rows and columns", "[matmul]") {
  const int64_t k = 400, m = 30;
  for (const int64_t n : {100, 112}) {  // packed, and read where it lies
    const Tensor a = randn({m, k}, 1).to(DType::f32), b = randn({k, n}, 2).to(DType::f32);
    const Memory memory = aligned(cpu::PackedB<float>::size(k, n));
    for (const bool trans : {false, true}) {
      const MatrixView<float> B{b.ptr<float>(), trans ? 1 : n, trans ? k : 1};
      const MatrixView<float> A{a.ptr<float>(), trans ? 1 : k, trans ? m : 1};
      const cpu::PackedB<float> factor(memory.get(), B, k, n);
      for (const auto& [rows, columns] : {std::pair{1, 1}, {32, 64}, {65, 33}, {399, 99}, {400, 100}}) {
        CAPTURE(trans, rows, columns);
        std::vector<float> got(m * columns, NAN), expected(m * columns);
        factor.multiply(got.data(), columns, A, m, columns, rows, 1, 0);
        cpu::matmul<float>(expected.data(), columns, A, B, m, columns, rows, 1, 0);
        double worst = 0;
        for (size_t i = 0; i < got.size(); ++i) {
          const double off = std::abs(double(got[i]) - expected[i]);
          worst = off <= worst ? worst : off;  // NaN counts
        }
        CHECK(worst < 1e-4);
      }
    }
  }
}

TEST_CASE("a product without terms is beta C", "[matmul]") {
  std::vector<float> c = {1, 2, 3, 4};
  const float none = 0;
  cpu::matmul<float>(c.data(), 2, {&none, 1, 1}, {&none, 2, 1}, 2, 2, 0, 1, 0.5f);
  CHECK(c == std::vector<float>{0.5f, 1, 1.5f, 2});
  c[0] = NAN;
  cpu::matmul<float>(c.data(), 2, {&none, 1, 1}, {&none, 2, 1}, 2, 2, 0, 1, 0);
  CHECK(c == std::vector<float>(4));
  c = {1, 2, 3, 4};
  const Memory memory = aligned(16);
  const cpu::PackedB<float> factor(memory.get(), {&none, 2, 1}, 0, 2);
  factor.multiply(c.data(), 2, {&none, 1, 1}, 2, 2, 0, 1, 0.5f);
  CHECK(c == std::vector<float>{0.5f, 1, 1.5f, 2});
}

TEST_CASE("products have the same bits on any number of threads", "[matmul]") {
  for (const auto& [m, n, k] :
       std::vector<std::array<int64_t, 3>>{{130, 100, 70}, {768, 65, 128}, {65, 128, 768}, {3, 2000, 300}}) {
    CAPTURE(m, n, k);
    const Tensor a = randn({m, k}, 1).to(DType::f32), b = randn({n, k}, 2).to(DType::f32);
    const Tensor bias = randn({n}, 3).to(DType::f32);
    Tensor one;
    for (const int threads : {1, 2, 3, 4}) {
      const ThreadCount count(threads);
      const Tensor y = linear(a, b, bias);
      if (threads == 1) one = y;
      CHECK(std::equal(y.data<float>().begin(), y.data<float>().end(), one.data<float>().begin()));
    }
  }
}

TEST_CASE("a product is scaled by numbers in memory as by alpha", "[matmul]") {
  const Tensor a = randn({5, 33}, 1, DType::f32), b = randn({33, 7}, 2, DType::f32);
  const float scale_a = 0.3f, scale_b = 1.7f;
  std::vector<float> by_alpha(35), by_scales(35);
  kernels::gemm(Cpu{}, by_alpha.data(), a.ptr<float>(), b.ptr<float>(),
                {.m = 5, .n = 7, .k = 33, .alpha = 2 * (double(scale_a) * double(scale_b))});
  kernels::gemm(Cpu{}, by_scales.data(), a.ptr<float>(), b.ptr<float>(),
                {.m = 5, .n = 7, .k = 33, .alpha = 2, .scale_a = &scale_a, .scale_b = &scale_b});
  CHECK(by_scales == by_alpha);
}
