// The device that the tests of this run are on: the CPU, or what ALTGRAD_TEST_DEVICE names. What they compute with is made
// there, and copied to the host to be looked at.
#pragma once

#include <altgrad/core/tensor.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

inline altgrad::Device device() {
  static const altgrad::Device chosen = [] {
    const char* const name = std::getenv("ALTGRAD_TEST_DEVICE");
    if (!name || std::string(name) == "cpu") return altgrad::Device::cpu();
    if (std::string(name) == "cuda") return altgrad::Device::cuda();
    throw std::runtime_error(std::string("ALTGRAD_TEST_DEVICE is ") + name + ", must be cpu or cuda");
  }();
  return chosen;
}

// t, or its values, in memory of the host, or of the device.
inline altgrad::Tensor host(const altgrad::Tensor& t) {
  return t.device().is_cpu() ? t : t.detach().to(altgrad::Device::cpu());
}
inline altgrad::Tensor on_device(const altgrad::Tensor& t) {
  return t.device() == device() ? t : t.detach().to(device());
}
// A module, with its parameters there.
template <class Module>
Module on_device(Module module) {
  module.to(device());
  return module;
}

// Tensor's own, on that device whatever the options say.
namespace here {

using altgrad::default_generator, altgrad::DType, altgrad::Generator, altgrad::Shape, altgrad::Tensor,
    altgrad::TensorOptions;

inline Tensor empty(const Shape& shape, TensorOptions options = {}) {
  return Tensor::empty(shape, {options.dtype, device()});
}
inline Tensor full(const Shape& shape, double value, TensorOptions options = {}) {
  return Tensor::full(shape, value, {options.dtype, device()});
}
inline Tensor zeros(const Shape& shape, TensorOptions options = {}) { return full(shape, 0, options); }
inline Tensor ones(const Shape& shape, TensorOptions options = {}) { return full(shape, 1, options); }
inline Tensor arange(int64_t n, TensorOptions options = {.dtype = DType::i64}) {
  return Tensor::arange(n, {options.dtype, device()});
}
inline Tensor rand(const Shape& shape, TensorOptions options = {},
                   Generator& generator = default_generator()) {
  return Tensor::rand(shape, {options.dtype, device()}, generator);
}
inline Tensor randn(const Shape& shape, TensorOptions options = {},
                    Generator& generator = default_generator()) {
  return Tensor::randn(shape, {options.dtype, device()}, generator);
}
inline Tensor randint(int64_t high, const Shape& shape, altgrad::Device = {},
                      Generator& generator = default_generator()) {
  return Tensor::randint(high, shape, device(), generator);
}
template <class T>
Tensor from(std::initializer_list<T> values, const Shape& shape) {
  return on_device(Tensor::from<T>(values, shape));
}
template <class T>
Tensor from(const std::vector<T>& values, const Shape& shape) {
  return on_device(Tensor::from(values, shape));
}
template <class T>
Tensor from(std::span<T> values, const Shape& shape) {
  return on_device(Tensor::from(values, shape));
}

}  // namespace here
