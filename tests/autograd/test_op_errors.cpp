// What ops refuse: one row for each mistake, with what the error's text must say.
#include <altgrad/autograd/ops.h>
#include <altgrad/nn/layers.h>

#include <cmath>
#include <functional>

#include "device.h"
#include "errors.h"

using namespace altgrad;

namespace {

struct Refusal {
  std::function<void()> call;
  std::vector<std::string> parts;  // of the error's text
};

Tensor leaf(const Shape& shape, DType dtype = DType::f32) {
  return here::ones(shape, {.dtype = dtype}).requires_grad(true);
}
Tensor i64(const Shape& shape) { return here::zeros(shape, {.dtype = DType::i64}); }

}  // namespace

TEST_CASE("every op refuses what does not fit, by name and with the shapes, before it records anything",
          "[ops]") {
  const Tensor a = leaf({2, 3}), b = leaf({4}), d = leaf({2, 3}, DType::f64), n = i64({2, 3});
  const Tensor w = leaf({5, 3}), too_high = here::from({0, 1, 5, 2}, {2, 2}),
               negative = here::from({0, -1}, {2});
  const std::vector<Refusal> errors = {
      {[&] { add(a, b); }, {"add: shapes (2, 3) and (4) do not broadcast", "3 vs 4"}},
      {[&] { sub(a, b); }, {"sub: ", "(2, 3)", "(4)"}},
      {[&] { mul(b, a); }, {"mul: shapes (4) and (2, 3) do not broadcast", "4 vs 3"}},
      {[&] {
         div(a, leaf({3, 3}));
       },
       {"div: ", "(2, 3)", "(3, 3)", "2 vs 3"}},
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
      {[&] {
         expand(a, {3, 3});
       },
       {"expand: ", "(2, 3)", "(3, 3)"}},
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
      {[&] {
         sum(a, {1, -1});
       },
       {"sum: axis -1 is given twice for shape (2, 3)"}},
      {[&] { mean(n, {0}); }, {"mean: ", "i64", "(2, 3)"}},
      {[&] { mean(a, {-3}); }, {"mean: axis -3", "(2, 3)"}},
      {[&] {
         var(a, {0, 0});
       },
       {"var: axis 0 is given twice", "(2, 3)"}},
      {[&] { var(n); }, {"var: ", "i64", "(2, 3)"}},
      {[&] { max(a, {5}); }, {"max: axis 5", "(2, 3)"}},
      {[&] {
         max(leaf({2, 0}), {1});
       },
       {"max: over no elements", "(2, 0)"}},
      {[&] { max(leaf({0})); }, {"max: over no elements", "(0)"}},
      {[&] {
         argmax(leaf({2, 0}));
       },
       {"argmax: ", "(2, 0)"}},
      {[&] { argmax(leaf({})); }, {"argmax: ", "()"}},

      {[&] { a.reshape({4}); }, {"reshape: (2, 3) does not fill shape (4)"}},
      {[&] {
         a.reshape({4, -1});
       },
       {"reshape: (2, 3)", "axis 1"}},
      {[&] {
         a.reshape({-1, -1});
       },
       {"-1"}},
      {[&] {
         leaf({0, 2}).reshape({0, -1});
       },
       {"reshape: (0, 2)", "axis 1"}},
      {[&] { a.narrow(1, 2, 2); }, {"narrow: [2, 2 + 2) is outside axis 1 of shape (2, 3)"}},
      {[&] { a.narrow(0, -1, 1); }, {"narrow: ", "(2, 3)"}},
      {[&] { a.narrow(0, 0, -1); }, {"narrow: ", "(2, 3)"}},
      {[&] { a.narrow(0, INT64_MAX, 1); }, {"narrow: ", "(2, 3)"}},
      {[&] { a.narrow(2, 0, 1); }, {"narrow: axis 2", "(2, 3)"}},
      {[&] { b.transpose(); }, {"transpose: axis -2", "(4)"}},
      {[&] {
         a.permute({0, 0});
       },
       {"permute: axis 0 is given twice", "(2, 3)"}},
      {[&] { a.permute({0}); }, {"permute: 1 axes", "(2, 3)"}},
      {[&] { a.permute(std::vector<int>(9)); }, {"axes: 9 given, a tensor has at most 8"}},
      {[&] {
         a.permute({0, 2});
       },
       {"permute: axis 2", "(2, 3)"}},
      {[&] { cat({}, 0); }, {"cat: "}},
      {[&] {
         cat({a, b});
       },
       {"cat: ", "(2, 3)", "(4)"}},
      {[&] {
         cat({a, leaf({3, 3})}, 1);
       },
       {"cat: ", "(2, 3)", "(3, 3)", "axis 1"}},
      {[&] {
         cat({a, d});
       },
       {"cat: ", "f32", "f64"}},
      {[&] {
         cat({a, a}, 2);
       },
       {"cat: axis 2", "(2, 3)"}},
      {[&] {
         stack({a, b});
       },
       {"stack: ", "(2, 3)", "(4)"}},
      {[&] {
         stack({a, a}, 3);
       },
       {"stack: axis 3", "(2, 3)"}},
      {[&] { stack({}, 0); }, {"stack: "}},
      {[&] { index_select(a, 1, negative); }, {"index_select: id -1 at (1) of ids (2) is outside [0, 3)"}},
      {[&] { index_select(a, 2, negative); }, {"index_select: axis 2", "(2, 3)"}},
      {[&] { index_select(a, 0, n); }, {"index_select: ", "one axis", "(2, 3)"}},
      {[&] {
         index_select(leaf({0, 3}), 0, i64({2}));
       },
       {"index_select: id 0 at (0)", "[0, 0)"}},

      {[&] {
         matmul(a, leaf({4, 5}));
       },
       {"matmul: (2, 3) and (4, 5) do not match: 3 vs 4"}},
      {[&] { matmul(a, b); }, {"matmul: (2, 3) and (4) do not match: 3 vs 4"}},
      {[&] {
         matmul(leaf({2, 2, 3}), leaf({3, 3, 2}));
       },
       {"matmul: ", "(2)", "(3)"}},
      {[&] { matmul(a, leaf({})); }, {"matmul: ", "(2, 3)", "()"}},
      {[&] { matmul(a, d); }, {"matmul: ", "f32", "f64"}},
      {[&] { matmul(n, n); }, {"matmul: ", "i64"}},
      {[&] {
         linear(leaf({8, 32}), leaf({64, 48}));
       },
       {"linear: x (8, 32) does not match weight (64, 48): in_features 32 vs 48"}},
      {[&] { linear(a, w, b); }, {"linear: bias (4) does not match weight (5, 3)"}},
      {[&] { linear(a, b); }, {"linear: weight (4) needs two axes"}},
      {[&] { linear(leaf({}), w); }, {"linear: x ()"}},
      {[&] { linear(d, w); }, {"linear: dtypes differ: f64 (2, 3) and f32 (5, 3)"}},
      {[&] { linear(a, w, leaf({5}, DType::f64)); }, {"linear: dtypes differ", "f64 (5)"}},
      {[&] { causal_attention(a, 1); }, {"causal_attention: qkv (2, 3)"}},
      {[&] {
         causal_attention(leaf({1, 2, 12}), 3);
       },
       {"causal_attention: qkv (1, 2, 12)", "3 heads"}},
      {[&] {
         causal_attention(leaf({1, 2, 12}), 0);
       },
       {"causal_attention: qkv (1, 2, 12)", "0 heads"}},
      {[&] {
         causal_attention(i64({1, 2, 12}), 1);
       },
       {"causal_attention: ", "i64"}},

      {[&] { softmax(a, 2); }, {"softmax: axis 2", "(2, 3)"}},
      {[&] { softmax(n); }, {"softmax: ", "i64"}},
      {[&] { log_softmax(leaf({})); }, {"log_softmax: axis -1", "()"}},
      {[&] { layer_norm(a, b); }, {"layer_norm: weight (4) does not match the last axis of x (2, 3)"}},
      {[&] { layer_norm(a, leaf({3}), b); }, {"layer_norm: bias (4)", "(2, 3)"}},
      {[&] { layer_norm(leaf({}), b); }, {"layer_norm: x ()"}},
      {[&] { layer_norm(a, leaf({3}), {}, -1e-5); }, {"layer_norm: eps must be finite", "-1e-05"}},
      {[&] { layer_norm(a, leaf({3}), {}, NAN); }, {"layer_norm: eps must be finite", "nan"}},
      {[&] { rms_norm(a, leaf({3}), INFINITY); }, {"rms_norm: eps must be finite", "inf"}},
      {[&] { nn::LayerNorm(3, {.eps = NAN}); }, {"LayerNorm: eps must be finite", "nan"}},
      {[&] { nn::RMSNorm(3, {.eps = -1}); }, {"RMSNorm: eps must be finite", "-1"}},
      {[&] { rms_norm(a, b); }, {"rms_norm: weight (4)", "(2, 3)"}},
      {[&] { rms_norm(a, leaf({3}, DType::f64)); }, {"rms_norm: ", "f32", "f64"}},

      {[&] { embedding(too_high, w); }, {"embedding: id 5 at (1, 0) of ids (2, 2) is outside [0, 5)"}},
      {[&] { embedding(negative, w); }, {"embedding: id -1 at (1) of ids (2) is outside [0, 5)"}},
      {[&] { embedding(a, w); }, {"embedding: ids must be i64, got f32", "(2, 3)"}},
      {[&] { embedding(too_high, b); }, {"embedding: weight (4) needs two axes"}},
      {[&] {
         embedding(i64({1}), leaf({0, 3}));
       },
       {"embedding: id 0", "[0, 0)"}},
      {[&] {
         cross_entropy(leaf({2, 2, 5}), too_high);
       },
       {"cross_entropy: id 5 at (1, 0)", "(2, 2)", "[0, 5)"}},
      {[&] {
         cross_entropy(leaf({2, 5}), negative);
       },
       {"cross_entropy: id -1 at (1)"}},
      {[&] { cross_entropy(a, n); }, {"cross_entropy: targets (2, 3)", "logits (2, 3)"}},
      {[&] { cross_entropy(a, leaf({2})); }, {"cross_entropy: ids must be i64, got f32"}},
      {[&] {
         cross_entropy(i64({2, 3}), i64({2}));
       },
       {"cross_entropy: ", "i64"}},
      {[&] { mse_loss(a, b); }, {"mse_loss: x (2, 3) and target (4) differ"}},
      {[&] { mse_loss(a, d); }, {"mse_loss: ", "f32", "f64"}},
      {[&] { checkpoint(nullptr, a); }, {"checkpoint: ", "(2, 3)"}},
      {[&] { add(a, Tensor()); }, {"empty"}},
  };
  for (size_t i = 0; i < errors.size(); ++i) {
    CAPTURE(i, errors[i].parts.front());
    const auto call = [&] {
      errors[i].call();
      synchronize(device());  // where a GPU has looked at ids
    };
    const bool seen_later = !device().is_cpu() && errors[i].parts.front().find(": id ") != std::string::npos;
    Tape tape;
    for (const std::string& part : errors[i].parts) CHECK(throws(call, {part}));
    CHECK((seen_later || tape.num_ops() == 0));
    const Tensor y = sum(a * 2.0);  // the tape is as good as before
    CHECK_NOTHROW(tape.backward(y));
  }
}
