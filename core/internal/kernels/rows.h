// Kernels on the rows of x (rows, n), with one result row or number a row (core/cpu/rows.cpp).
#pragma once

#include <altgrad/core/device.h>
#include <altgrad/core/dtype.h>
#include <altgrad/core/internal/log_sum_exp.h>

#include <concepts>

namespace altgrad::kernels {

// A row's mean is mean + rest: the one number that is nearest to it may be further off than the row's numbers are
// from each other.
template <class T>
struct Moments {
  T mean, rest, rstd;
};

inline namespace on_cpu {

template <class T>
void softmax(const Cpu&, T* y, const T* x, int64_t rows, int64_t n);
// dx = y * (dy - sum(dy * y))
template <class T>
void softmax_grad(const Cpu&, T* dx, const T* dy, const T* y, int64_t rows, int64_t n);
template <class T>
void log_softmax(const Cpu&, T* y, const T* x, int64_t rows, int64_t n);
// dx = dy - exp(y) * sum(dy)
template <class T>
void log_softmax_grad(const Cpu&, T* dx, const T* dy, const T* y, int64_t rows, int64_t n);
// y = (x - mean) * rstd * w + b, rstd = 1 / sqrt(var + eps); moments (rows); w, b (n), b may be null. Where there is a
// residual (rows, n), the same of sum = x + residual.
template <class T>
void layer_norm(const Cpu&, T* y, Moments<T>* moments, const T* x, const T* w, const T* b, int64_t rows,
                int64_t n, double eps, const T* residual = nullptr, T* sum = nullptr);
// dx (rows, n) = beta * dx + the gradient, unread where beta = 0; each of dx, dw (n), db (n) may be null.
template <class T>
void layer_norm_grad(const Cpu&, T* dx, double beta, T* dw, T* db, const T* dy, const T* x,
                     const Moments<T>* moments, const T* w, int64_t rows, int64_t n);
// y = x * rstd * w, rstd = 1 / sqrt(mean(x^2) + eps)
template <class T>
void rms_norm(const Cpu&, T* y, T* rstd, const T* x, const T* w, int64_t rows, int64_t n, double eps);
template <class T>
void rms_norm_grad(const Cpu&, T* dx, double beta, T* dw, const T* dy, const T* x, const T* rstd, const T* w,
                   int64_t rows, int64_t n);

// Each row's loss[r] = log(sum(exp(x))) - x[target], 0 where target = ignore; lse (rows).
template <class T>
void cross_entropy(const Cpu&, T* loss, LogSumExp<T>* lse, const T* x, const int64_t* targets, int64_t rows,
                   int64_t n, int64_t ignore);
// *weight = 1 / the number of targets that are not to be ignored
template <class T>
void target_weight(const Cpu&, T* weight, const int64_t* targets, int64_t rows, int64_t ignore);
// dx = *dy * *weight * (softmax(x) - [column = target]), 0 in ignored rows
template <class T>
void cross_entropy_grad(const Cpu&, T* dx, const T* dy, const T* weight, const T* x, const LogSumExp<T>* lse,
                        const int64_t* targets, int64_t rows, int64_t n, int64_t ignore);

}  // namespace on_cpu

// The same on a GPU (core/cuda/rows.cu, norms.cu), where rows may also be of bf16: what belongs to a row or a column is
// then f32.
inline namespace on_cuda {

template <class T>
void softmax(const Cuda&, T* y, const T* x, int64_t rows, int64_t n);
template <class T>
void softmax_grad(const Cuda&, T* dx, const T* dy, const T* y, int64_t rows, int64_t n);
template <class T>
void log_softmax(const Cuda&, T* y, const T* x, int64_t rows, int64_t n);
template <class T>
void log_softmax_grad(const Cuda&, T* dx, const T* dy, const T* y, int64_t rows, int64_t n);
template <class T>
void layer_norm(const Cuda&, T* y, Moments<Compute<T>>* moments, const T* x, const Compute<T>* w,
                const Compute<T>* b, int64_t rows, int64_t n, double eps, const T* residual = nullptr,
                T* sum = nullptr);
template <class T>
void layer_norm_grad(const Cuda&, T* dx, double beta, Compute<T>* dw, Compute<T>* db, const T* dy, const T* x,
                     const Moments<Compute<T>>* moments, const Compute<T>* w, int64_t rows, int64_t n);
template <class T>
void rms_norm(const Cuda&, T* y, Compute<T>* rstd, const T* x, const Compute<T>* w, int64_t rows, int64_t n,
              double eps);
template <class T>
void rms_norm_grad(const Cuda&, T* dx, double beta, Compute<T>* dw, const T* dy, const T* x,
                   const Compute<T>* rstd, const Compute<T>* w, int64_t rows, int64_t n);
template <class T>
void cross_entropy(const Cuda&, Compute<T>* loss, LogSumExp<Compute<T>>* lse, const T* x,
                   const int64_t* targets, int64_t rows, int64_t n, int64_t ignore);
template <std::floating_point T>
void target_weight(const Cuda&, T* weight, const int64_t* targets, int64_t rows, int64_t ignore);
template <class T>
void cross_entropy_grad(const Cuda&, T* dx, const Compute<T>* dy, const Compute<T>* weight, const T* x,
                        const LogSumExp<Compute<T>>* lse, const int64_t* targets, int64_t rows, int64_t n,
                        int64_t ignore);
// Both at once, dx for *dy = 1: x is read from memory once, where a multiprocessor holds two of its rows.
template <class T>
void cross_entropy_with_grad(const Cuda&, Compute<T>* loss, T* dx, const Compute<T>* weight, const T* x,
                             const int64_t* targets, int64_t rows, int64_t n, int64_t ignore);
// x *= *factor; x is neither read nor written where that is 1.
template <class T>
void scale(const Cuda&, T* x, const Compute<T>* factor, int64_t n);

}  // namespace on_cuda

}  // namespace altgrad::kernels
