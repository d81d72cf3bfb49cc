// Matrix products (core/cpu/gemm.cpp).
#pragma once

#include <altgrad/core/device.h>
#include <altgrad/core/dtype.h>
#include <altgrad/core/internal/fp8.h>

#include <cstdint>

namespace altgrad::kernels {

// For each of `batch` products: C (m, n) = alpha * op(A) op(B) + beta * C, where op(A) is (m, k) and op(B) is
// (k, n); with trans_a, A is stored (k, m), with trans_b, B is stored (n, k). stride_*: elements from one
// matrix of the batch to the next (0 shares it).
struct Gemm {
  int64_t m, n, k;
  bool trans_a = false, trans_b = false;
  double alpha = 1, beta = 0;
  int64_t batch = 1, stride_a = 0, stride_b = 0, stride_c = 0;
  const float *scale_a = nullptr, *scale_b = nullptr;  // factors of alpha that lie in memory of the device
};

inline namespace on_cpu {

template <class T>
void gemm(const Cpu&, T* c, const T* a, const T* b, const Gemm& g);

// y (rows, n) = x (rows, k) w^T + bias, w (n, k), bias (n) or null.
template <class T>
void linear(const Cpu&, T* y, const T* x, const T* w, const T* bias, int64_t rows, int64_t n, int64_t k);
// dw (n, k) = dy^T x + beta dw, db (n) = the sums of dy's columns; each may be null.
template <class T>
void linear_grad(const Cpu&, T* dw, double beta, T* db, const T* dy, const T* x, int64_t rows, int64_t n,
                 int64_t k);

// As gemm for a single product of bf16 matrices, with f32 sums, + bias (n), which may be null, in every row; where the
// machine has instructions for it.
bool has_bf16(const Cpu&);
void gemm(const Cpu&, float* c, const bfloat16* a, const bfloat16* b, const float* bias, const Gemm& g);
inline bool has_fp8(const Cpu&) { return false; }

}  // namespace on_cpu

// The same on a GPU (core/cuda/gemm.cu).
inline namespace on_cuda {

template <class T>
void gemm(const Cuda&, T* c, const T* a, const T* b, const Gemm& g);
template <class T>
void linear(const Cuda&, T* y, const T* x, const T* w, const T* bias, int64_t rows, int64_t n, int64_t k);
template <class T>
void linear_grad(const Cuda&, Compute<T>* dw, double beta, Compute<T>* db, const T* dy, const T* x,
                 int64_t rows, int64_t n, int64_t k);
bool has_bf16(const Cuda&);
void gemm(const Cuda&, float* c, const bfloat16* a, const bfloat16* b, const float* bias, const Gemm& g);
// The same sums, each rounded once, to bf16; so is the bias, before it is added.
void gemm(const Cuda&, bfloat16* c, const bfloat16* a, const bfloat16* b, const float* bias, const Gemm& g);

// The products of ops on activations of bf16, by the names of the others.
inline void gemm(const Cuda& device, bfloat16* c, const bfloat16* a, const bfloat16* b, const Gemm& g) {
  gemm(device, c, a, b, nullptr, g);
}
inline void gemm(const Cuda& device, float* c, const bfloat16* a, const bfloat16* b, const Gemm& g) {
  gemm(device, c, a, b, nullptr, g);
}
inline void linear(const Cuda& device, bfloat16* y, const bfloat16* x, const bfloat16* w, const float* bias,
                   int64_t rows, int64_t n, int64_t k) {
  gemm(device, y, x, w, bias, {.m = rows, .n = n, .k = k, .trans_b = true});
}

// y (rows, n) = gelu(h), with h = x (rows, k) w^T + bias (n), which may be null. `gelu` is GeluErf or GeluTanh.
template <class F>
void linear_gelu(const Cuda&, F gelu, bfloat16* y, bfloat16* h, const bfloat16* x, const bfloat16* w,
                 const float* bias, int64_t rows, int64_t n, int64_t k);
// dh (rows, n) = dy (rows, k) w (k, n) * the derivative of gelu at h, which may be NaN where |h| is beyond 1e19, and db (n),
// which may be null, = the column sums of dh. GeluTanh is part of the product where that gains (core/cuda/gemm.cu).
template <class F>
void linear_gelu_grad(const Cuda&, F gelu, bfloat16* dh, float* db, const bfloat16* dy, const bfloat16* w,
                      const bfloat16* h, int64_t rows, int64_t n, int64_t k);

// As gemm for a single product of matrices in codes of these FP8 formats, not of E5M2 both, by FP8 tensor cores, which
// keep fewer bits of a sum than f32 has; where the device has them. They read along sums: A is stored (m, k), B (n, k).
bool has_fp8(const Cuda&);
template <class T>
void gemm_fp8(const Cuda&, T* c, const uint8_t* a, Fp8 format_a, const uint8_t* b, Fp8 format_b,
              const float* bias, const Gemm& g);

}  // namespace on_cuda

}  // namespace altgrad::kernels
