// Memory of the device that lives as long as its owner, for tests.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <new>
#include <vector>

template <class T>
class Buffer {
 public:
  explicit Buffer(size_t n) : n_(n) {
    if (cudaMalloc(reinterpret_cast<void**>(&p_), n * sizeof(T)) != cudaSuccess) throw std::bad_alloc();
  }
  explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) { set(values); }
  ~Buffer() { cudaFree(p_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  operator T*() const { return p_; }
  void set(const std::vector<T>& values) const {
    cudaMemcpy(p_, values.data(), n_ * sizeof(T), cudaMemcpyHostToDevice);
  }
  // Waits for the null stream.
  std::vector<T> host() const {
    std::vector<T> values(n_);
    cudaMemcpy(values.data(), p_, n_ * sizeof(T), cudaMemcpyDeviceToHost);
    return values;
  }

 private:
  size_t n_;
  T* p_ = nullptr;
};
