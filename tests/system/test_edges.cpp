// Every public function of tensors where it meets nothing or too much: shapes with a 0 in them, whose other sizes may be
// as large as sizes get. Each call ends at once, with a result of the right shape or a clear error. The sanitizers watch
// for what overflows on the way.
#include <altgrad/autograd/ops.h>
#include <altgrad/fp8/quantized_linear.h>

#include <climits>
#include <functional>
#include <numeric>
#include <sstream>

#include "errors.h"
#include "reference.h"

using namespace altgrad;

// Asking AddressSanitizer for more than there is fails as elsewhere, instead of ending the program.
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }

namespace {

constexpr int64_t most = int64_t(1) << 58;  // the largest power of two that a size may be
constexpr int64_t addressable = int64_t(1) << 46, small = 1 << 16;

using Fn = std::function<Tensor(const Tensor&)>;
struct Case {
  std::string name;
  Fn fn;
  int64_t result = 0;  // elements of the result
};

Tensor ones(const Shape& shape, DType dtype = DType::f32) { return here::ones(shape, {.dtype = dtype}); }
Tensor ids(const Shape& shape) { return here::zeros(shape, {.dtype = DType::i64}); }

// What takes a tensor of any shape.
const std::vector<Case> any_shape = {
    {"add", [](const Tensor& x) { return x + x; }},
    {"sub, broadcast",
     [](const Tensor& x) {
       return x - ones({1, 1});
     }},
    {"mul", [](const Tensor& x) { return x * x; }},
    {"div, scalar", [](const Tensor& x) { return 2.0 / x - x / 3.0; }},
    {"maximum", [](const Tensor& x) { return maximum(x, 1.0 - x); }},
    {"minimum", [](const Tensor& x) { return minimum(ones({}), x); }},
    {"where", [](const Tensor& x) { return where(greater(x, ones({})), x, ones({})); }},
    {"equal", [](const Tensor& x) { return equal(x, x).to(DType::f32) * x; }},
    {"expand", [](const Tensor& x) { return expand(x, x.shape().inserted(0, 1)); }},
    {"neg", [](const Tensor& x) { return -x; }},
    {"abs", [](const Tensor& x) { return abs(x); }},
    {"exp", [](const Tensor& x) { return exp(x); }},
    {"log", [](const Tensor& x) { return log(x); }},
    {"sqrt", [](const Tensor& x) { return sqrt(x); }},
    {"pow", [](const Tensor& x) { return pow(x, 1.5); }},
    {"tanh", [](const Tensor& x) { return tanh(x); }},
    {"sigmoid", [](const Tensor& x) { return sigmoid(x); }},
    {"relu", [](const Tensor& x) { return relu(x); }},
    {"gelu", [](const Tensor& x) { return gelu(x); }},
    {"gelu, tanh form", [](const Tensor& x) { return gelu(x, Gelu::tanh); }},
    {"silu", [](const Tensor& x) { return silu(x); }},
    {"clamp", [](const Tensor& x) { return clamp(x, -1, 1); }},
    {"dropout", [](const Tensor& x) { return dropout(x, 0.5); }},
    {"clone", [](const Tensor& x) { return x.clone(); }},
    {"to", [](const Tensor& x) { return x.to(DType::f64); }},
    {"reshape",
     [](const Tensor& x) {
       return x.reshape(Shape{most, 0});
     }},
    {"mse_loss", [](const Tensor& x) { return mse_loss(x, 2.0 * x); }},
    {"sum", [](const Tensor& x) { return sum(x); }},
    {"mean", [](const Tensor& x) { return mean(x); }},
    {"var", [](const Tensor& x) { return var(x); }},
    {"checkpoint", [](const Tensor& x) { return checkpoint([](const Tensor& t) { return tanh(t); }, x); }},
    {"quantize", [](const Tensor& x) { return fp8::quantize(x, fp8::E4M3, 1); }},
    {"quantize, stochastic, clipped",
     [](const Tensor& x) {
       return fp8::quantize(x, fp8::E4M3, 1,
                            {.rounding = fp8::Rounding::stochastic, .ste = fp8::Ste::clipped});
     }},
    {"encode and decode",
     [](const Tensor& x) { return fp8::decode(fp8::encode(x, fp8::E4M3, 1), fp8::E4M3, 1) * x; }},
    {"fill_, copy_",
     [](const Tensor& x) {
       const Tensor y = here::empty(x.shape(), {.dtype = DType::u8});
       y.fill_(1);
       y.copy_(x);
       return x * y.to(DType::f32);
     }},
    {"rand, randn, randint",
     [](const Tensor& x) {
       return x * here::rand(x.shape()) + here::randn(x.shape()) +
              here::randint(INT64_MAX, x.shape()).to(DType::f32);
     }},
};

// What takes an axis, and what needs some number of axes.
std::vector<Case> cases_for(const Shape& shape) {
  std::vector<Case> cases = any_shape;
  const int dim = shape.dim();
  // A shape of `more` such is too large.
  const auto refused = [](const Shape& one, int64_t more) {
    for (const int64_t n : one) more *= std::max<int64_t>(n, 1);
    return more > INT64_MAX / 16 ? addressable : 0;
  };
  cases.push_back({"embedding",
                   [](const Tensor& x) {
                     return embedding(x.to(DType::i64), ones({2, 3})) * sum(x);
                   },
                   refused(shape, 3)});
  for (int axis = 0; axis < dim; ++axis) {
    const int64_t n = shape[axis], rest = shape.erased(axis).numel();
    const auto add = [&](const std::string& name, Fn fn, int64_t result = 0) {
      cases.push_back({name + " over axis " + std::to_string(axis), std::move(fn), result});
    };
    add(
        "sum", [=](const Tensor& x) { return sum(x, {axis}); }, rest);
    add(
        "mean", [=](const Tensor& x) { return mean(x, {axis}, true); }, rest);
    add(
        "var", [=](const Tensor& x) { return var(x, {axis}); }, rest);
    if (rest == 0) add("max", [=](const Tensor& x) { return max(x, {axis}); });
    add("softmax", [=](const Tensor& x) { return softmax(x, axis); });
    add("log_softmax", [=](const Tensor& x) { return log_softmax(x, axis); });
    add("narrow", [=](const Tensor& x) { return x.narrow(axis, n / 2, n - n / 2); });
    add("narrow to none", [=](const Tensor& x) { return x.narrow(axis, n, 0); });
    add("transpose", [=](const Tensor& x) { return x.transpose(axis, 0); });
    add(
        "stack",
        [=](const Tensor& x) {
          return stack({x, x.clone()}, axis);
        },
        refused(shape, 2));
    add("cat", [=](const Tensor& x) { return cat({x, x.narrow(axis, 0, 0)}, axis); });
    add("index_select", [=](const Tensor& x) { return index_select(x, axis, ids({n ? 1 : 0})); });
  }
  if (dim > 0) {
    const int64_t n = shape[dim - 1], rows = shape.erased(-1).numel();
    const auto add = [&](const std::string& name, Fn fn, int64_t result = 0) {
      cases.push_back({name, std::move(fn), result});
    };
    add("permute", [=](const Tensor& x) {
      std::vector<int> axes(dim, 0);
      std::iota(axes.rbegin(), axes.rend(), 0);
      return x.permute(axes);
    });
    if (n > 0)
      add("argmax", [](const Tensor& x) {
        return x.transpose(0, -1).reshape({0, 1}) * sum(argmax(x).to(DType::f32));
      });
    if (n <= small) {
      add("layer_norm", [=](const Tensor& x) { return layer_norm(x, ones({n}), ones({n})); });
      add("rms_norm", [=](const Tensor& x) { return rms_norm(x, ones({n})); });
      add(
          "linear",
          [=](const Tensor& x) {
            return linear(x, ones({3, n}), ones({3}));
          },
          rows ? 3 * rows : refused(shape.erased(-1), 3));
      add("linear to nothing", [=](const Tensor& x) { return linear(x, ones({0, n}), ones({0})); });
      add(
          "matmul",
          [=](const Tensor& x) {
            return matmul(x, ones({n, 2}));
          },
          rows ? 2 * rows : refused(shape.erased(-1), 2));
    }
    if (rows == 0)
      add("cross_entropy", [=](const Tensor& x) { return cross_entropy(x, ids(shape.erased(-1))); });
    if (dim == 3 && n % 3 == 0) {
      for (const int64_t heads : {int64_t(1), int64_t(2), int64_t(4), most, INT64_MAX})
        if (n / 3 % heads == 0)
          add("causal_attention", [=](const Tensor& x) { return causal_attention(x, heads); });
    }
  }
  return cases;
}

const std::vector<Shape> empties = {{0},
                                    {0, 3},
                                    {3, 0},
                                    {most, 0},
                                    {0, most},
                                    {0, 0},
                                    {most / 4, 0, 4},
                                    {int64_t(1) << 30, 0, int64_t(1) << 28},
                                    {int64_t(1) << 50, 0, 12},
                                    {int64_t(1) << 50, 12, 0},
                                    {0, int64_t(1) << 50, 12},
                                    {1, 0, most, 1, 1, 1}};

}  // namespace

TEST_CASE("every op takes every shape with a 0 in it, forward and backward", "[edges]") {
  for (const Shape& shape : empties) {
    for (const Case& c : cases_for(shape)) {
      if (c.result > small && c.result < addressable) continue;  // this machine may have the memory
      CAPTURE(shape, c.name);
      const Tensor x = here::empty(shape).requires_grad(true);
      Tape tape;
      if (c.result >= addressable) {
        CHECK_THROWS_WITH(c.fn(x),
                          ContainsSubstring("out of memory") || ContainsSubstring("too many elements"));
        continue;
      }
      const Tensor y = c.fn(x);
      tape.backward(y, Tensor::ones(y.shape(), y.options()));
      CHECK(x.grad().shape() == shape);
      synchronize(device());  // where a GPU has done it
    }
  }
}

TEST_CASE("products of all empty and huge matrices", "[edges]") {
  struct Pair {
    Shape a, b, c;
  };
  const int64_t large = int64_t(1) << 40;
  for (const auto& [a_shape, b_shape, shape] :
       std::vector<Pair>{{{0, 5}, {5, 0}, {0, 0}},
                         {{3, 0}, {0, 4}, {3, 4}},
                         {{0}, {0}, {}},
                         {{most, 0}, {0, 0}, {most, 0}},
                         {{0, 0}, {0, most}, {0, most}},
                         {{0, most}, {most, 0}, {0, 0}},
                         {{0, most}, {most, 0}, {0, 0}},
                         {{large, 0, 4}, {4, 5}, {large, 0, 5}},
                         {{4, 4}, {large, 4, 0}, {large, 4, 0}},
                         {{0, 4}, {large, 4, 0}, {large, 0, 0}},
                         {{2, 1, 4, 4}, {large, 4, 0}, {2, large, 4, 0}},
                         {{large, 0, 4}, {2, 1, 4, 4}, {2, large, 0, 4}},
                         {{0, 3, 4}, {4, 5}, {0, 3, 5}}}) {
    CAPTURE(a_shape, b_shape);
    const Tensor a = ones(a_shape).requires_grad(true), b = ones(b_shape).requires_grad(true);
    Tape tape;
    const Tensor c = matmul(a, b);
    CHECK(c.shape() == shape);
    tape.backward(c, ones(shape));
    CHECK(same_bits(a.grad(), here::zeros(a_shape)));
    CHECK(same_bits(b.grad(), here::zeros(b_shape)));
    for (const double v : values(c)) CHECK(v == 0);
  }
}

TEST_CASE("broadcasting, embedding and quantized layers without elements", "[edges]") {
  const auto grads_are_zero = [](const std::function<Tensor()>& fn, const std::vector<Tensor>& leaves) {
    for (const Tensor& leaf : leaves) leaf.set_grad({});
    Tape tape;
    const Tensor y = fn();
    tape.backward(y, ones(y.shape()));
    for (const Tensor& leaf : leaves) CHECK(same_bits(leaf.grad(), here::zeros(leaf.shape())));
  };
  const Tensor bias = ones({5}).requires_grad(true), w = ones({4, 3}).requires_grad(true);
  grads_are_zero([&] { return bias * here::empty({most / 8, 0, 5}); }, {bias});
  grads_are_zero([&] { return expand(bias, {most / 8, 0, 5}); }, {bias});
  grads_are_zero([&] { return embedding(here::empty({most / 8, 0}, {.dtype = DType::i64}), w); }, {w});
  grads_are_zero([&] { return linear(here::empty({most / 8, 0, 3}), w); }, {w});
  CHECK(embedding(ids({7}), ones({4, 0})).shape() == Shape{7, 0});

  for (const auto& [rows, in, out] :
       std::vector<std::array<int64_t, 3>>{{0, 3, 4}, {5, 0, 4}, {5, 3, 0}, {0, 0, 0}}) {
    for (const fp8::Rounding rounding : {fp8::Rounding::nearest_even, fp8::Rounding::stochastic}) {
      CAPTURE(rows, in, out);
      const Tensor x = ones({rows, in}).requires_grad(true), wq = ones({out, in}).requires_grad(true),
                   b = ones({out}).requires_grad(true);
      const auto quantizer = [&] {
        return fp8::Quantizer{
            fp8::E4M3, fp8::AmaxHistory(2, device()), fp8::Scaling::window, {.rounding = rounding}};
      };
      fp8::LinearQuantizers quantizers{quantizer(), quantizer(), quantizer()};
      for (int step = 0; step < 2; ++step) {
        Tape tape;
        const Tensor y = fp8::quantized_linear(x, wq, b, quantizers, true);
        CHECK(same_bits(y.detach(), in == 0 ? ones({rows, out}) : here::full({rows, out}, 4)));
        tape.backward(y, ones(y.shape()));
      }
    }
  }
}

TEST_CASE("tensors without elements print, as large as their other sizes may be", "[edges]") {
  for (const Shape& shape : empties) {
    std::ostringstream text;
    text << here::empty(shape);
    CAPTURE(shape);
    CHECK(text.str().size() < 1000);
  }
}
