// Causal attention in strips: the scores of `strip` queries against the keys up to theirs are all that is
// ever in memory. Queries, keys and values are read where they lie in the packed qkv.
#include <altgrad/core/cpu/matmul.h>
#include <altgrad/core/cpu/parallel.h>
#include <altgrad/core/kernels.h>
#include <altgrad/core/math.h>

#include <cmath>

namespace altgrad::kernels {
namespace {

constexpr int64_t strip = 32;  // queries handled together

}  // namespace

template <class D, class T>
void attention(T* y, T* lse, const T* qkv, int64_t batch, int64_t length, int64_t heads, int64_t head_size) {
  const int64_t channels = heads * head_size, stride = 3 * channels, strips = (length + strip - 1) / strip;
  const T scale = T(1) / std::sqrt(T(head_size));
  parallel_tasks(batch * heads * strips, [=](int64_t task) {
    const int64_t pair = task / strips, b = pair / heads, h = pair % heads;
    const int64_t first = task % strips * strip, rows = std::min(strip, length - first), keys = first + rows;
    const T* q = qkv + b * length * stride + h * head_size;
    T* scores = static_cast<T*>(scratch(size_t(rows * keys) * sizeof(T)));

    cpu::matmul<T>(scores, keys, {q + first * stride, stride, 1}, {q + channels, 1, stride}, rows, keys,
                   head_size, scale, 0);
    for (int64_t r = 0; r < rows; ++r) {  // softmax over the keys up to the query's own
      T* __restrict s = scores + r * keys;
      const int64_t seen = first + r + 1;
      T top = s[0];
#pragma omp simd reduction(max : top)
      for (int64_t j = 0; j < seen; ++j) top = s[j] > top ? s[j] : top;
      T total = 0;
#pragma omp simd reduction(+ : total)
      for (int64_t j = 0; j < seen; ++j) total += s[j] = math::exp(s[j] - top);
      const T inverse = T(1) / total;
      for (int64_t j = 0; j < seen; ++j) s[j] *= inverse;
      std::fill(s + seen, s + keys, T(0));
      lse[pair * length + first + r] = top + std::log(total);
    }
    cpu::matmul<T>(y + b * length * channels + h * head_size + first * channels, channels, {scores, keys, 1},
                   {q + 2 * channels, stride, 1}, rows, head_size, keys, 1, 0);
  });
}

// With P the softmax of S = scale q k^T and delta = rowsum(dy * y):
//   dv = P^T dy,  dS = P * (dy v^T - delta),  dq = scale dS k,  dk = scale dS^T q
// One thread has all strips of a head, so its dk and dv are sums in a fixed order. The last strip comes
// first: it reaches all keys, so it sets dk and dv and the others add to them.
template <class D, class T>
void attention_grad(T* dqkv, const T* dy, const T* qkv, const T* y, const T* lse, int64_t batch,
                    int64_t length, int64_t heads, int64_t head_size) {
  const int64_t channels = heads * head_size, stride = 3 * channels, strips = (length + strip - 1) / strip;
  const T scale = T(1) / std::sqrt(T(head_size));
  parallel_tasks(batch * heads, [=](int64_t pair) {
    const int64_t b = pair / heads, h = pair % heads;
    const T* q = qkv + b * length * stride + h * head_size;
    T* dq = dqkv + b * length * stride + h * head_size;
    const int64_t at = b * length * channels + h * head_size;
    T* probs = static_cast<T*>(scratch(size_t(2 * strip * length) * sizeof(T)));
    T* dscores = probs + strip * length;
    for (int64_t i = strips - 1; i >= 0; --i) {
      const int64_t first = i * strip, rows = std::min(strip, length - first), keys = first + rows;
      const T *queries = q + first * stride, *keys_at = q + channels, *values = q + 2 * channels;
      const T* dout = dy + at + first * channels;
      cpu::matmul<T>(probs, keys, {queries, stride, 1}, {keys_at, 1, stride}, rows, keys, head_size, scale,
                     0);
      cpu::matmul<T>(dscores, keys, {dout, channels, 1}, {values, 1, stride}, rows, keys, head_size, 1, 0);
      for (int64_t r = 0; r < rows; ++r) {
        T* __restrict p = probs + r * keys, * __restrict ds = dscores + r * keys;
        const T* __restrict g = dy + at + (first + r) * channels, * __restrict out =
                                                                      y + at + (first + r) * channels;
        const T log_sum = lse[pair * length + first + r];
        T delta = 0;
#pragma omp simd reduction(+ : delta)
        for (int64_t c = 0; c < head_size; ++c) delta += g[c] * out[c];
        const int64_t seen = first + r + 1;
        for (int64_t j = 0; j < seen; ++j) {
          p[j] = math::exp(p[j] - log_sum);
          ds[j] = scale * p[j] * (ds[j] - delta);
        }
        std::fill(p + seen, p + keys, T(0));
        std::fill(ds + seen, ds + keys, T(0));
      }
      const T add = i == strips - 1 ? 0 : 1;
      cpu::matmul<T>(dq + first * stride, stride, {dscores, keys, 1}, {keys_at, stride, 1}, rows, head_size,
                     keys, 1, 0);
      cpu::matmul<T>(dq + channels, stride, {dscores, 1, keys}, {queries, stride, 1}, keys, head_size, rows,
                     1, add);
      cpu::matmul<T>(dq + 2 * channels, stride, {probs, 1, keys}, {dout, channels, 1}, keys, head_size, rows,
                     1, add);
    }
  });
}

#define AG_INSTANTIATE(T)                                                                                  \
  template void attention<Cpu>(T*, T*, const T*, int64_t, int64_t, int64_t, int64_t);                      \
  template void attention_grad<Cpu>(T*, const T*, const T*, const T*, const T*, int64_t, int64_t, int64_t, \
                                    int64_t);
AG_INSTANTIATE(float)
AG_INSTANTIATE(double)

}  // namespace altgrad::kernels
