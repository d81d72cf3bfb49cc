// Gathering (core/cpu/gather.cpp): x (outer, n, inner), ids (count) -> y (outer, count, inner).
#pragma once

#include <altgrad/core/device.h>

namespace altgrad::kernels {

template <class T>
void gather(const Cpu&, T* y, const T* x, const int64_t* ids, int64_t outer, int64_t n, int64_t count,
            int64_t inner);
// dx (outer, n, inner) = beta * dx + the sum of the rows of dy that came from each row, in the order of ids; beta is
// 0 or 1.
template <class T>
void gather_grad(const Cpu&, T* dx, double beta, const T* dy, const int64_t* ids, int64_t outer, int64_t n,
                 int64_t count, int64_t inner);
// *at = the first i for which ids[i] is outside [0, high), -1 where there is none; `allowed` is let pass.
void find_out_of_range(const Cpu&, int64_t* at, const int64_t* ids, int64_t count, int64_t high,
                       int64_t allowed);

}  // namespace altgrad::kernels
