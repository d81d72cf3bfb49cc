// f32 where numbers are large, small or nearly equal, against f64 on the same inputs: what leaves the floats or
// cancels on the way must not show where the result itself is an ordinary number.
#include <altgrad/autograd/ops.h>

#include <functional>

#include "reference.h"

using namespace altgrad;
using reference::randn;

namespace {

using Inputs = std::vector<Tensor>;
using Function = std::function<Tensor(const Inputs&)>;

struct Result {
  Tensor y;
  std::vector<Tensor> grads;
};

Result run(const Function& fn, const Inputs& inputs, DType dtype, const Tensor& dy) {
  Inputs x;
  for (const Tensor& input : inputs) x.push_back(input.to(dtype).clone().requires_grad(true));
  Tape tape;
  Result result{fn(x), {}};
  tape.backward(result.y, dy.to(dtype));
  for (const Tensor& t : x) result.grads.push_back(t.grad());
  return result;
}

Tensor rounded(const Tensor& x) { return x.to(DType::f32).to(DType::f64); }

// max |a - b| / max |b|, NaN where either has one
double relative(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = values(a), y = values(b);
  double worst = 0, scale = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    worst = std::isnan(x[i] - y[i]) ? NAN : std::max(worst, std::abs(x[i] - y[i]));
    scale = std::max(scale, std::abs(y[i]));
    if (std::isnan(worst)) return NAN;
  }
  return worst == 0 ? 0 : worst / scale;
}

// The result and all gradients of fn in f32 are within `bound` of those in f64.
void check(const Function& fn, Inputs inputs, double bound, double grad_bound) {
  for (Tensor& x : inputs) x = rounded(x);
  const Shape shape = fn(inputs).shape();
  const Tensor dy = rounded(randn(shape, 77));
  const Result narrow = run(fn, inputs, DType::f32, dy), wide = run(fn, inputs, DType::f64, dy);
  CHECK(relative(narrow.y, wide.y) < bound);
  for (size_t i = 0; i < inputs.size(); ++i) {
    CAPTURE(i);
    CHECK(relative(narrow.grads[i], wide.grads[i]) < grad_bound);
  }
}

}  // namespace

TEST_CASE("softmax and cross_entropy of large logits", "[ops][precision]") {
  const Tensor steps = here::randint(20, {6, 33});
  const Tensor targets = here::from({0, 5, 32, 7, 1, 16}, {6});
  for (const auto& [offset, step] : std::vector<std::pair<double, double>>{
           {0, 0.25}, {1e4, 0.25}, {1e6, 0.0625}, {1e6, 1}, {1e8, 8}, {-1e8, 8}, {1e30, 0}}) {
    CAPTURE(offset, step);
    const Tensor x = steps.to(DType::f64) * step + offset;
    check([&](const Inputs& in) { return cross_entropy(in[0], targets); }, {x}, 2e-6, 2e-6);
    check([&](const Inputs& in) { return softmax(in[0]); }, {x}, 2e-6, 2e-6);
    check([&](const Inputs& in) { return log_softmax(in[0]); }, {x}, 2e-6, 5e-6);
  }
}

TEST_CASE("attention with scores of a million", "[attention][precision]") {
  // One number a head: the scores q k are 2^20 + j / 8, exact in f32.
  const int64_t T = 70;
  std::vector<double> parts;
  const std::vector<double> v = values(randn({T}));
  for (int64_t t = 0; t < T; ++t) {
    parts.push_back(1024);
    parts.push_back(1024 + double(t * 7 % 16) * 0x1p-13);
    parts.push_back(v[size_t(t)]);
  }
  const Tensor qkv = rounded(here::from(parts, {1, T, 3})), dy = rounded(randn({1, T, 1}, 3));
  const Function fn = [](const Inputs& in) { return causal_attention(in[0], 1); };
  const Result narrow = run(fn, {qkv}, DType::f32, dy), wide = run(fn, {qkv}, DType::f64, dy);
  CHECK(relative(narrow.y, wide.y) < 2e-6);
  for (const int part :
       {1, 2}) {  // dk, dv; in dq = dS k a row of dS, whose sum is 0, meets keys that are nearly equal
    CAPTURE(part);
    CHECK(relative(narrow.grads[0].narrow(2, part, 1), wide.grads[0].narrow(2, part, 1)) < 5e-6);
  }
}

TEST_CASE("gradients of a quotient, where the divisor's square is no float", "[ops][precision]") {
  for (const double b : {1e-37, 1e-30, 1e-19, 1.0, 1.8e19, 1e30, 1e37}) {
    CAPTURE(b);
    const Tensor one = exp(randn({50}, 1)), two = exp(randn({50}, 2)) * b;
    check([](const Inputs& in) { return in[0] / in[1]; }, {one * b, two}, 1e-6, 1e-6);
    check([](const Inputs& in) { return in[0] / in[1]; }, {one * b, -two}, 1e-6, 1e-6);
  }
}

TEST_CASE("layer_norm of rows far from 0, and of equal numbers", "[ops][precision]") {
  const Function fn = [](const Inputs& in) { return layer_norm(in[0], in[1], in[2]); };
  const Tensor w = randn({768}, 2), b = randn({768}, 3);
  for (const double mean : {0.0, 1e3, -1e5, 1e6}) {
    CAPTURE(mean);
    check(fn, {randn({5, 768}) + mean, w, b}, 3e-6, 1e-5);
  }
  const Tensor far = host(randn({5, 768}));  // the first element is far from all others
  for (int64_t r = 0; r < 5; ++r) far.data<double>()[size_t(768 * r)] = 1e6;
  check(fn, {on_device(far), w, b}, 3e-6, 1e-5);
  for (const float c : {0.1f, 1234567.0f, -3.3e30f}) {
    CAPTURE(c);
    const Tensor bias = b.to(DType::f32), y = layer_norm(here::full({2, 768}, c), w.to(DType::f32), bias);
    CHECK(same_bits(y, expand(bias, {2, 768})));
  }
}

TEST_CASE("norms of numbers whose squares are no floats", "[ops][precision]") {
  const Tensor x = randn({5, 300}, 1), w = randn({300}, 2), b = randn({300}, 3);
  for (const double scale : {1e-36, 1e-30, 1e-22, 1e-3, 1e18, 1e25, 1e37}) {
    CAPTURE(scale);
    const double eps = scale < 1 ? 0 : 1e-5;
    check([=](const Inputs& in) { return layer_norm(in[0], in[1], in[2], eps); }, {x * scale, w, b}, 3e-6,
          1e-5);
    check([=](const Inputs& in) { return rms_norm(in[0], in[1], eps); }, {x * scale, w}, 3e-6, 1e-5);
  }
  for (const double scale :
       {0x1p-1000, 0x1p-600, 0x1p600, 0x1p1000}) {  // f64: a power of two changes nothing
    CAPTURE(scale);
    CHECK(relative(layer_norm(x * scale, w, b, 0), layer_norm(x, w, b, 0)) < 1e-14);
    CHECK(relative(rms_norm(x * scale, w, 0), rms_norm(x, w, 0)) < 1e-14);
  }
  // eps alone keeps rows of zeros from dividing by 0.
  CHECK(values(rms_norm(here::zeros({1, 3}), here::ones({3}))) == std::vector<double>{0, 0, 0});
  CHECK(values(layer_norm(here::zeros({1, 3}), here::ones({3}))) == std::vector<double>{0, 0, 0});
}

TEST_CASE("means near the largest float, variances far from 0", "[ops][precision]") {
  const Function average = [](const Inputs& in) { return mean(in[0]); };
  check(average, {here::full({1000}, 3e38, {.dtype = DType::f64})}, 1e-6, 1e-6);
  check([](const Inputs& in) { return mean(in[0], {0, 2}); }, {randn({7, 5, 9}) * 1e37 + 2e38}, 1e-6, 1e-6);
  for (const double mean : {0.0, 1e3, -1e5, 1e6}) {
    CAPTURE(mean);
    check([](const Inputs& in) { return var(in[0], {1}); }, {randn({4, 500}) * 0.3 + mean}, 1e-6, 3e-6);
  }
  CHECK(var(here::full({1000}, 1234567.1f)).item<double>() == 0);
}

TEST_CASE("elementwise ops and their slopes from the smallest to the largest float", "[ops][precision]") {
  struct Case {
    const char* name;
    Tensor (*op)(const Tensor&);
    bool positive;  // only there
    double bound = 3e-6;
  };
  const std::vector<Case> cases = {
      {"abs", [](const Tensor& x) { return abs(x); }, false},
      {"exp", [](const Tensor& x) { return exp(x); }, false},
      {"log", [](const Tensor& x) { return log(x); }, true},
      {"sqrt", [](const Tensor& x) { return sqrt(x); }, true},
      {"pow 2", [](const Tensor& x) { return pow(x, 2); }, false},
      {"pow -0.5", [](const Tensor& x) { return pow(x, -0.5); }, true},
      {"tanh", [](const Tensor& x) { return tanh(x); }, false},
      {"sigmoid", [](const Tensor& x) { return sigmoid(x); }, false},
      {"relu", [](const Tensor& x) { return relu(x); }, false},
      {"gelu", [](const Tensor& x) { return gelu(x); }, false, 1e-5},
      {"gelu, tanh form", [](const Tensor& x) { return gelu(x, Gelu::tanh); }, false, 2e-5},
      {"silu", [](const Tensor& x) { return silu(x); }, false, 1e-5},
  };
  std::vector<double> points;
  for (double x = 1e-37; x < 3e38; x *= 1.7) points.push_back(x), points.push_back(-x);
  points.push_back(3.4e38), points.push_back(-3.4e38);
  for (const Case& c : cases) {
    std::vector<double> at;
    for (const double x : points) {
      if (!c.positive || x > 0) at.push_back(double(float(x)));
    }
    const Tensor x = here::from(at, {int64_t(at.size())}), ones = here::ones(x.shape());
    const Function fn = [&](const Inputs& in) { return c.op(in[0]); };
    const Result narrow = run(fn, {x}, DType::f32, ones), wide = run(fn, {x}, DType::f64, ones);
    const auto compare = [&](const char* what, const Tensor& a, const Tensor& b) {
      const std::vector<double> got = values(a), expected = values(b);
      for (size_t i = 0; i < at.size(); ++i) {
        CAPTURE(c.name, what, at[i], got[i], expected[i]);
        if (std::abs(expected[i]) > double(std::numeric_limits<float>::max())) {
          CHECK(std::isinf(got[i]));
        } else if (std::abs(expected[i]) <
                   1e38) {  // saturated slopes such as 1 - tanh^2 are right to an ulp of the 1
          CHECK(std::abs(got[i] - expected[i]) <= c.bound * std::abs(expected[i]) + 2e-7 * (expected[i] < 1));
        }
      }
    };
    compare("value", narrow.y, wide.y);
    compare("slope", narrow.grads[0], wide.grads[0]);
  }
}
