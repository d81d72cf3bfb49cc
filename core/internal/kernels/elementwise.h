// Elementwise kernels (core/cpu/elementwise.cpp); their functors are in core/internal/functors.h.
#pragma once

#include <altgrad/core/bfloat16.h>
#include <altgrad/core/device.h>
#include <altgrad/core/internal/loop_nest.h>

namespace altgrad::kernels {

inline namespace on_cpu {

// y = f.value(x)
template <class F, class T>
void unary(const Cpu&, F f, T* y, const T* x, int64_t n);
// y and derivative = f.value_and_derivative(x), for functors that save the derivative
template <class F, class T>
void unary_with_derivative(const Cpu&, F f, T* y, T* derivative, const T* x, int64_t n);
// dx = dy * f.derivative(saved); saved is null where it needs nothing
template <class F, class T>
void unary_grad(const Cpu&, F f, T* dx, const T* dy, const T* saved, int64_t n);

// y = f.value(a, b), y contiguous over s: of dtype T, or u8 where f compares
template <class F, class Y, class T>
void binary(const Cpu&, F f, Y* y, const T* a, const T* b, const LoopNest& s);
// da = dy * f.derivative_a(a, b), db = dy * f.derivative_b(a, b), both contiguous over s, each may be null
template <class F, class T>
void binary_grad(const Cpu&, F f, T* da, T* db, const T* dy, const T* a, const T* b, const LoopNest& s);

// dst[offset by s.a] = src[offset by s.b]: permute, narrow, cat, expand and their backwards.
template <class T>
void copy_strided(const Cpu&, T* dst, const T* src, const LoopNest& s);
// y = condition ? a : b; a null input counts as zeros.
template <class T>
void where(const Cpu&, T* y, const uint8_t* condition, const T* a, const T* b, int64_t n);
template <class T>
void fill(const Cpu&, T* y, T value, int64_t n);
template <class To, class From>
void cast(const Cpu&, To* y, const From* x, int64_t n);
// y += alpha * x, also of bf16
template <class T>
void axpy(const Cpu&, T* y, const T* x, double alpha, int64_t n);

}  // namespace on_cpu

// The same on a GPU (core/cuda/elementwise.cu), but for unary_with_derivative; T may also be bf16, and values are
// computed in f32.
inline namespace on_cuda {

template <class F, class T>
void unary(const Cuda&, F f, T* y, const T* x, int64_t n);
template <class F, class T>
void unary_grad(const Cuda&, F f, T* dx, const T* dy, const T* saved, int64_t n);
// dx (rows, columns) *= f.derivative(saved), of gelu, and `sums` (columns) = what its rows add up to then.
template <class F>
void unary_grad(const Cuda&, F f, bfloat16* dx, float* sums, const bfloat16* saved, int64_t rows,
                int64_t columns);
template <class F, class Y, class T>
void binary(const Cuda&, F f, Y* y, const T* a, const T* b, const LoopNest& s);
template <class F, class T>
void binary_grad(const Cuda&, F f, T* da, T* db, const T* dy, const T* a, const T* b, const LoopNest& s);
template <class T>
void copy_strided(const Cuda&, T* dst, const T* src, const LoopNest& s);
template <class T>
void where(const Cuda&, T* y, const uint8_t* condition, const T* a, const T* b, int64_t n);
template <class T>
void fill(const Cuda&, T* y, T value, int64_t n);
template <class To, class From>
void cast(const Cuda&, To* y, const From* x, int64_t n);
template <class T>
void axpy(const Cuda&, T* y, const T* x, double alpha, int64_t n);

}  // namespace on_cuda

}  // namespace altgrad::kernels
