// Every kernel, declared once for all devices. Arguments: outputs, inputs, sizes. Kernels trust their
// arguments: the public functions check them. All tensors are contiguous and row-major; no kernel allocates
// tensors. Reductions have a fixed order that does not depend on the number of threads.
#pragma once

#include <altgrad/core/dispatch.h>

namespace altgrad::kernels {

// ---- Matrix products (core/cpu/gemm.cpp) ----

// For each of `batch` products: C (m, n) = alpha * op(A) op(B) + beta * C, where op(A) is (m, k) and op(B) is
// (k, n); with trans_a, A is stored (k, m), with trans_b, B is stored (n, k). stride_*: elements from one
// matrix of the batch to the next (0 shares it).
struct Gemm {
  int64_t m, n, k;
  bool trans_a = false, trans_b = false;
  double alpha = 1, beta = 0;
  int64_t batch = 1, stride_a = 0, stride_b = 0, stride_c = 0;
};
template <class D, class T>
void gemm(T* c, const T* a, const T* b, const Gemm& g);

// y (rows, n) = x (rows, k) w^T + bias, w (n, k), bias (n) or null.
template <class D, class T>
void linear(T* y, const T* x, const T* w, const T* bias, int64_t rows, int64_t n, int64_t k);

// Products of bf16 values with f32 sums, where the machine has instructions for them. A matrix of bf16 has rows
// of bf16_padded(columns) elements, and zeros in all rows and columns beyond its own up to multiples of 32.
constexpr int64_t bf16_padded(int64_t n) { return (n + 31) / 32 * 32; }
template <class D>
bool has_bf16();
// As gemm for a single product, + bias (n), which may be null, in every row.
template <class D>
void gemm_bf16(float* c, const uint16_t* a, const uint16_t* b, const float* bias, const Gemm& g);

// ---- Elementwise (core/cpu/elementwise.cpp); functors in core/functors.h ----

// y = f.value(x)
template <class D, class F, class T>
void unary(F f, T* y, const T* x, int64_t n);
// y and slope = f.both(x), for functors that save the slope
template <class D, class F, class T>
void unary_both(F f, T* y, T* slope, const T* x, int64_t n);
// dx = dy * f.slope(x, y), for all others
template <class D, class F, class T>
void unary_grad(F f, T* dx, const T* dy, const T* x, const T* y, int64_t n);

// Sizes and strides (in elements) of two inputs over an output's index space, neighbouring axes merged where
// possible. A stride of 0 repeats the input along the axis.
struct Strided {
  int dim = 0;
  int64_t size[Shape::max_dim], a[Shape::max_dim], b[Shape::max_dim];
  int64_t numel = 1;
};
// y = f.value(a, b), y contiguous over s
template <class D, class F, class T>
void binary(F f, T* y, const T* a, const T* b, const Strided& s);
// da = dy * f.slope_a(a, b), db = dy * f.slope_b(a, b), both contiguous over s, each may be null
template <class D, class F, class T>
void binary_grad(F f, T* da, T* db, const T* dy, const T* a, const T* b, const Strided& s);

// y = f.value(a, b) as 0 or 1
template <class D, class F, class T>
void compare(F f, uint8_t* y, const T* a, const T* b, const Strided& s);

// dst[offset by s.a] = src[offset by s.b]: permute, narrow, cat, expand and their backwards.
template <class D, class T>
void copy_strided(T* dst, const T* src, const Strided& s);
// y = condition ? a : b; a null input counts as zeros.
template <class D, class T>
void where(T* y, const uint8_t* condition, const T* a, const T* b, int64_t n);
template <class D, class T>
void fill(T* y, T value, int64_t n);
template <class D, class To, class From>
void cast(To* y, const From* x, int64_t n);
// y += alpha * x
template <class D, class T>
void axpy(T* y, const T* x, double alpha, int64_t n);

// ---- Reductions (core/cpu/reduce.cpp): x (outer, n, inner) -> y (outer, inner) ----

// y = the sum / divisor; the sum itself need not be a T
template <class D, class T>
void sum(T* y, const T* x, int64_t outer, int64_t n, int64_t inner, double divisor);
// NaN where a NaN is among the n.
template <class D, class T>
void max(T* y, const T* x, int64_t outer, int64_t n, int64_t inner);
// dx = dy shared evenly among the elements equal to y.
template <class D, class T>
void max_grad(T* dx, const T* dy, const T* x, const T* y, int64_t outer, int64_t n, int64_t inner);
// The largest |x|; NaN where there is one; 0 for n = 0.
template <class D, class T>
T amax(const T* x, int64_t n);
// The first index of the largest element of each row of x (rows, n).
template <class D, class T>
void argmax(int64_t* y, const T* x, int64_t rows, int64_t n);
template <class D, class T>
bool has_nan(const T* x, int64_t n);
template <class D, class T>
double sum_squares(const T* x, int64_t n);

// ---- Rows (core/cpu/rows.cpp): x (rows, n), one result row or number a row ----

template <class D, class T>
void softmax(T* y, const T* x, int64_t rows, int64_t n);
// dx = y * (dy - sum(dy * y))
template <class D, class T>
void softmax_grad(T* dx, const T* dy, const T* y, int64_t rows, int64_t n);
template <class D, class T>
void log_softmax(T* y, const T* x, int64_t rows, int64_t n);
// dx = dy - exp(y) * sum(dy)
template <class D, class T>
void log_softmax_grad(T* dx, const T* dy, const T* y, int64_t rows, int64_t n);

// A row's mean is mean + rest: the one number that is nearest to it may be further off than the row's numbers are
// from each other.
template <class T>
struct Moments {
  T mean, rest, rstd;
};
// y = (x - mean) * rstd * w + b, rstd = 1 / sqrt(var + eps); moments (rows); w, b (n), b may be null.
template <class D, class T>
void layer_norm(T* y, Moments<T>* moments, const T* x, const T* w, const T* b, int64_t rows, int64_t n,
                double eps);
// dx (rows, n) = beta * dx + the gradient, unread where beta = 0; each of dx, dw (n), db (n) may be null.
template <class D, class T>
void layer_norm_grad(T* dx, double beta, T* dw, T* db, const T* dy, const T* x, const Moments<T>* moments,
                     const T* w, int64_t rows, int64_t n);
// y = x * rstd * w, rstd = 1 / sqrt(mean(x^2) + eps)
template <class D, class T>
void rms_norm(T* y, T* rstd, const T* x, const T* w, int64_t rows, int64_t n, double eps);
template <class D, class T>
void rms_norm_grad(T* dx, double beta, T* dw, const T* dy, const T* x, const T* rstd, const T* w,
                   int64_t rows, int64_t n);

// What makes a row's softmax again, exp((x - top) - log_sum): kept apart, as the sum of both loses log_sum's digits
// where top is large.
template <class T>
struct LogSumExp {
  T top, log_sum;  // max(x), log(sum(exp(x - top)))
};

// Each row's loss[r] = log(sum(exp(x))) - x[target], 0 where target = ignore; lse (rows).
template <class D, class T>
void cross_entropy(T* loss, LogSumExp<T>* lse, const T* x, const int64_t* targets, int64_t rows, int64_t n,
                   int64_t ignore);
// dx = scale * (softmax(x) - [column = target]), 0 in ignored rows; scale is *dy * factor.
template <class D, class T>
void cross_entropy_grad(T* dx, const T* dy, double factor, const T* x, const LogSumExp<T>* lse,
                        const int64_t* targets, int64_t rows, int64_t n, int64_t ignore);

// ---- Gather (core/cpu/gather.cpp): x (outer, n, inner), ids (count) -> y (outer, count, inner) ----

template <class D, class T>
void gather(T* y, const T* x, const int64_t* ids, int64_t outer, int64_t n, int64_t count, int64_t inner);
// dx (outer, n, inner) = beta * dx + the sum of the rows of dy that came from each row, in the order of ids; beta is
// 0 or 1.
template <class D, class T>
void gather_grad(T* dx, double beta, const T* dy, const int64_t* ids, int64_t outer, int64_t n, int64_t count,
                 int64_t inner);
// The first i for which ids[i] is outside [0, high), -1 where there is none; `allowed` is let pass.
template <class D>
int64_t first_outside(const int64_t* ids, int64_t count, int64_t high, int64_t allowed);

// ---- Attention (core/cpu/attention.cpp) ----

// Causal self-attention: qkv (B, T, 3 * C) holds q, k, v side by side, each of C = heads * head_size.
// y (B, T, C) = softmax(q k^T / sqrt(head_size), causal) v for each head, a strip of queries at a time, so
// that no T x T matrix is in memory; lse (B, heads, T) of the rows lets backward make the strips again (as
// FlashAttention does with tiles: Dao et al., 2022).
template <class D, class T>
void attention(T* y, LogSumExp<T>* lse, const T* qkv, int64_t batch, int64_t length, int64_t heads,
               int64_t head_size);
template <class D, class T>
void attention_grad(T* dqkv, const T* dy, const T* qkv, const T* y, const LogSumExp<T>* lse, int64_t batch,
                    int64_t length, int64_t heads, int64_t head_size);

// ---- Random (core/cpu/random.cpp) ----

template <class D, class T>
void uniform(T* y, RandomStream random, int64_t n);  // [0, 1)
template <class D, class T>
void normal(T* y, RandomStream random, int64_t n);  // Box-Muller
template <class D>
void randint(int64_t* y, int64_t high, RandomStream random, int64_t n);
// y = x / (1 - p) with probability 1 - p, else 0; the same function is its own backward.
template <class D, class T>
void dropout(T* y, const T* x, double p, RandomStream random, int64_t n);

// ---- Optimizers (core/cpu/optim.cpp): all parameters in one pass ----

// One parameter: its values, state and gradient, with its group's settings; step counts its updates, this one
// included.
template <class T>
struct AdamWParam {
  T *w, *m, *v;
  const T* g;
  int64_t n;
  double lr, weight_decay;
  int64_t step;
};
// Loshchilov & Hutter, "Decoupled weight decay regularization", 2019, algorithm 2.
template <class D, class T>
void adamw(const AdamWParam<T>* params, int64_t count, double beta1, double beta2, double eps);
template <class T>
struct SgdParam {
  T *w, *v;  // v: momentum, null without
  const T* g;
  int64_t n;
  double lr, weight_decay;
};
// d = g + weight_decay * w; v = momentum * v + d; w -= lr * (nesterov ? d + momentum * v : v)
template <class D, class T>
void sgd(const SgdParam<T>* params, int64_t count, double momentum, bool nesterov);
// y *= alpha
template <class D, class T>
void scale(T* y, double alpha, int64_t n);

}  // namespace altgrad::kernels
