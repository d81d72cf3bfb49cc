// Arithmetic, elementwise ops and reductions against slow loops and closed forms, at sizes that are odd, one
// and zero.
#include <altgrad/autograd/ops.h>

#include <limits>
#include <numeric>

#include "reference.h"

using namespace altgrad;
using reference::at;
using reference::distance;
using reference::for_each_index;
using reference::Index;
using reference::make;
using reference::randn;

namespace {
constexpr double inf = std::numeric_limits<double>::infinity(),
                 NaN = std::numeric_limits<double>::quiet_NaN();
}  // namespace

TEST_CASE("arithmetic broadcasts as NumPy does, forward and backward", "[ops]") {
  const std::vector<Shape> shapes = {{},        {1},          {5},          {0},          {3, 1},
                                     {3, 5},    {1, 5},       {1, 1},       {2, 3, 5},    {2, 1, 1},
                                     {2, 1, 5}, {1, 3, 1},    {2, 3, 1},    {0, 3, 5},    {2, 0, 1},
                                     {3, 0},    {4, 2, 3, 5}, {4, 1, 3, 1}, {1, 2, 1, 5}, {7, 1, 1, 1, 1}};
  int pairs = 0;
  for (const Shape& shape_a : shapes) {
    for (const Shape& shape_b : shapes) {
      // The rule, in other words: aligned at the right, each pair of sizes is equal or has a 1.
      Index out(size_t(std::max(shape_a.dim(), shape_b.dim())), 1);
      bool fits = true;
      for (int back = 1; back <= int(out.size()); ++back) {
        const int64_t m = back <= shape_a.dim() ? shape_a[shape_a.dim() - back] : 1;
        const int64_t n = back <= shape_b.dim() ? shape_b[shape_b.dim() - back] : 1;
        fits = fits && (m == n || m == 1 || n == 1);
        out[out.size() - size_t(back)] = m == 1 ? n : m;
      }
      CAPTURE(shape_a, shape_b);
      const Tensor a = randn(shape_a, 1), b = exp(randn(shape_b, 2));
      if (!fits) {
        CHECK_THROWS_AS(a + b, std::invalid_argument);
        continue;
      }
      ++pairs;
      const Shape shape{std::span<const int64_t>(out)};
      a.requires_grad(true), b.requires_grad(true);
      Tape tape;
      const Tensor y = a / b;
      CHECK(distance(y.detach(), make(shape, [&](const Index& i) { return at(a, i) / at(b, i); })) < 1e-15);
      CHECK(distance((a - b).detach(), make(shape, [&](const Index& i) { return at(a, i) - at(b, i); })) ==
            0);
      CHECK(distance(maximum(a, b).detach(),
                     make(shape, [&](const Index& i) { return std::max(at(a, i), at(b, i)); })) == 0);
      const Tensor above = greater(a, b);
      CHECK(above.dtype() == DType::u8);
      CHECK(distance(above, make(shape, [&](const Index& i) { return at(a, i) > at(b, i); })) == 0);

      const Tensor dy = randn(shape, 3);
      tape.backward(y, dy);
      // Every element of the result adds to the element of a and of b that it came from.
      const auto scatter = [&](const Tensor& x, auto&& f) {
        Tensor dx = Tensor::zeros(x.shape(), {.dtype = DType::f64});
        for_each_index(shape, [&](const Index& i) {
          int64_t offset = 0;
          for (int axis = 0; axis < x.dim(); ++axis) {
            const int64_t n = x.shape()[axis];
            offset = offset * n + (n == 1 ? 0 : i[i.size() - size_t(x.dim() - axis)]);
          }
          dx.data<double>()[size_t(offset)] += f(i);
        });
        return dx;
      };
      CHECK(distance(a.grad(), scatter(a, [&](const Index& i) { return at(dy, i) / at(b, i); })) < 1e-13);
      CHECK(distance(b.grad(), scatter(b, [&](const Index& i) {
                       return -at(dy, i) * at(a, i) / at(b, i) / at(b, i);
                     })) < 1e-13);
    }
  }
  CHECK(pairs > 150);
}

TEST_CASE("where, expand and equal broadcast too", "[ops]") {
  const Tensor c = here::from<uint8_t>({1, 0, 2}, {3, 1}), a = randn({2, 1, 4}, 1), b = randn({}, 2);
  CHECK(distance(where(c, a, b),
                 make({2, 3, 4}, [&](const Index& i) { return at(c, i) ? at(a, i) : at(b, i); })) == 0);
  CHECK(distance(expand(c, {2, 3, 2}), make({2, 3, 2}, [&](const Index& i) { return at(c, i); })) == 0);
  const Tensor x = here::from({1.0, NaN, 3.0}, {3}), y = here::from({1.0, NaN, 2.0}, {3});
  CHECK(values(equal(x, y)) == std::vector<double>{1, 0, 0});
  CHECK(values(greater(x, y)) == std::vector<double>{0, 0, 1});
  CHECK(values(equal(here::from({1, 2}, {2}), here::from({1, 3}, {2}))) == std::vector<double>{1, 0});
  // A copy even where nothing is repeated.
  const Tensor same = expand(x, {3});
  CHECK_FALSE(same.is(x));
  // Broadcasting and zero sizes.
  CHECK(expand(here::ones({1, 3}), {0, 3}).shape() == Shape{0, 3});
  CHECK(where(here::zeros({0, 1}, {.dtype = DType::u8}), here::ones({3}), here::ones({1})).shape() ==
        Shape{0, 3});
}

TEST_CASE("scalars take the tensor's dtype", "[ops]") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    const Tensor x = here::full({2}, 3, {.dtype = dtype});
    for (const Tensor& y :
         {x + 1.0, 1.0 + x, 7.0 - x, x - (-1.0), x * (4.0 / 3.0), 2.0 * x - 2.0, 12.0 / x, x / 0.75}) {
      CHECK(y.dtype() == dtype);
      CHECK(values(y) == std::vector<double>{4, 4});
    }
  }
}

TEST_CASE("elementwise ops are their functions, in both dtypes, and pass NaN on", "[ops]") {
  struct Case {
    const char* name;
    Tensor (*op)(const Tensor&);
    double (*value)(double);
  };
  const std::vector<Case> cases = {
      {"neg", [](const Tensor& x) { return neg(x); }, [](double x) { return -x; }},
      {"abs", [](const Tensor& x) { return abs(x); }, [](double x) { return std::fabs(x); }},
      {"exp", [](const Tensor& x) { return exp(x); }, [](double x) { return std::exp(x); }},
      {"log", [](const Tensor& x) { return log(x); }, [](double x) { return std::log(x); }},
      {"sqrt", [](const Tensor& x) { return sqrt(x); }, [](double x) { return std::sqrt(x); }},
      {"pow", [](const Tensor& x) { return pow(x, 3); }, [](double x) { return x * x * x; }},
      {"tanh", [](const Tensor& x) { return tanh(x); }, [](double x) { return std::tanh(x); }},
      {"sigmoid", [](const Tensor& x) { return sigmoid(x); },
       [](double x) { return 1 / (1 + std::exp(-x)); }},
      {"relu", [](const Tensor& x) { return relu(x); },
       [](double x) { return std::isnan(x) ? x
                             : x > 0       ? x
                                           : 0; }},
      {"gelu", [](const Tensor& x) { return gelu(x); },
       [](double x) { return std::isinf(x) ? (x > 0 ? x : NaN) : x * 0.5 * std::erfc(-x / std::sqrt(2)); }},
      {"gelu tanh", [](const Tensor& x) { return gelu(x, Gelu::tanh); },
       [](double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }},
      {"silu", [](const Tensor& x) { return silu(x); }, [](double x) { return x / (1 + std::exp(-x)); }},
      {"clamp", [](const Tensor& x) { return clamp(x, -1, 2); },
       [](double x) { return std::isnan(x) ? x : std::min(std::max(x, -1.0), 2.0); }},
  };
  std::vector<double> points = {0.0, -0.0, 1, -1, 2, 1e-3, 1e-20, -1e-20, 20, -20, 80, -80, NaN};
  for (double x = -12; x < 12; x += 0.0917) points.push_back(double(float(x)));
  const Tensor wide = here::from(points, {int64_t(points.size())}), narrow = wide.to(DType::f32);
  for (const Case& c : cases) {
    const std::vector<double> y64 = values(c.op(wide)), y32 = values(c.op(narrow));
    for (size_t i = 0; i < points.size(); ++i) {
      CAPTURE(c.name, points[i]);
      const double x = values(narrow)[i], expected = c.value(points[i]), expected32 = c.value(x);
      if (std::isnan(expected)) {
        CHECK(std::isnan(y64[i]));
        CHECK(std::isnan(y32[i]));
      } else {
        CHECK(y64[i] == Approx(expected).epsilon(1e-13).margin(1e-15));
        if (std::fabs(expected32) < 3e38) CHECK(y32[i] == Approx(expected32).epsilon(2e-6).margin(1e-7));
      }
    }
  }
}

TEST_CASE("slopes at kinks are as documented", "[ops]") {
  const auto slopes = [](Tensor (*op)(const Tensor&), std::vector<double> at) {
    const Tensor x = here::from(at, {int64_t(at.size())}).requires_grad(true);
    Tape tape;
    tape.backward(sum(op(x)));
    return values(x.grad());
  };
  CHECK(slopes([](const Tensor& x) { return relu(x); }, {-1, 0, 1}) == std::vector<double>{0, 0, 1});
  CHECK(slopes([](const Tensor& x) { return abs(x); }, {-1, 0, 1}) == std::vector<double>{-1, 0, 1});
  CHECK(slopes([](const Tensor& x) { return clamp(x, -1, 1); }, {-2, -1, 0, 1, 2}) ==
        std::vector<double>{0, 1, 1, 1, 0});
  CHECK(slopes([](const Tensor& x) { return maximum(x, here::zeros({3}, x.options())); }, {-1, 0, 1}) ==
        std::vector<double>{0, 0.5, 1});
  CHECK(slopes([](const Tensor& x) { return minimum(x, here::zeros({3}, x.options())); }, {-1, 0, 1}) ==
        std::vector<double>{1, 0.5, 0});
  CHECK(slopes([](const Tensor& x) { return max(x); }, {2, 1, 2, 2}) ==
        std::vector<double>{1. / 3, 0, 1. / 3, 1. / 3});
  CHECK(slopes(
            [](const Tensor& x) {
              return max(x.reshape({2, 2, 2}), {0, 2});
            },
            {2, 1, 5, 5, 2, 0, 5, 5}) == std::vector<double>{0.5, 0, 0.25, 0.25, 0.5, 0, 0.25, 0.25});
  CHECK(slopes([](const Tensor& x) { return pow(x, 0); }, {0, 2}) == std::vector<double>{0, 0});
  CHECK(slopes([](const Tensor& x) { return pow(x, 1); }, {0, 2, NaN}) == std::vector<double>{1, 1, 1});
  CHECK(slopes([](const Tensor& x) { return sqrt(x); }, {0, 4}) == std::vector<double>{inf, 0.25});

  CHECK(slopes([](const Tensor& x) { return relu(x); }, {NaN}) == std::vector<double>{0});
  CHECK(slopes([](const Tensor& x) { return clamp(x, -1, 1); }, {NaN}) == std::vector<double>{1});
  CHECK(slopes([](const Tensor& x) { return pow(x, 0); }, {NaN}) == std::vector<double>{0});
  CHECK(slopes([](const Tensor& x) { return maximum(x, here::zeros({1}, x.options())); }, {NaN}) ==
        std::vector<double>{0});
  CHECK(slopes([](const Tensor& x) { return minimum(here::full({2}, NaN, x.options()), x); }, {1, NaN}) ==
        std::vector<double>{0, 0});
  const std::vector<double> of_max = slopes([](const Tensor& x) { return max(x); }, {1, NaN, 2});
  CHECK((of_max[0] == 0 && std::isnan(of_max[1]) && of_max[2] == 0));
  using Op = Tensor (*)(const Tensor&);
  for (const Op op : std::vector<Op>{
           [](const Tensor& x) { return abs(x); }, [](const Tensor& x) { return exp(x); },
           [](const Tensor& x) { return log(x); }, [](const Tensor& x) { return sqrt(x); },
           [](const Tensor& x) { return pow(x, 2); }, [](const Tensor& x) { return tanh(x); },
           [](const Tensor& x) { return sigmoid(x); }, [](const Tensor& x) { return gelu(x); },
           [](const Tensor& x) { return silu(x); }, [](const Tensor& x) { return gelu(x, Gelu::tanh); }})
    CHECK(std::isnan(slopes(op, {NaN})[0]));
}

TEST_CASE("pow at the edges is C's, also where roots differ", "[ops]") {
  const auto check = [](double exponent, double x, double value, double slope) {
    CAPTURE(exponent, x);
    const Tensor leaf = here::full({}, x, {.dtype = DType::f64}).requires_grad(true);
    Tape tape;
    const Tensor y = pow(leaf, exponent);
    tape.backward(y);
    const double got[] = {y.item<double>(), leaf.grad().item<double>()}, expected[] = {value, slope};
    for (int i = 0; i < 2; ++i) {
      CHECK(got[i] == expected[i]);
      CHECK(std::signbit(got[i]) == std::signbit(expected[i]));
    }
  };
  check(0.5, -inf, inf, 0.0);
  check(0.5, -0.0, 0.0, inf);
  check(-0.5, -inf, 0.0, -0.0);
  check(-0.5, -0.0, inf, -inf);
  check(-0.5, 0.0, inf, -inf);
  check(0, NaN, 1, 0);
}

TEST_CASE("dropout zeroes a share p, scales the rest and repeats its mask in backward", "[ops]") {
  const int64_t n = 40000;
  const double p = 0.3;
  const Tensor x = here::ones({n}).requires_grad(true);
  Generator generator(3);
  Tape tape;
  const Tensor y = dropout(x, p, generator), z = dropout(x, p, generator);
  tape.backward(y, here::ones({n}));
  const std::vector<double> v = values(y);
  int64_t zeros = 0;
  for (double value : v) {
    zeros += value == 0;
    if (value != 0) CHECK(value == Approx(1 / (1 - p)));
  }
  CHECK(double(zeros) == Approx(double(n) * p).margin(5 * std::sqrt(double(n) * p * (1 - p))));
  CHECK(same_bits(x.grad(), y.detach()));
  CHECK_FALSE(same_bits(y.detach(), z.detach()));
  CHECK(generator.state().next == 2);
  CHECK(values(dropout(x, 0)) == values(x));
}

TEST_CASE("reductions over any axes agree with plain loops", "[ops]") {
  const std::vector<Shape> shapes = {{2, 3, 4}, {1, 5, 1}, {5, 1, 70}, {3, 130, 1}, {2, 1, 33}};
  for (const Shape& shape : shapes) {
    const Tensor x = randn(shape, 5);
    for (int bits = 0; bits < 8; ++bits) {
      // Each kept element's members.
      Index kept = {shape[0], shape[1], shape[2]}, left;
      for (int axis = 0; axis < 3; ++axis) {
        if (bits >> axis & 1) {
          kept[size_t(axis)] = 1;
        } else {
          left.push_back(shape[axis]);
        }
      }
      const Shape kept_shape{std::span<const int64_t>(kept)}, left_shape{std::span<const int64_t>(left)};
      const auto over = [&](auto&& f) {
        return make(kept_shape, [&](const Index& at_kept) {
          std::vector<double> members;
          for_each_index(shape, [&](const Index& i) {
            bool mine = true;
            for (int axis = 0; axis < 3; ++axis) {
              mine = mine && (bits >> axis & 1 || i[size_t(axis)] == at_kept[size_t(axis)]);
            }
            if (mine) members.push_back(at(x, i));
          });
          return f(members);
        });
      };
      const auto total = [](const std::vector<double>& m) {
        return std::accumulate(m.begin(), m.end(), 0.0);
      };
      const auto average = [&](const std::vector<double>& m) { return total(m) / double(m.size()); };
      const auto spread = [&](const std::vector<double>& m) {
        double s = 0;
        for (double v : m) s += (v - average(m)) * (v - average(m));
        return s / double(m.size());
      };
      const auto top = [](const std::vector<double>& m) { return *std::max_element(m.begin(), m.end()); };
      CAPTURE(shape, bits);
      const auto check = [&](auto&& axes) {
        CHECK(distance(sum(x, axes, true), over(total)) < 1e-13);
        CHECK(distance(sum(x, axes), over(total).reshape(left_shape)) < 1e-13);
        CHECK(distance(mean(x, axes), over(average).reshape(left_shape)) < 1e-13);
        CHECK(distance(var(x, axes, true, 0), over(spread)) < 1e-13);
        CHECK(distance(max(x, axes), over(top).reshape(left_shape)) == 0);
        CHECK(distance(max(x, axes, true), over(top)) == 0);
      };
      std::vector<int> axes;  // from the last to the first, every other one counted from the end
      for (int axis = 2; axis >= 0; --axis) {
        if (bits >> axis & 1) axes.push_back(axes.size() % 2 ? axis - 3 : axis);
      }
      check(axes);
    }
    CHECK(distance(sum(x, {1, -1}, true), sum(x, std::vector<int>{1, 2}, true)) == 0);
    CHECK(distance(sum(x), sum(x, {0, 1, 2})) == 0);
    const Axes first = {0}, others = std::vector<int>{1, 2},
               reordered(others);  // copies, which outlive the lists
    CHECK(distance(sum(sum(x, others), first), sum(x)) <= 1e-6 * (1 + std::abs(sum(x).item<double>())));
    CHECK(distance(sum(x, reordered), sum(x, {1, 2})) == 0);
    CHECK(distance(mean(x), mean(x, {0, 1, 2})) == 0);
    CHECK(distance(max(x), max(x, {0, 1, 2})) == 0);
    CHECK(var(x).item<double>() ==
          Approx(var(x, {0, 1, 2}, false, 0).item<double>() * double(x.numel()) / double(x.numel() - 1)));
  }
}

TEST_CASE("reductions of nothing, of one element and of NaN", "[ops]") {
  const TensorOptions f64{.dtype = DType::f64};
  CHECK(sum(here::zeros({0}, f64)).item<double>() == 0);
  CHECK(values(sum(here::zeros({0, 2}, f64), {0})) == std::vector<double>{0, 0});
  CHECK(sum(here::zeros({0, 2}, f64), {1}).shape() == Shape{0});
  CHECK(std::isnan(mean(here::zeros({0}, f64)).item<double>()));
  CHECK(max(here::zeros({0, 2}, f64), {1}).shape() == Shape{0});
  CHECK(sum(here::full({}, 3, f64)).item<double>() == 3);
  CHECK(max(here::full({}, 3, f64)).item<double>() == 3);
  CHECK(var(here::full({1}, 3, f64), {0}, false, 0).item<double>() == 0);
  CHECK(std::isnan(var(here::full({1}, 3, f64)).item<double>()));
  const Tensor x = here::from({1.0, NaN, -inf, 5.0, 2.0, -inf}, {2, 3});
  CHECK(std::isnan(max(x).item<double>()));
  const std::vector<double> rows = values(max(x, {1}));
  CHECK((std::isnan(rows[0]) && rows[1] == 5));
  CHECK(max(here::full({3}, -inf, f64)).item<double>() == -inf);
  // A sum has no reason to be the input's own memory.
  const Tensor one = here::full({1, 1}, 4, f64), total = sum(one, {0});
  CHECK_FALSE(total.is(one));
  CHECK_FALSE(sum(one, std::initializer_list<int>{}).is(one));
}

TEST_CASE("a sum of many f32 numbers does not drift", "[ops]") {
  const Tensor x = here::full({1 << 22}, 0.1f);
  CHECK(sum(x).item<double>() == Approx(double(0.1f) * (1 << 22)).epsilon(1e-6));
}

TEST_CASE("argmax gives the first of the largest along the last axis", "[ops]") {
  const Tensor x = here::from({1.f, 3.f, 3.f, -1.f, -1.f, -2.f, 0.f, 0.f, 7.f}, {3, 3});
  const Tensor at_max = argmax(x);
  CHECK(at_max.dtype() == DType::i64);
  CHECK(values(at_max) == std::vector<double>{1, 0, 2});
  CHECK(argmax(here::ones({4})).shape() == Shape{});
  CHECK(argmax(here::ones({0, 2})).shape() == Shape{0});
}

TEST_CASE("ops take tensors without elements, forward and backward", "[ops]") {
  using Op = Tensor (*)(const Tensor&);
  const std::vector<Op> ops = {
      [](const Tensor& x) { return neg(x); },
      [](const Tensor& x) { return abs(exp(log(sqrt(pow(x, 2))))); },
      [](const Tensor& x) { return tanh(sigmoid(relu(gelu(silu(clamp(x, 0, 1)))))); },
      [](const Tensor& x) { return dropout(x, 0.5); },
      [](const Tensor& x) { return 2.0 * x + x * x / (x - 1.0); },
      [](const Tensor& x) { return maximum(x, where(greater(x, x), x, x)); },
      [](const Tensor& x) { return sum(x); },
      [](const Tensor& x) { return mean(x, {0}); },
      [](const Tensor& x) { return var(x, {1}); },
      [](const Tensor& x) { return max(x, {1}); },
      [](const Tensor& x) { return softmax(log_softmax(x, 0)); },
      [](const Tensor& x) {
        return layer_norm(rms_norm(x, here::ones({3})), here::ones({3}), here::ones({3}));
      },
      [](const Tensor& x) {
        return linear(x, here::ones({2, 3}), here::ones({2}));
      },
      [](const Tensor& x) { return matmul(x.transpose(), x); },
      [](const Tensor& x) {
        return stack({x, x.clone()}).permute({2, 0, 1}).narrow(1, 0, 1).reshape({0, 3});
      },
      [](const Tensor& x) {
        return index_select(x, 1, here::from({2, 0}, {2}));
      },
      [](const Tensor& x) {
        return expand(x, {4, 0, 3}).to(DType::f64);
      },
      [](const Tensor& x) { return mse_loss(x, x * 2.0); },
      [](const Tensor& x) { return cross_entropy(x, here::zeros({0}, {.dtype = DType::i64})); },
  };
  for (size_t i = 0; i < ops.size(); ++i) {
    CAPTURE(i);
    const Tensor x = here::ones({0, 3}).requires_grad(true);
    Tape tape;
    const Tensor y = ops[i](x);
    tape.backward(y, here::ones(y.shape(), y.options()));
    CHECK(x.grad().shape() == Shape{0, 3});
  }
}
