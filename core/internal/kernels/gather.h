// Gathering (core/cpu/gather.cpp): x (outer, n, inner), ids (count) -> y (outer, count, inner).
#pragma once

#include <altgrad/core/device.h>
#include <altgrad/core/internal/ids.h>

#include <concepts>

namespace altgrad::kernels {

inline namespace on_cpu {

template <class T>
void gather(const Cpu&, T* y, const T* x, const int64_t* ids, int64_t outer, int64_t n, int64_t count,
            int64_t inner);
// dx (outer, n, inner) = beta * dx + the sum of the rows of dy that came from each row, in the order of ids; beta is
// 0 or 1.
template <class T>
void gather_grad(const Cpu&, T* dx, double beta, const T* dy, const int64_t* ids, int64_t outer, int64_t n,
                 int64_t count, int64_t inner);
// Throws fail_id for the first of the ids that is not in range: at once, or, on a GPU, where the host next waits for it.
void check_ids(const Cpu&, const IdRange& range, const int64_t* ids);

}  // namespace on_cpu

// The same on a GPU (core/cuda/gather.cu), where ids out of range are read as the nearest in range.
inline namespace on_cuda {

template <std::floating_point T>
void gather(const Cuda&, T* y, const T* x, const int64_t* ids, int64_t outer, int64_t n, int64_t count,
            int64_t inner);
template <std::floating_point T>
void gather_grad(const Cuda&, T* dx, double beta, const T* dy, const int64_t* ids, int64_t outer, int64_t n,
                 int64_t count, int64_t inner);
void check_ids(const Cuda&, const IdRange& range, const int64_t* ids);

}  // namespace on_cuda

}  // namespace altgrad::kernels
