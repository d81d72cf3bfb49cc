// The seam between ops and kernels. launch() calls a kernel on its tensors' device with their dtype:
//   launch("softmax", AG_KERNEL(softmax), y, x, rows, n);
// dispatch() and dispatch_device() are for what needs more than one call. Only CPU tensors exist in this build:
// allocating others throws.
#pragma once

#include <altgrad/core/internal/devices.h>
#include <altgrad/core/internal/float_environment.h>
#include <altgrad/core/tensor.h>

#include <optional>
#include <type_traits>

// The overloads of a kernel as one function object.
#define AG_KERNEL(name) [](const auto&... args) { ::altgrad::kernels::name(args...); }

namespace altgrad {

// f(device): with the value that kernels are overloaded on.
template <class F>
decltype(auto) dispatch_device(Device device, F&& f) {
  const DefaultFloatEnvironment environment;
  switch (device.type) {
    case DeviceType::cpu: return f(Cpu{});
    case DeviceType::cuda: break;  // there is no memory to have asked for it with
  }
  __builtin_unreachable();
}

// f.operator()<T>(device) for floating dtypes; throws std::invalid_argument, naming the op, for others.
template <class F>
decltype(auto) dispatch(const char* op, const Tensor& x, F&& f) {
  return dispatch_device(x.device(), [&](const auto& device) {
    switch (x.dtype()) {
      case DType::f32: return f.template operator()<float>(device);
      case DType::f64: return f.template operator()<double>(device);
      case DType::i64:
      case DType::u8:
      case DType::bf16: break;
    }
    fail(op, ": needs a floating dtype, got ", x.dtype(), " of shape ", x.shape());
  });
}

// As dispatch, for every dtype.
template <class F>
decltype(auto) dispatch_all(const Tensor& x, F&& f) {
  return dispatch_device(x.device(), [&](const auto& device) {
    switch (x.dtype()) {
      case DType::f32: return f.template operator()<float>(device);
      case DType::f64: return f.template operator()<double>(device);
      case DType::i64: return f.template operator()<int64_t>(device);
      case DType::u8: return f.template operator()<uint8_t>(device);
      case DType::bf16: return f.template operator()<bfloat16>(device);
    }
    __builtin_unreachable();
  });
}

namespace detail {

// A tensor of Structs of T, Moments or LogSumExp, as an argument of launch.
template <template <class> class Struct>
struct StructsIn {
  const Tensor& tensor;
};

template <class T>
T* argument(const Tensor& x) {
  return x.defined() ? static_cast<T*>(x.body()->storage->data) : nullptr;
}
template <class T>
T* argument(const std::optional<Tensor>& x) {
  return x ? argument<T>(*x) : nullptr;
}
template <class T, template <class> class Struct>
Struct<T>* argument(const StructsIn<Struct>& x) {
  return x.tensor.template ptr<Struct<T>>();
}
template <class T, class A>
const A& argument(const A& x) {
  return x;
}

inline const Tensor* defined_tensor(const Tensor& x) { return x.defined() ? &x : nullptr; }
template <class A>
const Tensor* defined_tensor(const A&) {
  return nullptr;
}

}  // namespace detail

template <template <class> class Struct>
detail::StructsIn<Struct> structs_in(const Tensor& x) {
  return {x};
}

// Calls a kernel on the device of the first tensor among the arguments that is defined. Tensors, also optional ones,
// become pointers to elements of its dtype, null where undefined or absent; pass x.ptr<U>() for one of another dtype.
// All else is handed on as it is. Throws std::invalid_argument, naming the op, where that dtype is not floating.
template <class Kernel, class... Args>
void launch(const char* op, Kernel kernel, const Args&... args) {
  const Tensor* first = nullptr;
  ((first = first ? first : detail::defined_tensor(args)), ...);
  dispatch(op, *first, [&]<class T>(const auto& device) { kernel(device, detail::argument<T>(args)...); });
}

}  // namespace altgrad
