// Reductions (core/cpu/reduce.cpp): x (outer, n, inner) -> y (outer, inner).
#pragma once

#include <altgrad/core/device.h>
#include <altgrad/core/dtype.h>

#include <concepts>

namespace altgrad::kernels {

inline namespace on_cpu {

// y = the sum / divisor; the sum itself need not be a T
template <class T>
void sum(const Cpu&, T* y, const T* x, int64_t outer, int64_t n, int64_t inner, double divisor);
// NaN where a NaN is among the n.
template <class T>
void max(const Cpu&, T* y, const T* x, int64_t outer, int64_t n, int64_t inner);
// dx = dy shared evenly among the elements equal to y.
template <class T>
void max_grad(const Cpu&, T* dx, const T* dy, const T* x, const T* y, int64_t outer, int64_t n,
              int64_t inner);
// The first index of the largest element of each row of x (rows, n).
template <class T>
void argmax(const Cpu&, int64_t* y, const T* x, int64_t rows, int64_t n);
// The largest |x| as a float that is not below it (f64 is rounded up), NaN where there is one, 0 for n = 0.
template <class T>
void amax(const Cpu&, float* result, const T* x, int64_t n);
// 1 where there is a NaN, else 0.
template <class T>
void has_nan(const Cpu&, uint8_t* result, const T* x, int64_t n);

}  // namespace on_cpu

// The same on a GPU (core/cuda/reduce.cu), where sums of bf16 are f32.
inline namespace on_cuda {

template <class T>
void sum(const Cuda&, Compute<T>* y, const T* x, int64_t outer, int64_t n, int64_t inner, double divisor);
template <std::floating_point T>
void max(const Cuda&, T* y, const T* x, int64_t outer, int64_t n, int64_t inner);
template <std::floating_point T>
void max_grad(const Cuda&, T* dx, const T* dy, const T* x, const T* y, int64_t outer, int64_t n,
              int64_t inner);
template <std::floating_point T>
void argmax(const Cuda&, int64_t* y, const T* x, int64_t rows, int64_t n);
template <class T>
void amax(const Cuda&, float* result, const T* x, int64_t n);
template <std::floating_point T>
void has_nan(const Cuda&, uint8_t* result, const T* x, int64_t n);

}  // namespace on_cuda

}  // namespace altgrad::kernels
