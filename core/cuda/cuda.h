// The CUDA runtime as the rest of altgrad sees it (core/cuda/runtime.cpp), without the toolkit's headers. Each device
// has one stream, which all threads share: what they start there runs in that order, and memory that is given back
// and taken again needs no waiting. cuda_stub.cpp stands in for it in builds without CUDA.
#pragma once

#include <altgrad/core/device.h>

#include <cstddef>

namespace altgrad::cuda {

// Throw std::runtime_error where the device is not there. Memory is null where there is none left.
void* allocate(size_t bytes, int device);
void free(void* p, int device);
// Queued behind what was started on the devices, but what is copied to the host is there on return; what is copied
// from it may be changed at once.
void copy(void* dst, Device to, const void* src, Device from, size_t bytes);
// Waits for the device. This and copies to the host throw std::invalid_argument for an id out of range that kernels
// there have been given since the last such error.
void synchronize(int device);

}  // namespace altgrad::cuda
