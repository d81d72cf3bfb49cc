// Causal attention without a T x T matrix. Floats and bfloat16s go to tiles, where these suit the head
// (flash_attention.h). All else is here. Forward, a block has a query and goes through the keys in tiles, with
// the softmax made as it goes (Milakov & Gimelshein, "Online normalizer calculation for softmax", 2018). Backward, a
// block has a query, for dq, and then a key, for dk and dv, so that each is summed by one thread in a fixed order.
#include <altgrad/core/internal/kernels/attention.h>

#include <altgrad/core/cuda/flash_attention.h>
#include <altgrad/core/cuda/launch.h>
#include <altgrad/core/internal/instantiate.h>
#include <altgrad/core/internal/math.h>

#include <cmath>
#include <limits>

namespace altgrad::kernels {
inline namespace on_cuda {
namespace {

// Where one head lies: in qkv its q, k and v are `channels` apart and positions `stride`, in y positions are
// `channels` apart.
struct Head {
  int64_t channels, stride, qkv, y;
  AG_DEVICE Head(int64_t pair, int64_t length, int64_t heads, int64_t size)
      : channels(heads * size),
        stride(3 * channels),
        qkv(pair / heads * length * stride + pair % heads * size),
        y(pair / heads * length * channels + pair % heads * size) {}
};

template <class T>
AG_DEVICE T dot(const T* a, const T* b, int64_t n) {
  T sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// y[c] = scale * y[c] + the sum of weights[j] * x[j * stride + c] for j < n, for c < size; y is not read where scale
// is 0. A barrier before it lets all threads' weights be seen, one after it lets them be overwritten.
template <class T>
AG_DEVICE void add_rows(T* y, T scale, const T* weights, const T* x, int64_t stride, int64_t n,
                        int64_t size) {
  cuda::each_of_row(size, [=](int64_t c) {
    T sum = 0;
    for (int64_t j = 0; j < n; ++j) sum += weights[j] * x[j * stride + c];
    y[c] = scale == 0 ? sum : scale * y[c] + sum;
  });
}

AG_DEVICE int64_t smaller(int64_t a, int64_t b) { return b < a ? b : a; }

template <class T>
void plain_attention(const Cuda& device, T* y, LogSumExp<T>* lse, const T* qkv, int64_t batch, int64_t length,
                     int64_t heads, int64_t head_size) {
  const T scale = T(1) / std::sqrt(T(head_size));
  cuda::rows(device, "attention", batch * heads * length, std::max(length, head_size),
             [=] AG_LAMBDA(int64_t r) {
               AG_SHARED(T, weights, cuda::most_threads);
               constexpr T none = -std::numeric_limits<T>::infinity();
               const int64_t query = r % length, tile = blockDim.x;
               const Head head(r / length, length, heads, head_size);
               const T *const q = qkv + head.qkv + query * head.stride,
                              *const k = qkv + head.qkv + head.channels, *const v = k + head.channels;
               T* const out = y + head.y + query * head.channels;
               T top = none, total = 0;
               for (int64_t first = 0; first <= query; first += tile) {
                 const int64_t key = first + threadIdx.x, count = smaller(tile, query + 1 - first);
                 const T score = key <= query ? scale * dot(q, k + key * head.stride, head_size) : none;
                 const T seen = top;
                 top = cuda::Larger()(top, cuda::block_reduce(score, none, cuda::Larger()));
                 const T base = top == none ? T(0) : top;  // else -inf - -inf
                 const T weight = key <= query ? math::exp_bounded(score - base) : T(0),
                         rescale = math::exp_bounded(seen - base);
                 total = total * rescale + cuda::block_sum(weight);
                 weights[threadIdx.x] = weight;
                 __syncthreads();
                 add_rows(out, first == 0 ? T(0) : rescale, weights, v + first * head.stride, head.stride,
                          count, head_size);
                 __syncthreads();
               }
               const T inverse = T(1) / total;
               cuda::each_of_row(head_size, [=](int64_t c) { out[c] *= inverse; });
               if (threadIdx.x == 0) lse[r] = {top, std::log(total)};
             });
}

// With p = softmax(scale q k^T): dv = p^T dy, ds = scale p (dy v^T - delta), delta = dy . y, dq = ds k, dk = ds^T q.
template <class T>
void plain_attention_grad(const Cuda& device, T* dqkv, const T* dy, const T* qkv, const T* y,
                          const LogSumExp<T>* lse, int64_t batch, int64_t length, int64_t heads,
                          int64_t head_size) {
  const T scale = T(1) / std::sqrt(T(head_size));
  const int64_t positions = batch * heads * length;
  const cuda::Scratch<T> deltas(device, positions);
  cuda::rows(
      device, "attention_grad", positions, std::max(length, head_size),
      [=, deltas = deltas.data()] AG_LAMBDA(int64_t r) {
        AG_SHARED(T, ds, cuda::most_threads);
        const int64_t query = r % length, tile = blockDim.x;
        const Head head(r / length, length, heads, head_size);
        const T *const q = qkv + head.qkv + query * head.stride, *const k = qkv + head.qkv + head.channels,
                       *const v = k + head.channels, *const g = dy + head.y + query * head.channels,
                       *const out = y + head.y + query * head.channels;
        const T delta = cuda::row_sum<T>(head_size, [=](int64_t c) { return g[c] * out[c]; });
        if (threadIdx.x == 0) deltas[r] = delta;
        for (int64_t first = 0; first <= query; first += tile) {
          const int64_t key = first + threadIdx.x, count = smaller(tile, query + 1 - first);
          if (key <= query) {
            const T score = scale * dot(q, k + key * head.stride, head_size);
            const T p = math::exp_bounded((score - lse[r].top) - lse[r].log_sum);
            ds[threadIdx.x] = scale * p * (dot(g, v + key * head.stride, head_size) - delta);
          }
          __syncthreads();
          add_rows(dqkv + head.qkv + query * head.stride, T(first > 0), ds, k + first * head.stride,
                   head.stride, count, head_size);
          __syncthreads();
        }
      });
  cuda::rows(device, "attention_grad", positions, std::max(length, head_size),
             [=, deltas = deltas.data()] AG_LAMBDA(int64_t r) {
               AG_SHARED(T, p, cuda::most_threads);
               AG_SHARED(T, ds, cuda::most_threads);
               const int64_t key = r % length, tile = blockDim.x;
               const Head head(r / length, length, heads, head_size);
               const T *const q = qkv + head.qkv, *const k = q + head.channels + key * head.stride,
                              *const v = k + head.channels, *const g = dy + head.y;
               T *const dk = dqkv + head.qkv + head.channels + key * head.stride, *const dv =
                                                                                      dk + head.channels;
               for (int64_t first = key; first < length; first += tile) {
                 const int64_t query = first + threadIdx.x, at = r - key + query,
                               count = smaller(tile, length - first);
                 if (query < length) {
                   const T dp = dot(g + query * head.channels, v, head_size);
                   const T score = scale * dot(q + query * head.stride, k, head_size);
                   const T weight = math::exp_bounded((score - lse[at].top) - lse[at].log_sum);
                   p[threadIdx.x] = weight;
                   ds[threadIdx.x] = scale * weight * (dp - deltas[at]);
                 }
                 __syncthreads();
                 add_rows(dk, T(first > key), ds, q + first * head.stride, head.stride, count, head_size);
                 add_rows(dv, T(first > key), p, g + first * head.channels, head.channels, count, head_size);
                 __syncthreads();
               }
             });
}

// y[i] = x[i], in another type.
template <class T, class U>
void convert(const Cuda& device, T* y, const U* x, int64_t n) {
  cuda::each(device, "convert", n, [=] AG_LAMBDA(int64_t i) { y[i] = T(x[i]); });
}

// By which tiles what is stored as T is multiplied.
template <class T>
using Tiled = std::conditional_t<std::is_same_v<T, bfloat16>, cuda::Bf16, cuda::F32>;

}  // namespace

template <class T>
void attention(const Cuda& device, T* y, LogSumExp<Compute<T>>* lse, const T* qkv, int64_t batch,
               int64_t length, int64_t heads, int64_t head_size) {
  if constexpr (!std::is_same_v<T, double>) {
    if (cuda::has_flash_attention<Tiled<T>>(device, head_size))
      return cuda::flash_attention<Tiled<T>>(device, y, lse, qkv, batch, length, heads, head_size);
  }
  if constexpr (std::is_same_v<T, bfloat16>) {
    const int64_t n = batch * length * heads * head_size;
    const cuda::Scratch<float> wide_y(device, n), wide_qkv(device, 3 * n);
    convert(device, wide_qkv.data(), qkv, 3 * n);
    attention<float>(device, wide_y.data(), lse, wide_qkv.data(), batch, length, heads, head_size);
    convert(device, y, wide_y.data(), n);
  } else {
    plain_attention(device, y, lse, qkv, batch, length, heads, head_size);
  }
}

template <class T>
void attention_grad(const Cuda& device, T* dqkv, const T* dy, const T* qkv, const T* y,
                    const LogSumExp<Compute<T>>* lse, int64_t batch, int64_t length, int64_t heads,
                    int64_t head_size) {
  if constexpr (!std::is_same_v<T, double>) {
    if (cuda::has_flash_attention<Tiled<T>>(device, head_size)) {
      return cuda::flash_attention_grad<Tiled<T>>(device, dqkv, dy, qkv, y, lse, batch, length, heads,
                                                  head_size);
    }
  }
  if constexpr (std::is_same_v<T, bfloat16>) {
    const int64_t n = batch * length * heads * head_size;
    const cuda::Scratch<float> wide_dqkv(device, 3 * n), wide_dy(device, n), wide_qkv(device, 3 * n),
        wide_y(device, n);
    convert(device, wide_dy.data(), dy, n);
    convert(device, wide_qkv.data(), qkv, 3 * n);
    convert(device, wide_y.data(), y, n);
    attention_grad<float>(device, wide_dqkv.data(), wide_dy.data(), wide_qkv.data(), wide_y.data(), lse,
                          batch, length, heads, head_size);
    convert(device, dqkv, wide_dqkv.data(), 3 * n);
  } else {
    plain_attention_grad(device, dqkv, dy, qkv, y, lse, batch, length, heads, head_size);
  }
}

template <class T>
void extend_cache(const Cuda& device, T* keys, T* values, const T* qkv, const CachedSequence* sequences,
                  int64_t capacity, int64_t batch, int64_t length, int64_t heads, int64_t head_size) {
  const int64_t channels = heads * head_size;
  cuda::each(device, "extend_cache", batch * length * channels, [=] AG_LAMBDA(int64_t i) {
    const int64_t row = i / channels, head = i % channels / head_size, c = i % head_size;
    const CachedSequence sequence = sequences[row / length];
    const int64_t at = (sequence.index * heads + head) * capacity * head_size,
                  position = sequence.length + row % length, block = position / cache_block;
    const T* const k = qkv + row * 3 * channels + channels + i % channels;
    keys[at + (block * head_size + c) * cache_block + position % cache_block] = *k;
    values[at + position * head_size + c] = k[channels];
  });
}

// A block has a query: its scores are in memory of their own, as there are few queries.
template <class T>
void cached_attention(const Cuda& device, T* y, const T* keys, const T* values, const T* qkv,
                      const CachedSequence* sequences, int64_t capacity, int64_t batch, int64_t length,
                      int64_t heads, int64_t head_size) {
  using C = Compute<T>;
  const C scale = C(1) / std::sqrt(C(head_size));
  const cuda::Scratch<C> scores(device, batch * length * heads * capacity);
  cuda::rows(device, "cached_attention", batch * length * heads, std::max(capacity, head_size),
             [=, scores = scores.data()] AG_LAMBDA(int64_t r) {
               const int64_t row = r / heads, head = r % heads;
               const CachedSequence sequence = sequences[row / length];
               const int64_t at = (sequence.index * heads + head) * capacity * head_size,
                             count = sequence.length + row % length + 1;
               const T* const q = qkv + (row * 3 * heads + head) * head_size;
               C* const s = scores + r * capacity;
               constexpr C none = -std::numeric_limits<C>::infinity();
               C own = none;
               cuda::each_of_row(count, [&](int64_t j) {
                 const T* const key = keys + at + j / cache_block * head_size * cache_block + j % cache_block;
                 C sum = 0;
                 for (int64_t c = 0; c < head_size; ++c) sum += C(q[c]) * C(key[c * cache_block]);
                 s[j] = scale * sum;
                 own = cuda::Larger()(own, s[j]);
               });
               const C top = cuda::block_reduce(own, none, cuda::Larger());
               // Behind its barriers all threads' weights are there.
               const C total =
                   cuda::row_sum<C>(count, [&](int64_t j) { return s[j] = math::exp_bounded(s[j] - top); });
               cuda::each_of_row(head_size, [&](int64_t c) {
                 C sum = 0;
                 for (int64_t j = 0; j < count; ++j) sum += s[j] * C(values[at + j * head_size + c]);
                 y[r * head_size + c] = T(sum / total);
               });
             });
}

AG_INSTANTIATE_FLOATING(attention)
AG_INSTANTIATE_FLOATING(attention_grad)
AG_INSTANTIATE_FOR(attention<bfloat16>)
AG_INSTANTIATE_FOR(attention_grad<bfloat16>)
AG_INSTANTIATE_STORED(extend_cache)
AG_INSTANTIATE_STORED(cached_attention)

}  // namespace on_cuda
}  // namespace altgrad::kernels
