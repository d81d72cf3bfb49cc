// One row for every differentiable op: its gradient against differences in f64, f32 against f64, use twice, frozen
// inputs. A new op gets a row in `rows` and, for what it refuses, in `errors`.
#include <altgrad/autograd/gradcheck.h>
#include <altgrad/autograd/ops.h>

#include "errors.h"
#include "reference.h"

using namespace altgrad;
using reference::randn;
using reference::spread;

namespace {

using Inputs = std::span<const Tensor>;

struct Row {
  const char* name;
  std::function<Tensor(Inputs)> fn;
  std::vector<Tensor> inputs;  // f64
};

Tensor positive(const Shape& shape) { return exp(randn(shape, 9)); }
const Tensor ids = Tensor::from({2, 0, 2, 1, 2, 4}, {2, 3});
const Tensor mask = Tensor::from<uint8_t>({1, 0, 0, 1}, {1, 4});

const std::vector<Row> rows = {
    {"add", [](Inputs x) { return x[0] + x[1]; }, {randn({3, 4}, 1), randn({3, 4}, 2)}},
    {"add, broadcast", [](Inputs x) { return x[0] + x[1]; }, {randn({2, 1, 4}, 1), randn({3, 1}, 2)}},
    {"sub", [](Inputs x) { return x[0] - x[1]; }, {randn({3, 4}, 1), randn({3, 4}, 2)}},
    {"sub, broadcast", [](Inputs x) { return x[0] - x[1]; }, {randn({4}, 1), randn({3, 1}, 2)}},
    {"mul", [](Inputs x) { return x[0] * x[1]; }, {randn({3, 4}, 1), randn({3, 4}, 2)}},
    {"mul, broadcast", [](Inputs x) { return x[0] * x[1]; }, {randn({2, 3, 4}, 1), randn({3, 1}, 2)}},
    {"mul, by itself", [](Inputs x) { return x[0] * x[0]; }, {randn({3, 4})}},
    {"div", [](Inputs x) { return x[0] / x[1]; }, {randn({3, 4}, 1), positive({3, 4})}},
    {"div, broadcast", [](Inputs x) { return x[0] / x[1]; }, {randn({}, 1), positive({3, 4})}},
    {"maximum", [](Inputs x) { return maximum(x[0], x[1]); }, {spread({3, 4}, 1), spread({3, 4}, 2) + 0.05}},
    {"minimum, broadcast", [](Inputs x) { return minimum(x[0], x[1]); }, {spread({3, 4}, 1), spread({4}, 2) + 0.05}},
    {"scalars on both sides", [](Inputs x) { return 3.0 / (2.0 - (1.0 + x[0] * 0.1 - 0.5) / 2.0) + 2.0 * x[0]; },
     {randn({3, 4})}},
    {"where", [](Inputs x) { return where(mask, x[0], x[1]); }, {randn({3, 4}, 1), randn({3, 1}, 2)}},
    {"expand", [](Inputs x) { return expand(x[0], {2, 3, 4}); }, {randn({3, 1})}},

    {"neg", [](Inputs x) { return -x[0]; }, {randn({3, 4})}},
    {"abs", [](Inputs x) { return abs(x[0]); }, {spread({3, 4})}},
    {"exp", [](Inputs x) { return exp(x[0]); }, {randn({3, 4})}},
    {"log", [](Inputs x) { return log(x[0]); }, {positive({3, 4})}},
    {"sqrt", [](Inputs x) { return sqrt(x[0]); }, {positive({3, 4})}},
    {"pow 3", [](Inputs x) { return pow(x[0], 3); }, {randn({3, 4})}},
    {"pow -0.5", [](Inputs x) { return pow(x[0], -0.5); }, {positive({3, 4})}},
    {"tanh", [](Inputs x) { return tanh(x[0]); }, {randn({3, 4})}},
    {"sigmoid", [](Inputs x) { return sigmoid(x[0]); }, {randn({3, 4})}},
    {"relu", [](Inputs x) { return relu(x[0]); }, {spread({3, 4})}},
    {"gelu", [](Inputs x) { return gelu(x[0]); }, {spread({3, 20})}},
    {"gelu, tanh form", [](Inputs x) { return gelu(x[0], Gelu::tanh); }, {spread({3, 20})}},
    {"silu", [](Inputs x) { return silu(x[0]); }, {spread({3, 20})}},
    {"clamp", [](Inputs x) { return clamp(x[0], -0.4, 0.3); }, {spread({3, 4})}},
    {"dropout",
     [](Inputs x) {
       Generator generator(7);
       return dropout(x[0], 0.4, generator);
     },
     {randn({5, 7})}},

    {"sum", [](Inputs x) { return sum(x[0]); }, {randn({3, 4})}},
    {"sum over an axis", [](Inputs x) { return sum(x[0], {1}); }, {randn({2, 3, 4})}},
    {"sum over two axes apart, kept", [](Inputs x) { return sum(x[0], {0, -1}, true); }, {randn({2, 3, 4})}},
    {"mean", [](Inputs x) { return mean(x[0]); }, {randn({3, 4})}},
    {"mean over the last axis", [](Inputs x) { return mean(x[0], {-1}); }, {randn({2, 3, 4})}},
    {"max", [](Inputs x) { return max(x[0]); }, {spread({3, 4})}},
    {"max over an axis, kept", [](Inputs x) { return max(x[0], {1}, true); }, {spread({2, 3, 4})}},
    {"max over two axes apart", [](Inputs x) { return max(x[0], {0, 2}); }, {spread({2, 3, 4})}},
    {"var", [](Inputs x) { return var(x[0]); }, {randn({3, 4})}},
    {"var over axes, of the population", [](Inputs x) { return var(x[0], {0, 2}, true, 0); }, {randn({2, 3, 4})}},

    {"reshape", [](Inputs x) { return x[0].reshape({4, -1}); }, {randn({2, 6})}},
    {"narrow", [](Inputs x) { return x[0].narrow(1, 1, 2); }, {randn({2, 4, 3})}},
    {"transpose", [](Inputs x) { return x[0].transpose(0, 2); }, {randn({2, 3, 4})}},
    {"permute", [](Inputs x) { return x[0].permute({2, 0, 3, 1}); }, {randn({2, 3, 4, 2})}},
    {"clone", [](Inputs x) { return x[0].clone(); }, {randn({3, 4})}},
    {"cat", [](Inputs x) { return cat(x, 1); }, {randn({2, 1, 3}, 1), randn({2, 4, 3}, 2), randn({2, 0, 3}, 3)}},
    {"cat of one twice", [](Inputs x) { return cat({x[0], x[0]}, 0); }, {randn({2, 3})}},
    {"stack", [](Inputs x) { return stack(x, -1); }, {randn({2, 3}, 1), randn({2, 3}, 2)}},
    {"index_select", [](Inputs x) { return index_select(x[0], 1, ids.reshape({6})); }, {randn({2, 5, 3})}},

    {"matmul", [](Inputs x) { return matmul(x[0], x[1]); }, {randn({3, 4}, 1), randn({4, 5}, 2)}},
    {"matmul, vectors", [](Inputs x) { return matmul(x[0], x[1]); }, {randn({4}, 1), randn({4}, 2)}},
    {"matmul, vector on the left", [](Inputs x) { return matmul(x[0], x[1]); }, {randn({4}, 1), randn({2, 4, 3}, 2)}},
    {"matmul, vector on the right", [](Inputs x) { return matmul(x[0], x[1]); }, {randn({2, 3, 4}, 1), randn({4}, 2)}},
    {"matmul, batch", [](Inputs x) { return matmul(x[0], x[1]); }, {randn({2, 3, 4}, 1), randn({2, 4, 5}, 2)}},
    {"matmul, batch by one", [](Inputs x) { return matmul(x[0], x[1]); }, {randn({2, 3, 4}, 1), randn({4, 5}, 2)}},
    {"matmul, one by batch", [](Inputs x) { return matmul(x[0], x[1]); }, {randn({3, 4}, 1), randn({2, 4, 5}, 2)}},
    {"matmul, batches broadcast", [](Inputs x) { return matmul(x[0], x[1]); },
     {randn({2, 1, 3, 4}, 1), randn({3, 4, 2}, 2)}},
    {"linear", [](Inputs x) { return linear(x[0], x[1], x[2]); }, {randn({2, 3, 4}, 1), randn({5, 4}, 2), randn({5}, 3)}},
    {"linear, no bias", [](Inputs x) { return linear(x[0], x[1]); }, {randn({4}, 1), randn({5, 4}, 2)}},
    {"causal_attention", [](Inputs x) { return causal_attention(x[0], 2); }, {randn({2, 5, 18})}},
    {"causal_attention over several tiles", [](Inputs x) { return causal_attention(x[0], 1); }, {randn({1, 70, 6})}},

    {"softmax", [](Inputs x) { return softmax(x[0]); }, {randn({3, 4})}},
    {"softmax over the first axis", [](Inputs x) { return softmax(x[0], 0); }, {randn({3, 2, 2})}},
    {"log_softmax", [](Inputs x) { return log_softmax(x[0]); }, {randn({3, 4})}},
    {"log_softmax over a middle axis", [](Inputs x) { return log_softmax(x[0], 1); }, {randn({2, 3, 2})}},
    {"layer_norm", [](Inputs x) { return layer_norm(x[0], x[1], x[2]); },
     {randn({2, 3, 5}, 1), randn({5}, 2), randn({5}, 3)}},
    {"layer_norm, no bias", [](Inputs x) { return layer_norm(x[0], x[1], {}, 0.1); }, {randn({3, 5}, 1), randn({5}, 2)}},
    {"rms_norm", [](Inputs x) { return rms_norm(x[0], x[1]); }, {randn({2, 3, 5}, 1), randn({5}, 2)}},

    {"embedding", [](Inputs x) { return embedding(ids, x[0]); }, {randn({5, 3})}},
    {"cross_entropy", [](Inputs x) { return cross_entropy(x[0], ids); }, {randn({2, 3, 5})}},
    {"cross_entropy, ignoring", [](Inputs x) { return cross_entropy(x[0], ids, 2); }, {randn({2, 3, 5})}},
    {"mse_loss", [](Inputs x) { return mse_loss(x[0], x[1]); }, {randn({3, 4}, 1), randn({3, 4}, 2)}},
    {"checkpoint", [](Inputs x) { return checkpoint([](const Tensor& t) { return tanh(t * t); }, x[0]); },
     {randn({3, 4})}},
};

struct Result {
  Tensor y;
  std::vector<Tensor> grads;  // undefined where there is none
};

// The value and gradients of fn, the result contracted with a fixed cotangent; input `frozen` requires no gradient.
Result run(const std::function<Tensor(Inputs)>& fn, const std::vector<Tensor>& inputs, DType dtype, int frozen = -1) {
  std::vector<Tensor> x;
  for (const Tensor& input : inputs) x.push_back(input.to(dtype).clone());
  for (int i = 0; i < int(x.size()); ++i) x[size_t(i)].requires_grad(i != frozen);
  Result result;
  Tape tape;
  result.y = fn(x);
  if (tape.num_ops() > 0) tape.backward(result.y, randn(result.y.shape(), 77).to(dtype));
  for (const Tensor& t : x) result.grads.push_back(t.has_grad() ? t.grad() : Tensor());
  return result;
}

}  // namespace

TEST_CASE("every op has the right gradient", "[ops][gradcheck]") {
  for (const Row& row : rows) {
    CAPTURE(row.name);
    const GradcheckResult check = gradcheck(row.fn, row.inputs);
    INFO(check.message);
    CHECK(check.ok);
  }
}

TEST_CASE("every op gives in f32 what it gives in f64", "[ops]") {
  for (const Row& row : rows) {
    CAPTURE(row.name);
    std::vector<Tensor> rounded;  // the same numbers for both
    for (const Tensor& x : row.inputs) rounded.push_back(x.to(DType::f32).to(DType::f64));
    const Result narrow = run(row.fn, rounded, DType::f32), wide = run(row.fn, rounded, DType::f64);
    CHECK(narrow.y.dtype() == DType::f32);
    CHECK(wide.y.dtype() == DType::f64);
    CHECK(reference::distance(narrow.y, wide.y) < 3e-6);
    for (size_t i = 0; i < rounded.size(); ++i) {
      CAPTURE(i);
      CHECK(narrow.grads[i].dtype() == DType::f32);
      CHECK(reference::distance(narrow.grads[i], wide.grads[i]) < 5e-6);
    }
  }
}

TEST_CASE("gradients of every op add up where it is used twice", "[ops]") {
  for (const Row& row : rows) {
    CAPTURE(row.name);
    const Result once = run(row.fn, row.inputs, DType::f64);
    const Result twice = run([&](Inputs x) { return row.fn(x) + row.fn(x); }, row.inputs, DType::f64);
    for (size_t i = 0; i < row.inputs.size(); ++i) {
      CAPTURE(i);
      CHECK(reference::distance(twice.grads[i], once.grads[i] * 2.0) < 1e-14);
    }
  }
}

TEST_CASE("a frozen input gets no gradient, and the others theirs", "[ops]") {
  for (const Row& row : rows) {
    const Result all = run(row.fn, row.inputs, DType::f64);
    for (size_t frozen = 0; frozen < row.inputs.size(); ++frozen) {
      CAPTURE(row.name, frozen);
      const Result some = run(row.fn, row.inputs, DType::f64, int(frozen));
      CHECK(reference::same_bits(some.y, all.y));
      for (size_t i = 0; i < row.inputs.size(); ++i) {
        CAPTURE(i);
        CHECK(some.grads[i].defined() == (i != frozen));
        if (i != frozen) CHECK(reference::same_bits(some.grads[i], all.grads[i]));
      }
    }
  }
}

TEST_CASE("one thread and two give every op the same bits", "[ops]") {
  const int before = num_threads();
  for (const Row& row : rows) {
    CAPTURE(row.name);
    set_num_threads(1);
    const Result one = run(row.fn, row.inputs, DType::f32);
    set_num_threads(2);
    const Result two = run(row.fn, row.inputs, DType::f32);
    CHECK(reference::same_bits(one.y, two.y));
    for (size_t i = 0; i < row.inputs.size(); ++i) CHECK(reference::same_bits(one.grads[i], two.grads[i]));
  }
  set_num_threads(before);
}

namespace {

struct Refusal {
  std::function<void()> call;
  std::vector<std::string> parts;  // of the error's text
};

Tensor leaf(const Shape& shape, DType dtype = DType::f32) {
  return Tensor::ones(shape, {.dtype = dtype}).requires_grad(true);
}
Tensor i64(const Shape& shape) { return Tensor::zeros(shape, {.dtype = DType::i64}); }

}  // namespace

TEST_CASE("every op refuses what does not fit, by name and with the shapes, before it records anything", "[ops]") {
  const Tensor a = leaf({2, 3}), b = leaf({4}), d = leaf({2, 3}, DType::f64), n = i64({2, 3});
  const Tensor w = leaf({5, 3}), too_high = Tensor::from({0, 1, 5, 2}, {2, 2}), negative = Tensor::from({0, -1}, {2});
  const std::vector<Refusal> errors = {
      {[&] { add(a, b); }, {"add: shapes (2, 3) and (4) do not broadcast", "3 vs 4"}},
      {[&] { sub(a, b); }, {"sub: ", "(2, 3)", "(4)"}},
      {[&] { mul(b, a); }, {"mul: shapes (4) and (2, 3) do not broadcast", "4 vs 3"}},
      {[&] { div(a, leaf({3, 3})); }, {"div: ", "(2, 3)", "(3, 3)", "2 vs 3"}},
      {[&] { maximum(a, b); }, {"maximum: ", "(2, 3)", "(4)"}},
      {[&] { minimum(a, b); }, {"minimum: ", "(2, 3)", "(4)"}},
      {[&] { add(a, d); }, {"add: dtypes differ: f32 (2, 3) and f64 (2, 3)"}},
      {[&] { mul(a, n); }, {"mul: dtypes differ: f32 (2, 3) and i64 (2, 3)"}},
      {[&] { add(n, n); }, {"add: needs a floating dtype, got i64", "(2, 3)"}},
      {[&] { greater(a, b); }, {"greater: ", "(2, 3)", "(4)"}},
      {[&] { equal(a, d); }, {"equal: ", "f32", "f64"}},
      {[&] { where(a, a, a); }, {"where: condition must be u8, got f32", "(2, 3)"}},
      {[&] { where(greater(a, a), a, b); }, {"where: ", "(2, 3)", "(4)"}},
      {[&] { where(greater(b, b), a, a); }, {"where: ", "(4)", "(2, 3)"}},
      {[&] { where(greater(a, a), a, d); }, {"where: ", "f32", "f64"}},
      {[&] { expand(a, {3, 3}); }, {"expand: ", "(2, 3)", "(3, 3)"}},
      {[&] { expand(a, {3}); }, {"expand: ", "(2, 3)", "(3)"}},

      {[&] { neg(n); }, {"neg: ", "i64", "(2, 3)"}},
      {[&] { abs(n); }, {"abs: ", "i64", "(2, 3)"}},
      {[&] { exp(n); }, {"exp: ", "i64", "(2, 3)"}},
      {[&] { log(n); }, {"log: ", "i64", "(2, 3)"}},
      {[&] { sqrt(n); }, {"sqrt: ", "i64", "(2, 3)"}},
      {[&] { pow(n, 2); }, {"pow: ", "i64", "(2, 3)"}},
      {[&] { tanh(n); }, {"tanh: ", "i64", "(2, 3)"}},
      {[&] { sigmoid(n); }, {"sigmoid: ", "i64", "(2, 3)"}},
      {[&] { relu(n); }, {"relu: ", "i64", "(2, 3)"}},
      {[&] { gelu(n); }, {"gelu: ", "i64", "(2, 3)"}},
      {[&] { gelu(n, Gelu::tanh); }, {"gelu: ", "i64", "(2, 3)"}},
      {[&] { silu(n); }, {"silu: ", "i64", "(2, 3)"}},
      {[&] { clamp(n, 0, 1); }, {"clamp: ", "i64", "(2, 3)"}},
      {[&] { clamp(a, 1, 0); }, {"clamp: ", "low 1", "high 0", "(2, 3)"}},
      {[&] { clamp(a, NAN, 0); }, {"clamp: ", "nan", "(2, 3)"}},
      {[&] { dropout(n, 0.5); }, {"dropout: ", "i64", "(2, 3)"}},
      {[&] { dropout(a, 1); }, {"dropout: p must be in [0, 1), got 1", "(2, 3)"}},
      {[&] { dropout(a, -0.1); }, {"dropout: ", "-0.1"}},
      {[&] { dropout(a, NAN); }, {"dropout: ", "nan"}},

      {[&] { sum(n); }, {"sum: ", "i64", "(2, 3)"}},
      {[&] { sum(a, {2}); }, {"sum: axis 2 is out of range for shape (2, 3)"}},
      {[&] { sum(a, {1, -1}); }, {"sum: axis -1 is given twice for shape (2, 3)"}},
      {[&] { mean(n, {0}); }, {"mean: ", "i64", "(2, 3)"}},
      {[&] { mean(a, {-3}); }, {"mean: axis -3", "(2, 3)"}},
      {[&] { var(a, {0, 0}); }, {"var: axis 0 is given twice", "(2, 3)"}},
      {[&] { var(n); }, {"var: ", "i64", "(2, 3)"}},
      {[&] { max(a, {5}); }, {"max: axis 5", "(2, 3)"}},
      {[&] { max(leaf({2, 0}), {1}); }, {"max: over no elements", "(2, 0)"}},
      {[&] { max(leaf({0})); }, {"max: over no elements", "(0)"}},
      {[&] { argmax(leaf({2, 0})); }, {"argmax: ", "(2, 0)"}},
      {[&] { argmax(leaf({})); }, {"argmax: ", "()"}},

      {[&] { a.reshape({4}); }, {"reshape: (2, 3) does not fill shape (4)"}},
      {[&] { a.reshape({4, -1}); }, {"reshape: (2, 3)", "axis 1"}},
      {[&] { a.reshape({-1, -1}); }, {"-1"}},
      {[&] { leaf({0, 2}).reshape({0, -1}); }, {"reshape: (0, 2)", "axis 1"}},
      {[&] { a.narrow(1, 2, 2); }, {"narrow: [2, 2 + 2) is outside axis 1 of shape (2, 3)"}},
      {[&] { a.narrow(0, -1, 1); }, {"narrow: ", "(2, 3)"}},
      {[&] { a.narrow(0, 0, -1); }, {"narrow: ", "(2, 3)"}},
      {[&] { a.narrow(0, INT64_MAX, 1); }, {"narrow: ", "(2, 3)"}},
      {[&] { a.narrow(2, 0, 1); }, {"narrow: axis 2", "(2, 3)"}},
      {[&] { b.transpose(); }, {"transpose: axis -2", "(4)"}},
      {[&] { a.permute({0, 0}); }, {"permute: axis 0 is given twice", "(2, 3)"}},
      {[&] { a.permute({0}); }, {"permute: 1 axes", "(2, 3)"}},
      {[&] { a.permute({0, 2}); }, {"permute: axis 2", "(2, 3)"}},
      {[&] { cat({}, 0); }, {"cat: "}},
      {[&] { cat({a, b}); }, {"cat: ", "(2, 3)", "(4)"}},
      {[&] { cat({a, leaf({3, 3})}, 1); }, {"cat: ", "(2, 3)", "(3, 3)", "axis 1"}},
      {[&] { cat({a, d}); }, {"cat: ", "f32", "f64"}},
      {[&] { cat({a, a}, 2); }, {"cat: axis 2", "(2, 3)"}},
      {[&] { stack({a, b}); }, {"stack: ", "(2, 3)", "(4)"}},
      {[&] { stack({a, a}, 3); }, {"stack: axis 3", "(2, 3)"}},
      {[&] { stack({}, 0); }, {"stack: "}},
      {[&] { index_select(a, 1, negative); }, {"index_select: id -1 at (1) of ids (2) is outside [0, 3)"}},
      {[&] { index_select(a, 2, negative); }, {"index_select: axis 2", "(2, 3)"}},
      {[&] { index_select(a, 0, n); }, {"index_select: ", "one axis", "(2, 3)"}},
      {[&] { index_select(leaf({0, 3}), 0, i64({2})); }, {"index_select: id 0 at (0)", "[0, 0)"}},

      {[&] { matmul(a, leaf({4, 5})); }, {"matmul: (2, 3) and (4, 5) do not match: 3 vs 4"}},
      {[&] { matmul(a, b); }, {"matmul: (2, 3) and (4) do not match: 3 vs 4"}},
      {[&] { matmul(leaf({2, 2, 3}), leaf({3, 3, 2})); }, {"matmul: ", "(2)", "(3)"}},
      {[&] { matmul(a, leaf({})); }, {"matmul: ", "(2, 3)", "()"}},
      {[&] { matmul(a, d); }, {"matmul: ", "f32", "f64"}},
      {[&] { matmul(n, n); }, {"matmul: ", "i64"}},
      {[&] { linear(leaf({8, 32}), leaf({64, 48})); },
       {"linear: x (8, 32) does not match weight (64, 48): in_features 32 vs 48"}},
      {[&] { linear(a, w, b); }, {"linear: bias (4) does not match weight (5, 3)"}},
      {[&] { linear(a, b); }, {"linear: weight (4) needs two axes"}},
      {[&] { linear(leaf({}), w); }, {"linear: x ()"}},
      {[&] { linear(d, w); }, {"linear: dtypes differ: f64 (2, 3) and f32 (5, 3)"}},
      {[&] { linear(a, w, leaf({5}, DType::f64)); }, {"linear: dtypes differ", "f64 (5)"}},
      {[&] { causal_attention(a, 1); }, {"causal_attention: qkv (2, 3)"}},
      {[&] { causal_attention(leaf({1, 2, 12}), 3); }, {"causal_attention: qkv (1, 2, 12)", "3 heads"}},
      {[&] { causal_attention(leaf({1, 2, 12}), 0); }, {"causal_attention: qkv (1, 2, 12)", "0 heads"}},
      {[&] { causal_attention(i64({1, 2, 12}), 1); }, {"causal_attention: ", "i64"}},

      {[&] { softmax(a, 2); }, {"softmax: axis 2", "(2, 3)"}},
      {[&] { softmax(n); }, {"softmax: ", "i64"}},
      {[&] { log_softmax(leaf({})); }, {"log_softmax: axis -1", "()"}},
      {[&] { layer_norm(a, b); }, {"layer_norm: weight (4) does not match the last axis of x (2, 3)"}},
      {[&] { layer_norm(a, leaf({3}), b); }, {"layer_norm: bias (4)", "(2, 3)"}},
      {[&] { layer_norm(leaf({}), b); }, {"layer_norm: x ()"}},
      {[&] { rms_norm(a, b); }, {"rms_norm: weight (4)", "(2, 3)"}},
      {[&] { rms_norm(a, leaf({3}, DType::f64)); }, {"rms_norm: ", "f32", "f64"}},

      {[&] { embedding(too_high, w); }, {"embedding: id 5 at (1, 0) of ids (2, 2) is outside [0, 5)"}},
      {[&] { embedding(negative, w); }, {"embedding: id -1 at (1) of ids (2) is outside [0, 5)"}},
      {[&] { embedding(a, w); }, {"embedding: ids must be i64, got f32", "(2, 3)"}},
      {[&] { embedding(too_high, b); }, {"embedding: weight (4) needs two axes"}},
      {[&] { embedding(i64({1}), leaf({0, 3})); }, {"embedding: id 0", "[0, 0)"}},
      {[&] { cross_entropy(leaf({2, 2, 5}), too_high); }, {"cross_entropy: id 5 at (1, 0)", "(2, 2)", "[0, 5)"}},
      {[&] { cross_entropy(leaf({2, 5}), negative); }, {"cross_entropy: id -1 at (1)"}},
      {[&] { cross_entropy(a, n); }, {"cross_entropy: targets (2, 3)", "logits (2, 3)"}},
      {[&] { cross_entropy(a, leaf({2})); }, {"cross_entropy: ids must be i64, got f32"}},
      {[&] { cross_entropy(i64({2, 3}), i64({2})); }, {"cross_entropy: ", "i64"}},
      {[&] { mse_loss(a, b); }, {"mse_loss: x (2, 3) and target (4) differ"}},
      {[&] { mse_loss(a, d); }, {"mse_loss: ", "f32", "f64"}},
      {[&] { checkpoint(nullptr, a); }, {"checkpoint: ", "(2, 3)"}},
      {[&] { add(a, Tensor()); }, {"empty"}},
  };
  for (size_t i = 0; i < errors.size(); ++i) {
    CAPTURE(i, errors[i].parts.front());
    Tape tape;
    for (const std::string& part : errors[i].parts) CHECK(throws(errors[i].call, {part}));
    CHECK(tape.num_ops() == 0);
    const Tensor y = sum(a * 2.0);  // the tape is as good as before
    CHECK_NOTHROW(tape.backward(y));
  }
}
