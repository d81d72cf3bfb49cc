// What functions of the CUDA runtime return becomes an exception.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace altgrad::cuda {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // or a program that asks after calls of its own would be told of this one
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

}  // namespace altgrad::cuda
