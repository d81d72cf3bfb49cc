// The differentiable ops, for f32 and f64; each section names the file where they are defined. Ops are recorded by the
// current tape where an input requires a gradient. They throw std::invalid_argument, with the op's name and the shapes,
// before computing anything.
//
// On a GPU activations may be bf16, for ops marked (bf16) or in sections that are: what is computed in f32 from their
// numbers is rounded once, to a result of bf16, and their gradients are bf16, too. Weights and biases beside them are
// f32, and so are those' gradients. x.to(DType::bf16) and .to(DType::f32) go from one to the other, with gradients. Ops
// that only move elements (shape.cpp, but index_select) take bf16 everywhere.
#pragma once

#include <altgrad/autograd/tape.h>

#include <functional>
#include <utility>

ALTGRAD_API_BEGIN
namespace altgrad {

// ---- Arithmetic with NumPy broadcasting (bf16; arithmetic.cpp); a scalar is a tensor of shape () ----

Tensor add(const Tensor& a, const Tensor& b);
Tensor sub(const Tensor& a, const Tensor& b);
Tensor mul(const Tensor& a, const Tensor& b);
Tensor div(const Tensor& a, const Tensor& b);
/// Give NaN where one is NaN. At ties each side gets half of the gradient, at NaN neither gets any.
Tensor maximum(const Tensor& a, const Tensor& b);
Tensor minimum(const Tensor& a, const Tensor& b);
/// Gives condition (u8) ? a : b, all three broadcast against each other.
Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b);
/// Give u8 masks for where and are not differentiable.
Tensor greater(const Tensor& a, const Tensor& b);
Tensor equal(const Tensor& a, const Tensor& b);
/// Repeats x to a shape that it broadcasts to (copies).
Tensor expand(const Tensor& x, const Shape& shape);
/// Gives the shape that two broadcast to; throws, naming the op, where there is none.
Shape broadcast_shapes(const char* op, const Shape& a, const Shape& b);

inline Tensor operator+(const Tensor& a, const Tensor& b) { return add(a, b); }
inline Tensor operator-(const Tensor& a, const Tensor& b) { return sub(a, b); }
inline Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
inline Tensor operator/(const Tensor& a, const Tensor& b) { return div(a, b); }
Tensor operator+(const Tensor& a, double b);
Tensor operator-(const Tensor& a, double b);
Tensor operator*(const Tensor& a, double b);
Tensor operator/(const Tensor& a, double b);
Tensor operator+(double a, const Tensor& b);
Tensor operator-(double a, const Tensor& b);
Tensor operator*(double a, const Tensor& b);
Tensor operator/(double a, const Tensor& b);

// ---- Elementwise (bf16; elementwise.cpp, dropout.cpp); values and derivatives at NaN are NaN, but where said ----

enum class Gelu { erf, tanh };

Tensor neg(const Tensor& x);  ///< derivative -1 everywhere
inline Tensor operator-(const Tensor& x) { return neg(x); }
Tensor abs(const Tensor& x);  ///< derivative 0 at 0
Tensor exp(const Tensor& x);
Tensor log(const Tensor& x);
Tensor sqrt(const Tensor& x);  ///< derivative Inf at 0
/// C's pow, with derivative exponent * pow(x, exponent - 1). So an exponent of 0 gives 1 and derivative 0, and 1 gives
/// derivative 1, at NaN too; and 0.5 and -0.5 are no roots: pow(-Inf, 0.5) = Inf, pow(-Inf, -0.5) = 0 and pow(-0, -0.5)
/// = Inf, where sqrt(-Inf) is NaN and 1 / sqrt(-0) is -Inf.
Tensor pow(const Tensor& x, double exponent);
Tensor tanh(const Tensor& x);     ///< derivative 1 - y^2 of the rounded result y: 0 from where on y is 1
Tensor sigmoid(const Tensor& x);  ///< derivative y (1 - y), likewise
Tensor relu(const Tensor& x);     ///< derivative 0 at 0 and at NaN
/// x Phi(x), or its tanh approximation (Hendrycks & Gimpel, 2016); NaN at -Inf, as 0 * Inf is
Tensor gelu(const Tensor& x, Gelu form = Gelu::erf);
Tensor silu(const Tensor& x);  ///< x sigmoid(x), NaN at -Inf
/// min(max(x, low), high); derivative 1 inside, at the bounds and at NaN
Tensor clamp(const Tensor& x, double low, double high);
/// Zeroes each element with probability p and divides the others by 1 - p. Draws a stream from the generator.
Tensor dropout(const Tensor& x, double p, Generator& generator = default_generator());

// ---- Reductions (reduce.cpp), over all elements, or over the axes given, none where they are {}: sum(x, {0, -1}) ----

Tensor sum(const Tensor& x);  ///< -> () (bf16)
Tensor sum(const Tensor& x, const Axes& axes, bool keepdim = false);
Tensor mean(const Tensor& x);  ///< (bf16)
Tensor mean(const Tensor& x, const Axes& axes, bool keepdim = false);
/// The gradient is shared evenly among equal maxima; where the result is NaN, so is that of the NaNs, and 0 the
/// others'.
Tensor max(const Tensor& x);
Tensor max(const Tensor& x, const Axes& axes, bool keepdim = false);
/// sum((x - mean)^2) / (n - correction), n - 1 over all elements
Tensor var(const Tensor& x);
Tensor var(const Tensor& x, const Axes& axes, bool keepdim = false, double correction = 1);
/// Gives the index of the largest element along the last axis as i64: the first one among equals; NaN counts as
/// largest. It is not differentiable.
Tensor argmax(const Tensor& x);

// ---- Shape (shape.cpp); reshape, narrow, transpose, permute, clone, to are members of Tensor ----

Tensor cat(std::span<const Tensor> xs, int axis = 0);    ///< joined along an axis they may differ in
Tensor stack(std::span<const Tensor> xs, int axis = 0);  ///< joined along a new axis
inline Tensor cat(std::initializer_list<Tensor> xs, int axis = 0) {
  return cat(std::span(xs.begin(), xs.size()), axis);
}
inline Tensor stack(std::initializer_list<Tensor> xs, int axis = 0) {
  return stack(std::span(xs.begin(), xs.size()), axis);
}
/// x (..., n, ...), ids (count) i64 in [0, n) -> (..., count, ...)
Tensor index_select(const Tensor& x, int axis, const Tensor& ids);

// ---- Linear algebra (matmul.cpp, attention.cpp) ----

/// (m, k) (k, n) -> (m, n); (..., m, k) (..., k, n) batched, the leading axes broadcast; a vector on the left
/// is a row, on the right a column, and its axis is left out of the result, as in NumPy.
Tensor matmul(const Tensor& a, const Tensor& b);
/// x (..., in), w (out, in), b (out) -> (..., out) = x w^T + b (bf16: w is rounded to it)
Tensor linear(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b = {});
/// qkv (B, T, 3 C): queries, keys, values side by side -> (B, T, C); causal softmax attention with C / heads a
/// head, scores scaled by 1 / sqrt(C / heads) (bf16)
Tensor causal_attention(const Tensor& qkv, int64_t heads);

// ---- Softmax (softmax.cpp) and normalisation over the last axis n (norm.cpp); bf16 ----

Tensor softmax(const Tensor& x, int axis = -1);
Tensor log_softmax(const Tensor& x, int axis = -1);
/// w (n), b (n)
Tensor layer_norm(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b = {}, double eps = 1e-5);
/// {x + y, layer_norm(x + y, w, b, eps)}, to the same bits: what a residual becomes and what the next layer reads. Where
/// x and y have one shape, a GPU makes both in one pass over memory.
std::pair<Tensor, Tensor> add_layer_norm(const Tensor& x, const Tensor& y, const Tensor& w,
                                         const std::optional<Tensor>& b = {}, double eps = 1e-5);
Tensor rms_norm(const Tensor& x, const Tensor& w, double eps = 1e-5);

// ---- Embedding (embedding.cpp) and losses (loss.cpp) ----

/// ids (...) i64 in [0, V), w (V, C) -> (..., C)
Tensor embedding(const Tensor& ids, const Tensor& w);
/// logits (..., V), targets (...) i64 -> the mean of -log softmax(logits)[target] over the targets that are
/// not ignore_index, shape (), f32 of logits in bf16. NaN where all are ignored, as in PyTorch.
Tensor cross_entropy(const Tensor& logits, const Tensor& targets, int64_t ignore_index = -100);
/// mean((x - target)^2), shapes equal
Tensor mse_loss(const Tensor& x, const Tensor& target);

// ---- Checkpointing (checkpoint.cpp) ----

/// fn(x), keeping only x: backward runs fn again to get what it needs (Chen et al., "Training deep nets with sublinear
/// memory cost", 2016). Values, gradients, and where the thread's generators stand afterwards are those of fn(x), to
/// the last bit (but a NaN's): what draws from them draws the same numbers both times, and quantized layers record and
/// scale once. What else fn reads must be the same when backward runs it: a generator of its own must be set back by
/// fn, and a model's mode (train, eval) be left until then; or the second run computes another function. Gradients
/// reach x and the leaves that fn holds; backward throws where fn holds another result of the tape, which must come in
/// through x, or detached.
Tensor checkpoint(std::function<Tensor(const Tensor&)> fn, const Tensor& x);

}  // namespace altgrad
ALTGRAD_API_END
