// The CUDA runtime as the rest of altgrad sees it (core/cuda/runtime.cpp), without the toolkit's headers. Each device
// has one stream, which all threads share: what they start there runs in that order, and memory that is given back
// and taken again needs no waiting. cuda_stub.cpp stands in for it in builds without CUDA.
#pragma once

#include <altgrad/core/device.h>

#include <cstddef>

namespace altgrad::cuda {

void free(void* p, int device) noexcept;
// What follows throws std::runtime_error where the device is not there. Memory is null where there is none left.
void* allocate(size_t bytes, int device);
// Queued behind what was started on the devices, but what is copied to the host is there on return; what is copied
// from it may be changed at once.
void copy(void* dst, Device to, const void* src, Device from, size_t bytes);
// Waits for the device. This and copies to the host throw std::invalid_argument for an id out of range that kernels
// there have been given since the last such error.
void synchronize(int device);

// Between the two, what is started on the device is recorded and not run. Waiting, and copies from and to the host or
// another device throw std::invalid_argument then. end_capture gives the recorded work.
void begin_capture(int device);
void* end_capture(int device);
// Instead of end_capture: forgets it.
void drop_capture(int device) noexcept;
// Starts recorded work, as one piece.
void launch_graph(void* graph, int device);
// Work that was started is done nevertheless.
void destroy_graph(void* graph, int device) noexcept;

}  // namespace altgrad::cuda
