// Attention (core/cpu/attention.cpp).
#pragma once

#include <altgrad/core/device.h>
#include <altgrad/core/dtype.h>
#include <altgrad/core/internal/log_sum_exp.h>

namespace altgrad::kernels {

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

}  // namespace on_cuda

}  // namespace altgrad::kernels
