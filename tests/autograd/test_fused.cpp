// Every op that fuses several against the ops that it fuses, forward and backward, at odd sizes and on 1, 2 and 3
// threads. (Attention has a file of its own.)
#include <altgrad/autograd/ops.h>

#include "reference.h"
#include "thread_count.h"

#include <functional>

using namespace altgrad;
using reference::distance;
using reference::randn;

namespace {

using Function = std::function<Tensor(const std::vector<Tensor>&)>;

// The result and, for a cotangent of random numbers, the gradients of all inputs.
std::vector<Tensor> run(const Function& f, const std::vector<Tensor>& inputs, DType dtype) {
  std::vector<Tensor> leaves;
  for (const Tensor& x : inputs) leaves.push_back(x.to(dtype).clone().requires_grad(true));
  Tape tape;
  const Tensor y = f(leaves);
  tape.backward(y, randn(y.shape(), 9).to(dtype));
  std::vector<Tensor> results = {y};
  for (const Tensor& x : leaves) results.push_back(x.grad());
  return results;
}

// `fused` in f64 and f32 against `plain` in f64; distances are in parts of the largest element.
void compare(const Function& fused, const Function& plain, const std::vector<Tensor>& inputs) {
  const std::vector<Tensor> expected = run(plain, inputs, DType::f64);
  for (const int threads : {1, 2, 3}) {
    const ThreadCount count(threads);
    const std::vector<Tensor> wide = run(fused, inputs, DType::f64), narrow = run(fused, inputs, DType::f32);
    for (size_t i = 0; i < expected.size(); ++i) {
      CAPTURE(threads, i);
      CHECK(distance(wide[i], expected[i]) < 1e-12);
      CHECK(distance(narrow[i], expected[i]) < 2e-5);
    }
  }
}

const std::vector<std::pair<int64_t, int64_t>> sizes = {{1, 2},   {3, 1},   {2, 16},   {17, 65},  {64, 33},
                                                        {65, 64}, {130, 7}, {40, 513}, {300, 130}};

Tensor normalised(const Tensor& x, const Tensor& mean_square) { return x / sqrt(mean_square + 1e-5); }

}  // namespace

TEST_CASE("linear is a product and a bias", "[fused]") {
  for (const auto& [rows, n] : sizes) {
    for (const int64_t k : {1, 7, 65, 200}) {
      CAPTURE(rows, n, k);
      compare([](const auto& in) { return linear(in[0], in[1], in[2]); },
              [](const auto& in) { return matmul(in[0], in[1].transpose()) + in[2]; },
              {randn({rows, k}, 1), randn({n, k}, 2), randn({n}, 3)});
    }
  }
}

TEST_CASE("layer_norm and rms_norm are means, differences and products", "[fused]") {
  for (const auto& [rows, n] : sizes) {
    CAPTURE(rows, n);
    const Tensor x = randn({rows, n}, 1), w = randn({n}, 2), b = randn({n}, 3);
    compare([](const auto& in) { return layer_norm(in[0], in[1], in[2]); },
            [](const auto& in) {
              const Tensor h = in[0] - mean(in[0], {-1}, true);
              return normalised(h, mean(h * h, {-1}, true)) * in[1] + in[2];
            },
            {x, w, b});
    compare([](const auto& in) { return rms_norm(in[0], in[1]); },
            [](const auto& in) { return normalised(in[0], mean(in[0] * in[0], {-1}, true)) * in[1]; },
            {x, w});
  }
}

TEST_CASE("softmax and cross_entropy are exponentials, sums and logarithms", "[fused]") {
  for (const auto& [rows, n] : sizes) {
    CAPTURE(rows, n);
    const Tensor x = randn({rows, n}, 1);
    const auto log_probabilities = [](const Tensor& v) { return v - log(sum(exp(v), {-1}, true)); };
    compare([](const auto& in) { return softmax(in[0]); },
            [](const auto& in) { return exp(in[0]) / sum(exp(in[0]), {-1}, true); }, {x});
    compare([](const auto& in) { return log_softmax(in[0]); },
            [=](const auto& in) { return log_probabilities(in[0]); }, {x});
    Generator generator(4);
    const Tensor targets = here::randint(n, {rows}, Device::cpu(), generator);
    const Tensor columns = here::arange(n).reshape({1, n}),
                 chosen = equal(columns, targets.reshape({rows, 1}));
    compare([=](const auto& in) { return cross_entropy(in[0], targets); },
            [=, rows = rows](const auto& in) {
              const Tensor zero = here::zeros({}, in[0].options());
              return -sum(where(chosen, log_probabilities(in[0]), zero)) / double(rows);
            },
            {x});
  }
}

TEST_CASE("gelu and silu make value and slope at once, and the same value alone", "[fused]") {
  struct Case {
    const char* name;
    Tensor (*op)(const Tensor&);
    double (*slope)(double);
  };
  const Case cases[] = {
      {"gelu", [](const Tensor& x) { return gelu(x); },
       [](double x) {
         return 0.5 * std::erfc(-x / std::sqrt(2)) + x * std::exp(-x * x / 2) / std::sqrt(2 * M_PI);
       }},
      {"gelu, tanh form", [](const Tensor& x) { return gelu(x, Gelu::tanh); },
       [](double x) {
         const double t = std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
         return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
       }},
      {"silu", [](const Tensor& x) { return silu(x); },
       [](double x) {
         const double s = 1 / (1 + std::exp(-x));
         return s + x * s * (1 - s);
       }},
  };
  const int64_t n = 40'001;  // more than a thread's share
  const Tensor points = Tensor::empty({n}, {.dtype = DType::f64});
  for (int64_t i = 0; i < n; ++i) points.ptr<double>()[i] = double(float(-8 + 16.0 * double(i) / double(n)));
  for (const Case& c : cases) {
    for (const DType dtype : {DType::f32, DType::f64}) {
      CAPTURE(c.name, dtype == DType::f32);
      const Tensor x = on_device(points.to(dtype).clone()).requires_grad(true);
      const Tensor alone = c.op(x), dy = here::full({n}, -2, {.dtype = dtype});
      Tape tape;
      const Tensor y = c.op(x);
      CHECK(same_bits(y, alone));
      tape.backward(y, dy);
      const std::vector<double> dx = values(x.grad());
      double worst = 0;
      for (int64_t i = 0; i < n; ++i)
        worst = std::max(worst, std::abs(dx[size_t(i)] / -2 - c.slope(points.ptr<double>()[i])));
      CHECK(worst < (dtype == DType::f32 ? 2e-6 : 1e-14));

      const Tensor far = here::from({-1e30f, -40.f, 40.f, 1e30f}, {4}).to(dtype).clone().requires_grad(true);
      Tape second;
      second.backward(sum(c.op(far)));
      CHECK(distance(far.grad(), here::from({0.f, 0.f, 1.f, 1.f}, {4})) < 1e-14);
    }
  }
}
