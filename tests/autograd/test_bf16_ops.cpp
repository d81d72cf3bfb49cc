// Ops on activations of bf16, which a GPU has: against f32 on the same numbers, values and gradients. What the CPU
// says to them is in core/test_bf16_tensors.cpp.
#include <altgrad/altgrad.h>
#include <altgrad/autograd/internal/mlp.h>

#include <bit>
#include <cmath>
#include <functional>

#include "errors.h"
#include "reference.h"

using namespace altgrad;

namespace {

using Inputs = std::span<const Tensor>;

constexpr double u = 0x1p-8;  // the largest relative error of a rounding to bf16
constexpr auto no_gpu = "bf16 computes on a GPU only";

struct Row {
  const char* name;
  std::function<Tensor(Inputs)> fn;
  std::vector<Shape> activations, parameters;  // shapes of the inputs
  // How many roundings, each relative to the largest element, a result has: of the value its own; of a gradient its own
  // and that of what was kept for it in bf16, the result, or the gradient for a cotangent of 1.
  int of_value = 1, of_gradients = 1;
};

Tensor ids(const Tensor& like) { return Tensor::from({3, 0, 3, 6, 1}, {5}).to(like.device()); }

const std::vector<Row> rows = {
    {"add", [](Inputs x) { return x[0] + x[1]; }, {{65, 33}, {65, 33}}, {}},
    {"add, broadcast", [](Inputs x) { return x[0] + x[1]; }, {{5, 7, 33}, {7, 1}}, {}},
    {"sub", [](Inputs x) { return x[0] - x[1]; }, {{1000}, {1000}}, {}},
    {"mul", [](Inputs x) { return x[0] * x[1]; }, {{1000}, {1000}}, {}},
    {"mul, broadcast", [](Inputs x) { return x[0] * x[1]; }, {{33, 7}, {7}}, {}, 1, 2},
    {"div", [](Inputs x) { return x[0] / x[1]; }, {{33}, {33}}, {}},
    {"maximum", [](Inputs x) { return maximum(x[0], x[1]); }, {{1000}, {1000}}, {}},
    {"minimum", [](Inputs x) { return minimum(x[0], x[1]); }, {{1000}, {1000}}, {}},
    {"where",
     [](Inputs x) { return where(greater(x[0].detach(), x[1].detach()), x[0], x[1]); },
     {{1000}, {1000}},
     {}},
    {"expand",
     [](Inputs x) {
       return expand(x[0], {3, 7, 5});
     },
     {{7, 1}},
     {}},
    {"numbers", [](Inputs x) { return 2.0 - x[0] * 4.0; }, {{1000}}, {}},
    {"neg", [](Inputs x) { return -x[0]; }, {{1000}}, {}, 0, 0},
    {"abs", [](Inputs x) { return abs(x[0]); }, {{1000}}, {}, 0, 0},
    {"exp", [](Inputs x) { return exp(x[0]); }, {{1000}}, {}, 1, 2},
    {"pow", [](Inputs x) { return pow(x[0], 2); }, {{1000}}, {}},
    {"tanh", [](Inputs x) { return tanh(x[0]); }, {{1000}}, {}, 1, 3},
    {"sigmoid", [](Inputs x) { return sigmoid(x[0]); }, {{1000}}, {}, 1, 3},
    {"relu", [](Inputs x) { return relu(x[0]); }, {{1000}}, {}, 0, 0},
    {"gelu", [](Inputs x) { return gelu(x[0]); }, {{1000}}, {}},
    {"gelu, tanh", [](Inputs x) { return gelu(x[0], Gelu::tanh); }, {{1000}}, {}},
    {"silu", [](Inputs x) { return silu(x[0]); }, {{1000}}, {}},
    {"clamp", [](Inputs x) { return clamp(x[0], -0.5, 0.5); }, {{1000}}, {}, 0, 0},
    {"dropout",
     [](Inputs x) {
       Generator generator(7);
       return dropout(x[0], 0.4, generator);
     },
     {{1003}},
     {}},
    {"sum", [](Inputs x) { return sum(x[0]); }, {{70000}}, {}, 1, 0},
    {"sum, axes",
     [](Inputs x) {
       return sum(x[0], {0, 2});
     },
     {{65, 33, 7}},
     {},
     1,
     0},
    {"mean", [](Inputs x) { return mean(x[0], {0}); }, {{257, 33}}, {}},
    {"reshape, narrow, transpose, cat",
     [](Inputs x) {
       return cat({x[0].reshape({33, 7}).narrow(0, 3, 5), x[1].transpose()});
     },
     {{231}, {7, 3}},
     {},
     0,
     0},
    {"softmax", [](Inputs x) { return softmax(x[0]); }, {{65, 33}}, {}, 1, 3},
    {"log_softmax", [](Inputs x) { return log_softmax(x[0]); }, {{65, 33}}, {}, 1, 3},
    {"layer_norm", [](Inputs x) { return layer_norm(x[0], x[1], x[2]); }, {{65, 33}}, {{33}, {33}}},
    {"layer_norm, no bias, long rows",
     [](Inputs x) { return layer_norm(x[0], x[1]); },
     {{3, 1032}},
     {{1032}}},
    {"layer_norm, wider", [](Inputs x) { return layer_norm(x[0], x[1], x[2]); }, {{9, 768}}, {{768}, {768}}},
    {"layer_norm, of the widest",
     [](Inputs x) { return layer_norm(x[0], x[1], x[2]); },
     {{70, 1024}},
     {{1024}, {1024}}},
    {"layer_norm, rows that blocks share unevenly",
     [](Inputs x) { return layer_norm(x[0], x[1], x[2]); },
     {{2055, 24}},
     {{24}, {24}}},
    {"rms_norm", [](Inputs x) { return rms_norm(x[0], x[1]); }, {{65, 33}}, {{33}}},
    {"rms_norm, wider", [](Inputs x) { return rms_norm(x[0], x[1]); }, {{9, 768}}, {{768}}},
    {"cross_entropy", [](Inputs x) { return cross_entropy(x[0], ids(x[0]), 6); }, {{5, 7}}, {}, 0, 2},
    // The weights here are rounded to bf16 already, so that both sides multiply the same numbers.
    {"linear", [](Inputs x) { return linear(x[0], x[1], x[2]); }, {{33, 64}}, {{24, 64}, {24}}, 2},
    {"linear, no bias, three axes", [](Inputs x) { return linear(x[0], x[1]); }, {{3, 5, 65}}, {{7, 65}}},
    {"linear, nothing to sum", [](Inputs x) { return linear(x[0], x[1], x[2]); }, {{3, 0}}, {{5, 0}, {5}}},
    // Products of probabilities may be of bf16, too, and the gradient has the rounded result and dS.
    {"causal_attention", [](Inputs x) { return causal_attention(x[0], 3); }, {{2, 70, 3 * 48}}, {}, 2, 6},
    {"causal_attention, heads of 64",
     [](Inputs x) { return causal_attention(x[0], 2); },
     {{1, 130, 3 * 128}},
     {},
     2,
     6},
    {"checkpoint",
     [](Inputs x) { return checkpoint([w = x[1]](const Tensor& in) { return rms_norm(in, w); }, x[0]); },
     {{65, 33}},
     {{33}}},
    {"f32 in between", [](Inputs x) { return exp(x[0].to(DType::f32)).to(x[0].dtype()); }, {{1000}}, {}},
};

// Numbers of bf16, in f32.
Tensor drawn(const Shape& shape, uint64_t seed) {
  return reference::randn(shape, seed, DType::f32).to(DType::bf16).to(DType::f32);
}

struct Results {
  Tensor y;
  std::vector<Tensor> gradients;
};

// The op's value and gradients, its activations in this dtype.
Results run(const Row& row, DType dtype) {
  std::vector<Tensor> x;
  for (const Shape& shape : row.activations)
    x.push_back(drawn(shape, x.size() + 1).to(dtype).requires_grad(true));
  for (const Shape& shape : row.parameters) x.push_back(drawn(shape, x.size() + 1).requires_grad(true));
  Tape tape;
  const Tensor y = row.fn(x);
  tape.backward(y, drawn(y.shape(), 77).to(y.dtype()));
  Results results{y.detach(), {}};
  for (const Tensor& t : x) results.gradients.push_back(t.grad());
  return results;
}

// The largest difference, over the largest element.
double error(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = values(a), y = values(b);
  double worst = 0, scale = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    worst = std::max(worst, std::abs(x[i] - y[i]));
    scale = std::max(scale, std::abs(y[i]));
  }
  return worst == 0 ? 0 : worst / scale;
}

}  // namespace

TEST_CASE("ops on bf16 are those of f32, rounded, and so are their gradients", "[bf16]") {
  if (device().is_cpu()) SKIP_TEST(no_gpu);
  for (const Row& row : rows) {
    CAPTURE(row.name);
    const Results narrow = run(row, DType::bf16), wide = run(row, DType::f32);
    const double in_f32 = 1e-5;  // sums in another order
    const bool is_loss = narrow.y.dtype() == DType::f32;
    CHECK(is_loss == (std::string(row.name) == "cross_entropy"));
    CHECK(narrow.y.shape() == wide.y.shape());
    CHECK(error(narrow.y, wide.y) <= row.of_value * u + in_f32);
    for (size_t i = 0; i < narrow.gradients.size(); ++i) {
      CAPTURE(i);
      const bool activation = i < row.activations.size();
      CHECK(narrow.gradients[i].dtype() == (activation ? DType::bf16 : DType::f32));
      CHECK(error(narrow.gradients[i], wide.gradients[i]) <=
            (activation ? row.of_gradients * u : 0) + in_f32);
    }
  }
}

TEST_CASE("the loss of bf16 and each number of its gradient are those of f64, rounded once", "[bf16]") {
  if (device().is_cpu()) SKIP_TEST(no_gpu);
  for (const int64_t n : {7, 384, 1032, 2051, 5000}) {  // rows of warps and of blocks, in packs and without
    CAPTURE(n);
    const Tensor x = drawn({5, n}, 1) * 4.0, targets = Tensor::from<int64_t>({3, 0, n - 1, 6, 1}, {5});
    const Tensor narrow = x.to(DType::bf16).requires_grad(true),
                 wide = host(x).to(DType::f64).requires_grad(true);
    const auto loss = [&](const Tensor& logits) {
      Tape tape;
      const Tensor y = cross_entropy(logits, targets.to(logits.device()), 6);
      tape.backward(y);
      return y.detach();
    };
    CHECK(error(loss(narrow), loss(wide)) < 1e-6);
    const std::vector<double> got = values(narrow.grad()), expected = values(wide.grad());
    for (size_t i = 0; i < got.size(); ++i) {
      CAPTURE(i);
      REQUIRE(std::abs(got[i] - expected[i]) <= (u + 1e-5) * std::abs(expected[i]) + 1e-7);
    }
  }
}

// Can x, rounded to bf16, be the number y? Off by so much it may be beforehand.
bool rounds_to(double x, double off, double y) {
  return double(float(bfloat16(x - off))) <= y && y <= double(float(bfloat16(x + off)));
}

TEST_CASE("gelu of each bf16 number, and its derivative, are off by 2^-14 and a rounding", "[bf16]") {
  if (device().is_cpu()) SKIP_TEST(no_gpu);
  std::vector<float> all;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) all.push_back(std::bit_cast<bfloat16>(uint16_t(bits)));
  const Tensor x = here::from(all, {0x10000}).to(DType::bf16).requires_grad(true);
  Tape tape;
  const Tensor y = gelu(x);
  tape.backward(y, here::ones({0x10000}).to(DType::bf16));
  const std::vector<double> value = values(y), derivative = values(x.grad());
  for (size_t i = 0; i < all.size(); ++i) {
    const double u = all[i], cdf = 0.5 * std::erfc(-u * std::sqrt(0.5)),
                 bell = std::exp(-u * u / 2) * 0.3989422804014327;
    CAPTURE(u, value[i], derivative[i]);
    if (std::isnan(u) || std::isinf(u)) {
      REQUIRE((u > 0 ? value[i] == u : std::isnan(value[i])));
      continue;
    }
    const double subnormal = 0x1p-126, part = 0x1p-14;  // what is smaller may be 0
    REQUIRE(rounds_to(u * cdf, part * std::abs(u * cdf) + (cdf < subnormal ? std::abs(u) * subnormal : 0),
                      value[i]));
    REQUIRE(rounds_to(cdf + u * bell,
                      part * (cdf + std::abs(u) * bell) + (cdf < subnormal ? std::abs(u) * subnormal : 0),
                      derivative[i]));
  }
}

TEST_CASE("gradients of bf16 are added where a tensor is used twice, each sum rounded once", "[bf16]") {
  if (device().is_cpu()) SKIP_TEST(no_gpu);
  const Tensor x = drawn({1000}, 1).to(DType::bf16).requires_grad(true), w = drawn({8, 8}, 2);
  const Tensor dy = drawn({1000}, 3).to(DType::bf16), dz = drawn({1000}, 4).to(DType::bf16);
  Tape tape;
  tape.backward(x * dy + x * dz, here::ones({1000}).to(DType::bf16));
  CHECK(same_bits(x.grad(), (dy.to(DType::f32) + dz.to(DType::f32)).to(DType::bf16)));
}

TEST_CASE("a weight is rounded for the product of linear, its gradient and the bias's are added to in f32",
          "[bf16]") {
  if (device().is_cpu()) SKIP_TEST(no_gpu);
  const Tensor x = drawn({16, 32}, 1), w = reference::randn({8, 32}, 2, DType::f32).requires_grad(true);
  const Tensor rounded = w.detach().to(DType::bf16).to(DType::f32), dy = drawn({16, 8}, 3);
  Tape tape;
  const Tensor in = x.to(DType::bf16);
  const Tensor y = linear(in, w) + linear(in, w);
  CHECK(error(y, linear(x, rounded) * 2.0) <= u + 1e-6);
  tape.backward(y, dy.to(DType::bf16));
  CHECK(w.grad().dtype() == DType::f32);
  CHECK(error(w.grad(), matmul(dy.transpose(), x) * 2.0) < 1e-6);

  const Tensor b = drawn({8}, 4).requires_grad(true);
  Tape second;
  second.backward(linear(in, w, b) + linear(in, w, b), dy.to(DType::bf16));
  CHECK(b.grad().dtype() == DType::f32);
  CHECK(error(b.grad(), sum(dy, {0}) * 2.0) < 1e-6);
  CHECK(error(w.grad(), matmul(dy.transpose(), x) * 4.0) < 1e-6);
}

namespace {
struct MlpSizes {
  int64_t rows, in, hidden, out;
  bool bias;
};
struct MlpRun {
  Tensor alone, y;                // not recorded, and recorded
  std::vector<Tensor> gradients;  // of x, both weights and both biases; undefined for what is frozen
};
// Bit i of `frozen` says whether input i is; both weights may be one.
MlpRun run_mlp(const MlpSizes& s, DType dtype, Gelu form, unsigned frozen = 0, bool tied = false) {
  std::vector<Tensor> in{drawn({s.rows, s.in}, 1).to(dtype), drawn({s.hidden, s.in}, 2),
                         drawn({s.out, s.hidden}, 3) * 0.25};
  if (tied) in[2] = in[1];
  if (s.bias) in.insert(in.end(), {drawn({s.hidden}, 4), drawn({s.out}, 5)});
  for (size_t i = 0; i < in.size(); ++i) in[i].requires_grad((frozen >> i & 1) == 0);
  const std::optional<Tensor> none, b = s.bias ? std::optional(in[3]) : none,
                                    c = s.bias ? std::optional(in[4]) : none;
  const auto mlp = [&] { return detail::mlp(in[0], {in[1], b}, form, {in[2], c}); };
  MlpRun run{mlp().detach(), {}, {}};
  Tape tape;
  const Tensor y = mlp();
  tape.backward(y, drawn(y.shape(), 77).to(dtype));
  run.y = y.detach();
  for (const Tensor& t : in) run.gradients.push_back(t.has_grad() ? t.grad() : Tensor());
  return run;
}
}  // namespace

TEST_CASE("an MLP as one op is two linear layers and gelu between them", "[bf16]") {
  if (device().is_cpu()) SKIP_TEST(no_gpu);
  for (const Gelu form : {Gelu::erf, Gelu::tanh}) {
    for (const MlpSizes& s : {MlpSizes{33, 64, 48, 24, true},
                              {200, 16, 136, 8, false},
                              {1, 8, 8, 8, true},
                              {5, 24, 20, 8, true},
                              {5, 24, 16, 3, true},
                              {700, 8, 67, 5, true}}) {
      CAPTURE(form == Gelu::erf, s.rows, s.hidden, s.out);
      const MlpRun narrow = run_mlp(s, DType::bf16, form), wide = run_mlp(s, DType::f32, form);
      CHECK(same_bits(narrow.y, narrow.alone));
      CHECK(error(narrow.y, wide.y) <= 2 * u);
      for (size_t i = 0; i < narrow.gradients.size(); ++i) {
        CAPTURE(i);
        CHECK(narrow.gradients[i].dtype() == (i == 0 ? DType::bf16 : DType::f32));
        CHECK(error(narrow.gradients[i], wide.gradients[i]) <= 2 * u);
      }
    }
  }
}

TEST_CASE(
    "an MLP's gradients are the same whichever others are wanted, and add up where a weight is used twice",
    "[bf16]") {
  if (device().is_cpu()) SKIP_TEST(no_gpu);
  const MlpSizes s{33, 64, 48, 24, true}, square{33, 24, 24, 24, false};
  for (const Gelu form : {Gelu::erf, Gelu::tanh}) {
    const MlpRun all = run_mlp(s, DType::bf16, form);
    for (unsigned frozen = 0; frozen < 31; ++frozen) {
      CAPTURE(form == Gelu::erf, frozen);
      const MlpRun run = run_mlp(s, DType::bf16, form, frozen);
      CHECK(same_bits(run.y, all.y));
      for (unsigned i = 0; i < 5; ++i) {
        CHECK(run.gradients[i].defined() == ((frozen >> i & 1) == 0));
        if (run.gradients[i].defined()) CHECK(same_bits(run.gradients[i], all.gradients[i]));
      }
    }
    CHECK(error(run_mlp(square, DType::bf16, form, 0, true).gradients[1],
                run_mlp(square, DType::f32, form, 0, true).gradients[1]) <= 2 * u);
  }
}

TEST_CASE("an MLP of layers that do not fit is refused by the layer's name", "[bf16]") {
  if (device().is_cpu()) SKIP_TEST(no_gpu);
  const Tensor x = drawn({4, 16}, 1).to(DType::bf16), w = drawn({24, 16}, 2), v = drawn({8, 32}, 3),
               few = drawn({7}, 4);
  const std::optional<Tensor> none, b = few;
  CHECK(throws(
      [&] {
        detail::mlp(x, {w, none}, Gelu::tanh, {v, none});
      },
      {"linear", "in_features 24 vs 32"}));
  CHECK(throws(
      [&] {
        detail::mlp(x, {v, none}, Gelu::tanh, {w, none});
      },
      {"linear", "in_features 16 vs 32"}));
  CHECK(throws([&] { detail::mlp(x, {w, b}, Gelu::tanh, {v, none}); }, {"linear: bias"}));
}

TEST_CASE("what does not go with activations of bf16 is refused by its name", "[bf16]") {
  if (device().is_cpu()) SKIP_TEST(no_gpu);
  const auto bf16 = [](const Shape& shape) { return here::ones(shape, {.dtype = DType::bf16}); };
  const Tensor x = bf16({2, 4}), f = here::ones({2, 4}), w = here::ones({3, 4}), n = here::ones({4});
  const Tensor ids = here::zeros({2}, {.dtype = DType::i64});
  const auto computes_in_f32 = [](const char* op, const std::function<void()>& call) {
    INFO(op);
    CHECK(throws(call, {op, "computes in f32 and f64, and not in bf16", ".to(DType::f32)"}));
  };
  computes_in_f32("max", [&] { max(x); });
  computes_in_f32("argmax", [&] { argmax(x); });
  computes_in_f32("var", [&] { var(x); });
  computes_in_f32("mse_loss", [&] { mse_loss(x, x); });
  computes_in_f32("matmul", [&] { matmul(x, x); });
  computes_in_f32("index_select", [&] { index_select(x, 0, ids); });
  computes_in_f32("embedding", [&] { embedding(ids, x); });
  computes_in_f32("rand", [&] { here::rand({2}, {.dtype = DType::bf16}); });
  computes_in_f32("quantize", [&] { fp8::quantize(x, fp8::E4M3, 1.f); });
  computes_in_f32("encode", [&] { fp8::encode(x, fp8::E4M3, 1.f); });

  const auto needs_f32 = [](const char* op, const std::function<void()>& call) {
    INFO(op);
    CHECK(throws(call, {op, "beside activations of bf16, (2, 4)", "must be f32"}));
  };
  needs_f32("linear", [&] { linear(x, w.to(DType::bf16)); });
  needs_f32("linear", [&] { linear(x, w, bf16({3})); });
  needs_f32("layer_norm", [&] { layer_norm(x, n.to(DType::bf16)); });
  needs_f32("layer_norm", [&] { layer_norm(x, n, n.to(DType::f64)); });
  needs_f32("rms_norm", [&] { rms_norm(x, n.to(DType::bf16)); });
  CHECK(throws([&] { linear(f, w.to(DType::bf16)); }, {"linear: dtypes differ", "f32", "bf16"}));
  CHECK(throws([&] { x + f; }, {"add: dtypes differ", "bf16", "f32"}));
  CHECK(throws([&] { linear(x, Tensor::ones({3, 4})); }, {"linear: devices differ", "cuda:0", "cpu"}));
}
