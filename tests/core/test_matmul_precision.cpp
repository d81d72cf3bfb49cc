// Products of f32 matrices under set_matmul_precision, against f64: on a GPU they differ by what the formats round away,
// and by no more; on the CPU not at all.
#include <altgrad/autograd/ops.h>
#include <altgrad/core/matmul_precision.h>

#include <functional>

#include "errors.h"
#include "reference.h"

using namespace altgrad;
using reference::randn;

namespace {

class Precision {
 public:
  explicit Precision(MatmulPrecision precision) { set_matmul_precision(precision); }
  ~Precision() { set_matmul_precision(MatmulPrecision::f32); }
};

// A product of two tensors, its result and the gradients of both.
struct Product {
  const char* name;
  Shape a, b;
  std::function<Tensor(const Tensor&, const Tensor&)> compute;
};
const Product products[] = {
    {"linear", {3, 23, 65}, {40, 65}, [](const Tensor& a, const Tensor& b) { return linear(a, b); }},
    {"linear with a bias",
     {67, 40},
     {33, 40},
     [](const Tensor& a, const Tensor& b) { return linear(a, b, Tensor::full({33}, 0.5, a.options())); }},
    {"matmul of batches", {3, 17, 31}, {3, 31, 24}, matmul},
    {"matmul of one matrix with many", {17, 31}, {3, 31, 24}, matmul},
};

std::vector<Tensor> results(const Product& product, DType dtype, const std::function<Tensor(Tensor)>& round) {
  const auto input = [&](const Shape& shape, uint64_t seed) {
    return round(randn(shape, seed, DType::f32)).to(dtype).detach().requires_grad(true);
  };
  const Tensor a = input(product.a, 1), b = input(product.b, 2);
  Tape tape;
  const Tensor y = product.compute(a, b);
  tape.backward(y, round(randn(y.shape(), 3, DType::f32)).to(dtype));
  return {y.detach(), a.grad(), b.grad()};
}
Tensor same(Tensor x) { return x; }
Tensor rounded_to_bf16(Tensor x) { return x.to(DType::bf16).to(DType::f32); }

// The root of the mean square of x - y, in that of y.
double error(const Tensor& x, const Tensor& y) {
  const std::vector<double> u = values(x), v = values(y);
  double off = 0, size = 0;
  for (size_t i = 0; i < u.size(); ++i) off += (u[i] - v[i]) * (u[i] - v[i]), size += v[i] * v[i];
  return std::sqrt(off / size);
}

}  // namespace

TEST_CASE("f32 is what products are computed in, unless another precision is set", "[precision]") {
  CHECK(matmul_precision() == MatmulPrecision::f32);
  for (const Product& product : products) {
    CAPTURE(product.name);
    const std::vector<Tensor> strict = results(product, DType::f32, same),
                              exact = results(product, DType::f64, same);
    for (const MatmulPrecision other : {MatmulPrecision::tf32, MatmulPrecision::bf16}) {
      {
        const Precision precision(other);
        CHECK(matmul_precision() == other);
        const std::vector<Tensor> fast = results(product, DType::f32, same),
                                  wide = results(product, DType::f64, same);
        for (size_t i = 0; i < fast.size(); ++i) {
          // For small products a GPU may take its time, and compute them in f32 where it may use tf32.
          if (device().is_cpu() || other == MatmulPrecision::bf16)
            CHECK(same_bits(fast[i], strict[i]) == device().is_cpu());
          CHECK(same_bits(wide[i], exact[i]));
        }
      }
      const std::vector<Tensor> again = results(product, DType::f32, same);
      for (size_t i = 0; i < again.size(); ++i) CHECK(same_bits(again[i], strict[i]));
    }
    for (size_t i = 0; i < strict.size(); ++i) CHECK(error(strict[i], exact[i]) < 3e-7);
  }
}

TEST_CASE("on a GPU tf32 rounds factors to 11 bits, bf16 to 8, and nothing else is rounded", "[precision]") {
  if (device().is_cpu()) SKIP_TEST("the CPU has one precision");
  double most = 0;  // of tf32's errors
  for (const Product& product : products) {
    CAPTURE(product.name);
    const std::vector<Tensor> exact = results(product, DType::f64, same),
                              of_rounded = results(product, DType::f64, rounded_to_bf16);
    std::vector<Tensor> tf32, bf16;
    {
      const Precision precision(MatmulPrecision::tf32);
      tf32 = results(product, DType::f32, same);
    }
    {
      const Precision precision(MatmulPrecision::bf16);
      bf16 = results(product, DType::f32, same);
    }
    for (size_t i = 0; i < exact.size(); ++i) {
      CAPTURE(i);
      CHECK(error(bf16[i], of_rounded[i]) < 3e-7);
      CHECK(error(bf16[i], exact[i]) > 1e-3);
      CHECK(error(bf16[i], exact[i]) < 4e-3);
      CHECK(error(tf32[i], exact[i]) < 1e-3);
      most = std::max(most, error(tf32[i], exact[i]));
    }
  }
  CHECK(most > 1e-4);
}

TEST_CASE("a product in bf16 has no terms where there are none", "[precision]") {
  const Precision precision(MatmulPrecision::bf16);
  const Tensor bias = randn({3}, 1, DType::f32);
  CHECK(same_bits(linear(here::zeros({2, 0}), here::zeros({3, 0}), bias), expand(bias, {2, 3})));
  CHECK(linear(here::zeros({0, 2}), here::zeros({3, 2}), bias).shape() == Shape{0, 3});
  CHECK(matmul(here::zeros({2, 0, 3}), here::zeros({2, 3, 4})).shape() == Shape{2, 0, 4});
}

TEST_CASE("a precision that there is none of is refused", "[precision]") {
  CHECK(throws([] { set_matmul_precision(MatmulPrecision(3)); },
               {"set_matmul_precision: 3 is none of MatmulPrecision"}));
  CHECK(matmul_precision() == MatmulPrecision::f32);
}
