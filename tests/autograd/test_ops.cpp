// One row for every differentiable op: its gradient against differences in f64, f32 against f64, use twice,
// frozen inputs. A new op gets a row in `rows` and, for what it refuses, in test_op_errors.cpp.
#include <altgrad/autograd/gradcheck.h>
#include <altgrad/autograd/ops.h>

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
Tensor ids() { return here::from({2, 0, 2, 1, 2, 4}, {2, 3}); }
Tensor mask() { return here::from<uint8_t>({1, 0, 0, 1}, {1, 4}); }

// Made when first asked for: before main() a GPU's kernels are not there.
const std::vector<Row>& rows() {
  static const std::vector<Row> rows = {
      {"add", [](Inputs x) { return x[0] + x[1]; }, {randn({3, 4}, 1), randn({3, 4}, 2)}},
      {"add, broadcast", [](Inputs x) { return x[0] + x[1]; }, {randn({2, 1, 4}, 1), randn({3, 1}, 2)}},
      {"sub", [](Inputs x) { return x[0] - x[1]; }, {randn({3, 4}, 1), randn({3, 4}, 2)}},
      {"sub, broadcast", [](Inputs x) { return x[0] - x[1]; }, {randn({4}, 1), randn({3, 1}, 2)}},
      {"mul", [](Inputs x) { return x[0] * x[1]; }, {randn({3, 4}, 1), randn({3, 4}, 2)}},
      {"mul, broadcast", [](Inputs x) { return x[0] * x[1]; }, {randn({2, 3, 4}, 1), randn({3, 1}, 2)}},
      {"mul, by itself", [](Inputs x) { return x[0] * x[0]; }, {randn({3, 4})}},
      {"div", [](Inputs x) { return x[0] / x[1]; }, {randn({3, 4}, 1), positive({3, 4})}},
      {"div, broadcast", [](Inputs x) { return x[0] / x[1]; }, {randn({}, 1), positive({3, 4})}},
      {"maximum",
       [](Inputs x) { return maximum(x[0], x[1]); },
       {spread({3, 4}, 1), spread({3, 4}, 2) + 0.05}},
      {"minimum, broadcast",
       [](Inputs x) { return minimum(x[0], x[1]); },
       {spread({3, 4}, 1), spread({4}, 2) + 0.05}},
      {"scalars on both sides",
       [](Inputs x) { return 3.0 / (2.0 - (1.0 + x[0] * 0.1 - 0.5) / 2.0) + 2.0 * x[0]; },
       {randn({3, 4})}},
      {"where", [](Inputs x) { return where(mask(), x[0], x[1]); }, {randn({3, 4}, 1), randn({3, 1}, 2)}},
      {"expand",
       [](Inputs x) {
         return expand(x[0], {2, 3, 4});
       },
       {randn({3, 1})}},

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
      {"sum over two axes apart, kept",
       [](Inputs x) {
         return sum(x[0], {0, -1}, true);
       },
       {randn({2, 3, 4})}},
      {"mean", [](Inputs x) { return mean(x[0]); }, {randn({3, 4})}},
      {"mean over the last axis", [](Inputs x) { return mean(x[0], {-1}); }, {randn({2, 3, 4})}},
      {"max", [](Inputs x) { return max(x[0]); }, {spread({3, 4})}},
      {"max over an axis, kept", [](Inputs x) { return max(x[0], {1}, true); }, {spread({2, 3, 4})}},
      {"max over two axes apart",
       [](Inputs x) {
         return max(x[0], {0, 2});
       },
       {spread({2, 3, 4})}},
      {"var", [](Inputs x) { return var(x[0]); }, {randn({3, 4})}},
      {"var over axes, of the population",
       [](Inputs x) {
         return var(x[0], {0, 2}, true, 0);
       },
       {randn({2, 3, 4})}},

      {"reshape",
       [](Inputs x) {
         return x[0].reshape({4, -1});
       },
       {randn({2, 6})}},
      {"narrow", [](Inputs x) { return x[0].narrow(1, 1, 2); }, {randn({2, 4, 3})}},
      {"transpose", [](Inputs x) { return x[0].transpose(0, 2); }, {randn({2, 3, 4})}},
      {"permute",
       [](Inputs x) {
         return x[0].permute({2, 0, 3, 1});
       },
       {randn({2, 3, 4, 2})}},
      {"clone", [](Inputs x) { return x[0].clone(); }, {randn({3, 4})}},
      {"cat",
       [](Inputs x) { return cat(x, 1); },
       {randn({2, 1, 3}, 1), randn({2, 4, 3}, 2), randn({2, 0, 3}, 3)}},
      {"cat of one twice",
       [](Inputs x) {
         return cat({x[0], x[0]}, 0);
       },
       {randn({2, 3})}},
      {"stack", [](Inputs x) { return stack(x, -1); }, {randn({2, 3}, 1), randn({2, 3}, 2)}},
      {"index_select",
       [](Inputs x) { return index_select(x[0], 1, ids().reshape({6})); },
       {randn({2, 5, 3})}},

      {"matmul", [](Inputs x) { return matmul(x[0], x[1]); }, {randn({3, 4}, 1), randn({4, 5}, 2)}},
      {"matmul, vectors", [](Inputs x) { return matmul(x[0], x[1]); }, {randn({4}, 1), randn({4}, 2)}},
      {"matmul, vector on the left",
       [](Inputs x) { return matmul(x[0], x[1]); },
       {randn({4}, 1), randn({2, 4, 3}, 2)}},
      {"matmul, vector on the right",
       [](Inputs x) { return matmul(x[0], x[1]); },
       {randn({2, 3, 4}, 1), randn({4}, 2)}},
      {"matmul, batch",
       [](Inputs x) { return matmul(x[0], x[1]); },
       {randn({2, 3, 4}, 1), randn({2, 4, 5}, 2)}},
      {"matmul, batch by one",
       [](Inputs x) { return matmul(x[0], x[1]); },
       {randn({2, 3, 4}, 1), randn({4, 5}, 2)}},
      {"matmul, one by batch",
       [](Inputs x) { return matmul(x[0], x[1]); },
       {randn({3, 4}, 1), randn({2, 4, 5}, 2)}},
      {"matmul, batches broadcast",
       [](Inputs x) { return matmul(x[0], x[1]); },
       {randn({2, 1, 3, 4}, 1), randn({3, 4, 2}, 2)}},
      {"linear",
       [](Inputs x) { return linear(x[0], x[1], x[2]); },
       {randn({2, 3, 4}, 1), randn({5, 4}, 2), randn({5}, 3)}},
      {"linear, no bias", [](Inputs x) { return linear(x[0], x[1]); }, {randn({4}, 1), randn({5, 4}, 2)}},
      {"causal_attention", [](Inputs x) { return causal_attention(x[0], 2); }, {randn({2, 5, 18})}},
      {"causal_attention over several tiles",
       [](Inputs x) { return causal_attention(x[0], 1); },
       {randn({1, 70, 6})}},

      {"softmax", [](Inputs x) { return softmax(x[0]); }, {randn({3, 4})}},
      {"softmax over the first axis", [](Inputs x) { return softmax(x[0], 0); }, {randn({3, 2, 2})}},
      {"log_softmax", [](Inputs x) { return log_softmax(x[0]); }, {randn({3, 4})}},
      {"log_softmax over a middle axis", [](Inputs x) { return log_softmax(x[0], 1); }, {randn({2, 3, 2})}},
      {"layer_norm",
       [](Inputs x) { return layer_norm(x[0], x[1], x[2]); },
       {randn({2, 3, 5}, 1), randn({5}, 2), randn({5}, 3)}},
      {"layer_norm, no bias",
       [](Inputs x) { return layer_norm(x[0], x[1], {}, 0.1); },
       {randn({3, 5}, 1), randn({5}, 2)}},
      {"rms_norm", [](Inputs x) { return rms_norm(x[0], x[1]); }, {randn({2, 3, 5}, 1), randn({5}, 2)}},

      {"embedding", [](Inputs x) { return embedding(ids(), x[0]); }, {randn({5, 3})}},
      {"cross_entropy", [](Inputs x) { return cross_entropy(x[0], ids()); }, {randn({2, 3, 5})}},
      {"cross_entropy, ignoring", [](Inputs x) { return cross_entropy(x[0], ids(), 2); }, {randn({2, 3, 5})}},
      {"mse_loss", [](Inputs x) { return mse_loss(x[0], x[1]); }, {randn({3, 4}, 1), randn({3, 4}, 2)}},
      {"checkpoint",
       [](Inputs x) { return checkpoint([](const Tensor& t) { return tanh(t * t); }, x[0]); },
       {randn({3, 4})}},
  };
  return rows;
}

struct Result {
  Tensor y;
  std::vector<Tensor> grads;  // undefined where there is none
};

// The value and gradients of fn, the result contracted with a fixed cotangent; input `frozen` requires none.
Result run(const std::function<Tensor(Inputs)>& fn, const std::vector<Tensor>& inputs, DType dtype,
           int frozen = -1) {
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
  for (const Row& row : rows()) {
    CAPTURE(row.name);
    const GradcheckResult check = gradcheck(row.fn, row.inputs);
    INFO(check.message);
    CHECK(check.ok);
  }
}

TEST_CASE("every op gives in f32 what it gives in f64", "[ops]") {
  for (const Row& row : rows()) {
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
  for (const Row& row : rows()) {
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
  for (const Row& row : rows()) {
    const Result all = run(row.fn, row.inputs, DType::f64);
    for (size_t frozen = 0; frozen < row.inputs.size(); ++frozen) {
      CAPTURE(row.name, frozen);
      const Result some = run(row.fn, row.inputs, DType::f64, int(frozen));
      CHECK(same_bits(some.y, all.y));
      for (size_t i = 0; i < row.inputs.size(); ++i) {
        CAPTURE(i);
        CHECK(some.grads[i].defined() == (i != frozen));
        if (i != frozen) CHECK(same_bits(some.grads[i], all.grads[i]));
      }
    }
  }
}
