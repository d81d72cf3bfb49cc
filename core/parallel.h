// The threads that CPU kernels share their loops among.
#pragma once

#include <altgrad/core/export.h>

#include <cstdint>
#include <functional>

ALTGRAD_API_BEGIN
namespace altgrad {

/// How many threads CPU kernels use. Default: OpenMP's (OMP_NUM_THREADS, else all cores).
/// set_num_threads throws std::invalid_argument where n < 1.
/// fork() is safe, from any thread but those of a parallel region of OpenMP: the calling thread's OpenMP threads end
/// before it and start again, in parent and child, with the next kernel.
void set_num_threads(int n);
int num_threads();

/// Calls f(begin, end) on pieces of [0, n), for a kernel's loop: at most one thread for every `grain` indices. Where f
/// computes each index by itself, the bits do not depend on the number of threads.
void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& f);

}  // namespace altgrad
ALTGRAD_API_END
