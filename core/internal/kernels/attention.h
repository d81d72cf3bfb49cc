// Attention (core/cpu/attention.cpp).
#pragma once

#include <altgrad/core/device.h>
#include <altgrad/core/dtype.h>
#include <altgrad/core/internal/log_sum_exp.h>

namespace altgrad::kernels {

// Keys and values of sequences that grow, for attention: keys (sequences, heads, capacity / cache_block, head_size,
// cache_block), as products read them, and values (sequences, heads, capacity, head_size), for whole blocks of positions.
constexpr int64_t cache_block = 32;

// The sequence that a row of a batch continues, and how many of its positions the cache holds already.
struct CachedSequence {
  int64_t index, length;
};

inline namespace on_cpu {

// Causal self-attention: qkv (B, T, 3 * C) holds q, k, v side by side, each of C = heads * head_size.
// y (B, T, C) = softmax(q k^T / sqrt(head_size), causal) v for each head, a strip of queries at a time, so
// that no T x T matrix is in memory; lse (B, heads, T) of the rows lets backward make the strips again (as
// FlashAttention does with tiles: Dao et al., 2022).
template <class T>
void attention(const Cpu&, T* y, LogSumExp<T>* lse, const T* qkv, int64_t batch, int64_t length,
               int64_t heads, int64_t head_size);
template <class T>
void attention_grad(const Cpu&, T* dqkv, const T* dy, const T* qkv, const T* y, const LogSumExp<T>* lse,
                    int64_t batch, int64_t length, int64_t heads, int64_t head_size);
// The next T positions of B sequences, whose keys and values the cache takes from qkv (B, T, 3 * C).
template <class T>
void extend_cache(const Cpu&, T* keys, T* values, const T* qkv, const CachedSequence* sequences,
                  int64_t capacity, int64_t batch, int64_t length, int64_t heads, int64_t head_size);
// Attention of these positions, which the cache has taken, over all up to theirs. In f32, where products have no sums that
// follow sizes (core/cpu/matmul.h), to the same bits as attention over the whole sequences.
template <class T>
void cached_attention(const Cpu&, T* y, const T* keys, const T* values, const T* qkv,
                      const CachedSequence* sequences, int64_t capacity, int64_t batch, int64_t length,
                      int64_t heads, int64_t head_size);

}  // namespace on_cpu

// The same on a GPU (core/cuda/attention.cu). What is stored as bfloat16 is computed with sums in float.
inline namespace on_cuda {

template <class T>
void attention(const Cuda&, T* y, LogSumExp<Compute<T>>* lse, const T* qkv, int64_t batch, int64_t length,
               int64_t heads, int64_t head_size);
template <class T>
void attention_grad(const Cuda&, T* dqkv, const T* dy, const T* qkv, const T* y,
                    const LogSumExp<Compute<T>>* lse, int64_t batch, int64_t length, int64_t heads,
                    int64_t head_size);
template <class T>
void extend_cache(const Cuda&, T* keys, T* values, const T* qkv, const CachedSequence* sequences,
                  int64_t capacity, int64_t batch, int64_t length, int64_t heads, int64_t head_size);
template <class T>
void cached_attention(const Cuda&, T* y, const T* keys, const T* values, const T* qkv,
                      const CachedSequence* sequences, int64_t capacity, int64_t batch, int64_t length,
                      int64_t heads, int64_t head_size);

}  // namespace on_cuda

}  // namespace altgrad::kernels
