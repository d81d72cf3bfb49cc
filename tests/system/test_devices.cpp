// What the device of this run computes, against the CPU: the same numbers within rounding, and the same bits where
// formats are rounded to. On the CPU it is compared with itself.
#include <altgrad/autograd/ops.h>
#include <altgrad/fp8/quantize.h>
#include <altgrad/fp8/quantized_linear.h>

#include <functional>
#include <limits>

#include "errors.h"
#include "reference.h"

using namespace altgrad;

namespace {

using Inputs = std::span<const Tensor>;
using Results = std::vector<Tensor>;

struct Row {
  const char* name;
  std::function<Tensor(Inputs)> fn;
  std::vector<Shape> shapes;  // of the inputs
};

constexpr int64_t past_a_grid = (int64_t(1) << 20) + 3, many_rows = 4099;

Tensor of(Inputs x, const Tensor& t) { return t.to(x[0].device()); }
const Tensor some_ids = Tensor::from({3, 0, 3, 6, 1}, {5});

const std::vector<Row> rows = {
    {"unary, none", [](Inputs x) { return exp(x[0]); }, {{0}}},
    {"unary, one", [](Inputs x) { return exp(x[0]); }, {{1}}},
    {"unary, more than a grid", [](Inputs x) { return tanh(x[0]); }, {{past_a_grid}}},
    {"binary, broadcast", [](Inputs x) { return x[0] * x[1]; }, {{5, 7, 33}, {7, 1}}},
    {"binary, eight axes",
     [](Inputs x) { return x[0] / (x[1] * x[1] + 1.0); },
     {{2, 2, 2, 2, 2, 2, 2, 2}, {2, 1, 2, 1, 2, 1, 2, 1}}},
    {"permute",
     [](Inputs x) {
       return x[0].permute({2, 0, 1});
     },
     {{7, 33, 5}}},
    {"expand",
     [](Inputs x) {
       return expand(x[0], {3, 7, 5});
     },
     {{7, 1}}},
    {"sum, none", [](Inputs x) { return sum(x[0], {0}); }, {{0, 3}}},
    {"sum of all", [](Inputs x) { return sum(x[0]); }, {{past_a_grid}}},
    {"sum of rows", [](Inputs x) { return sum(x[0], {1}); }, {{many_rows, 7}}},
    {"sum of columns", [](Inputs x) { return sum(x[0], {0}); }, {{257, 33}}},
    {"sum in the middle", [](Inputs x) { return sum(x[0], {1}); }, {{5, 257, 3}}},
    {"max", [](Inputs x) { return max(x[0], {1}); }, {{5, 33, 7}}},
    {"softmax, one", [](Inputs x) { return softmax(x[0]); }, {{1, 1}}},
    {"softmax, many rows", [](Inputs x) { return softmax(x[0]); }, {{many_rows, 3}}},
    {"softmax, long rows", [](Inputs x) { return softmax(x[0]); }, {{3, 1031}}},
    {"log_softmax", [](Inputs x) { return log_softmax(x[0]); }, {{5, 257}}},
    {"layer_norm", [](Inputs x) { return layer_norm(x[0], x[1], x[2]); }, {{65, 33}, {33}, {33}}},
    {"layer_norm, long rows", [](Inputs x) { return layer_norm(x[0], x[1]); }, {{3, 1031}, {1031}}},
    {"rms_norm", [](Inputs x) { return rms_norm(x[0], x[1]); }, {{65, 33}, {33}}},
    {"embedding", [](Inputs x) { return embedding(of(x, some_ids), x[0]); }, {{7, 33}}},
    {"index_select", [](Inputs x) { return index_select(x[0], 1, of(x, some_ids)); }, {{3, 7, 5}}},
    {"cross_entropy", [](Inputs x) { return cross_entropy(x[0], of(x, some_ids), 6); }, {{5, 7}}},
    {"dropout",
     [](Inputs x) {
       Generator generator(7);
       return dropout(x[0], 0.4, generator);
     },
     {{1003}}},
    {"attention, one token", [](Inputs x) { return causal_attention(x[0], 1); }, {{1, 1, 9}}},
    {"attention, past a tile", [](Inputs x) { return causal_attention(x[0], 3); }, {{1, 301, 27}}},
    {"attention, wide heads", [](Inputs x) { return causal_attention(x[0], 1); }, {{2, 5, 900}}},
    {"matmul", [](Inputs x) { return matmul(x[0], x[1]); }, {{33, 7}, {7, 65}}},
    {"matmul, batch", [](Inputs x) { return matmul(x[0], x[1]); }, {{3, 5, 7}, {3, 7, 9}}},
    {"matmul, nothing to sum", [](Inputs x) { return matmul(x[0], x[1]); }, {{3, 0}, {0, 5}}},
    {"linear", [](Inputs x) { return linear(x[0], x[1], x[2]); }, {{33, 65}, {7, 65}, {7}}},
    {"linear, nothing to sum", [](Inputs x) { return linear(x[0], x[1], x[2]); }, {{3, 0}, {5, 0}, {5}}},
};

// The value and the gradients, for inputs and a cotangent that are drawn on the CPU.
Results run(const Row& row, DType dtype, Device on) {
  Results x, results;
  for (const Shape& shape : row.shapes) {
    Generator generator(x.size() + 1);
    x.push_back(Tensor::randn(shape, {dtype}, generator).to(on).requires_grad(true));
  }
  Tape tape;
  const Tensor y = row.fn(x);
  Generator generator(77);
  tape.backward(y, Tensor::randn(y.shape(), {dtype}, generator).to(on));
  results.push_back(y);
  for (const Tensor& t : x) results.push_back(t.grad());
  return results;
}

bool equal_or_nan(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = values(a), y = values(b);
  for (size_t i = 0; i < x.size(); ++i) {
    if (!(x[i] == y[i] && std::signbit(x[i]) == std::signbit(y[i])) &&
        !(std::isnan(x[i]) && std::isnan(y[i]))) {
      UNSCOPED_INFO("element " << i << ": " << x[i] << " and " << y[i]);
      return false;
    }
  }
  return x.size() == y.size();
}

}  // namespace

TEST_CASE("each kernel gives what it gives on the CPU, at sizes of none, one, odd ones and more than a grid",
          "[devices]") {
  for (const Row& row : rows) {
    for (const DType dtype : {DType::f32, DType::f64}) {
      CAPTURE(row.name, dtype == DType::f32);
      const Results here = run(row, dtype, device()), there = run(row, dtype, Device::cpu());
      for (size_t i = 0; i < here.size(); ++i) {
        CAPTURE(i);
        CHECK(reference::distance(here[i], there[i]) < (dtype == DType::f32 ? 1e-5 : 1e-12));
      }
    }
  }
}

TEST_CASE("random numbers are those of the CPU", "[devices]") {
  for (const int64_t n : {0, 1, 5, 1003}) {
    for (const DType dtype : {DType::f32, DType::f64}) {
      Generator a(5), b(5);
      CHECK(same_bits(Tensor::rand({n}, {dtype, device()}, a), Tensor::rand({n}, {dtype}, b)));
      CHECK(reference::distance(Tensor::randn({n}, {dtype, device()}, a), Tensor::randn({n}, {dtype}, b)) <
            1e-6);
    }
    Generator a(6), b(6);
    CHECK(same_bits(Tensor::randint(1000003, {n}, device(), a),
                    Tensor::randint(1000003, {n}, Device::cpu(), b)));
  }
}

TEST_CASE("conversions between all dtypes are those of the CPU", "[devices]") {
  constexpr double inf = std::numeric_limits<double>::infinity(),
                   nan = std::numeric_limits<double>::quiet_NaN();
  const Tensor x = Tensor::from({0.0, -0.0, 1.5, -1.5, 254.9, 255.0, 256.5, -1.0, 1e18, 1e19, -1e19, 1e300,
                                 1e-45, 3.0039, inf, -inf, nan},
                                {17});
  for (const DType from : {DType::f32, DType::f64, DType::i64, DType::u8, DType::bf16}) {
    for (const DType to : {DType::f32, DType::f64, DType::i64, DType::u8, DType::bf16}) {
      CAPTURE(int(from), int(to));
      const Tensor t = x.to(from);
      CHECK(equal_or_nan(host(on_device(t).to(to)).to(DType::f64), t.to(to).to(DType::f64)));
    }
  }
}

TEMPLATE_TEST_CASE("every format, rounding and overflow policy gives the CPU's bits", "[devices][fp8]", float,
                   double) {
  using namespace fp8;
  using Limits = std::numeric_limits<TestType>;
  std::vector<TestType> points = {0,
                                  TestType(-0.0),
                                  Limits::infinity(),
                                  -Limits::infinity(),
                                  Limits::quiet_NaN(),
                                  Limits::max(),
                                  -Limits::max(),
                                  Limits::min(),
                                  Limits::denorm_min(),
                                  -Limits::denorm_min()};
  Generator generator(3);
  const RandomStream random = generator.next();
  for (uint64_t i = 0; points.size() < 1500;
       ++i) {  // all magnitudes: random bits of sign, exponent and mantissa
    const auto four = random.block(i);
    const uint64_t bits = uint64_t(four[0]) << 32 | four[1];
    points.push_back(std::ldexp(TestType(int64_t(bits) >> 11), int(four[2] % 140) - 120));
  }
  const Tensor there = Tensor::from(points, {int64_t(points.size())}), here = on_device(there);
  for (const Format& f : formats()) {
    for (const Rounding rounding : {Rounding::nearest_even, Rounding::toward_zero, Rounding::stochastic}) {
      for (const Overflow overflow :
           {Overflow::saturate_finite, Overflow::saturate_all, Overflow::to_special}) {
        for (const float scale : {1.0f, 0.37f}) {
          INFO(f.name << " " << int(rounding) << " " << int(overflow) << " " << scale);
          const CastOptions options{.rounding = rounding, .overflow = overflow};
          manual_seed(9);
          const Tensor y = quantize(here, f, scale, options);
          manual_seed(9);
          CHECK(equal_or_nan(y, quantize(there, f, scale, options)));
          if (f.bits() > 8 || !f.has_nan()) continue;
          manual_seed(9);
          const Tensor codes = encode(here, f, scale, options);
          manual_seed(9);
          CHECK(same_bits(codes, encode(there, f, scale, options)));
          CHECK(equal_or_nan(decode(codes, f, scale), decode(host(codes), f, scale)));
        }
      }
    }
  }
}

TEST_CASE("amaxes are the CPU's, of f64 rounded up, with NaN and over several blocks", "[devices]") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    for (const int64_t n : {0, 1, 33, 70001}) {
      Generator generator(4);
      const Tensor x = Tensor::randn({n}, {dtype}, generator);
      CHECK(fp8::amax(on_device(x)) == fp8::amax(x));
    }
    CHECK(std::isnan(fp8::amax(on_device(Tensor::from({1.0, double(NAN), 2.0}, {3}).to(dtype)))));
  }
}

TEST_CASE("an id out of range is named where the host waits, once, and the device goes on", "[devices]") {
  const Tensor w = here::ones({5, 3}), wrong = here::from({0, 7, -1}, {3}), right = here::from({4}, {1});
  const auto read = [&](const Tensor& ids) { embedding(ids, w).to(Device::cpu()), synchronize(device()); };
  for (int i = 0; i < 2; ++i) {
    CHECK(throws([&] { read(wrong); }, {"embedding: id 7 at (1) of ids (3) is outside [0, 5)"}));
    CHECK_NOTHROW(read(right));
  }
}

TEST_CASE("of many ids, which blocks share, the first that is out of range is named", "[devices]") {
  const Tensor w = here::ones({5, 1});
  std::vector<int64_t> ids(5000, 4);
  for (const size_t at : {4999, 3000, 2999, 1024, 1023, 0}) {
    ids[at] = -1 - int64_t(at);
    const std::string named = concat("id ", ids[at], " at (", at, ") of ids (5000)");
    CHECK(throws([&] { embedding(here::from(ids, {5000}), w), synchronize(device()); }, {named}));
  }
}

TEST_CASE("a mean over many rows counts those that blocks share", "[devices]") {
  for (const int64_t rows : {1, 1024, 1025, 5000}) {
    const Tensor x = here::randn({rows, 2}), targets = here::randint(2, {rows});
    for (const int64_t ignore : {-1, 1}) {
      CAPTURE(rows, ignore);
      for (int i = 0; i < 2; ++i) {  // what the first has counted is not left for the second
        const double loss = cross_entropy(x, targets, ignore).to(DType::f64).item<double>(),
                     expected = cross_entropy(host(x).to(DType::f64), host(targets), ignore).item<double>();
        CHECK((std::isnan(expected) ? std::isnan(loss) : std::abs(loss - expected) < 1e-5));
      }
    }
  }
}

TEST_CASE("tensors on different devices are refused, both named", "[devices]") {
  if (device().is_cpu()) SKIP_TEST("there is one device");
  const Tensor a = here::ones({2}), b = Tensor::ones({2});
  CHECK(throws([&] { a + b; }, {"add", "cuda:0", "cpu"}));
  CHECK(throws([&] { a.data<float>(); }, {"cuda:0", "to(Device::cpu())"}));
  CHECK(throws<std::runtime_error>([] { Tensor::ones({2}, {.device = Device::cuda(99)}); },
                                   {"cuda:99", "CUDA device"}));
}
