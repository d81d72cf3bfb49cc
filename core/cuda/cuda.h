// What core asks of the CUDA runtime. cuda_stub.cpp stands in for it in builds without CUDA.
#pragma once

#include <cstddef>

namespace altgrad::cuda {

// Device memory; null where there is none left. Throws std::runtime_error where the device is not there.
void* allocate(size_t bytes, int device);
void free(void* p, int device);
// Between any two places of host and device memory; waits until it is done.
void copy(void* dst, const void* src, size_t bytes);

}  // namespace altgrad::cuda
