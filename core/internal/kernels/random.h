// Random numbers (core/cpu/random.cpp).
#pragma once

#include <altgrad/core/device.h>
#include <altgrad/core/random.h>

#include <concepts>

namespace altgrad::kernels {

inline namespace on_cpu {

template <class T>
void uniform(const Cpu&, T* y, RandomStream random, int64_t n);  // [0, 1)
template <class T>
void normal(const Cpu&, T* y, RandomStream random, int64_t n);  // Box-Muller
void randint(const Cpu&, int64_t* y, int64_t high, RandomStream random, int64_t n);
// y = x / (1 - p) with probability 1 - p, else 0; the same function is its own backward.
template <class T>
void dropout(const Cpu&, T* y, const T* x, double p, RandomStream random, int64_t n);

}  // namespace on_cpu

// The same on a GPU (core/cuda/random.cu); dropout also of bf16.
inline namespace on_cuda {

template <std::floating_point T>
void uniform(const Cuda&, T* y, RandomStream random, int64_t n);
template <std::floating_point T>
void normal(const Cuda&, T* y, RandomStream random, int64_t n);
void randint(const Cuda&, int64_t* y, int64_t high, RandomStream random, int64_t n);
template <class T>
void dropout(const Cuda&, T* y, const T* x, double p, RandomStream random, int64_t n);

}  // namespace on_cuda

}  // namespace altgrad::kernels
