// The seam between devices. A kernel is a function template on a device tag, declared once in kernels.h,
// defined for Cpu in core/cpu and for Cuda in core/cuda. dispatch() turns a tensor's device and dtype into
// template arguments:
//   dispatch("tanh", x, [&]<class D, class T>() { kernels::unary<D>(f, y.ptr<T>(), x.ptr<T>(), n); });
// Without CUDA no CUDA tensor can exist (allocating one throws), so the Cuda branch is not compiled.
#pragma once

#include <altgrad/core/float_environment.h>
#include <altgrad/core/tensor.h>

namespace altgrad {

struct Cpu {};
struct Cuda {};

// f.operator()<D>() for the device's tag.
template <class F>
decltype(auto) dispatch_device(Device device, F&& f) {
#if defined(ALTGRAD_HAS_CUDA)
  if (!device.is_cpu()) return f.template operator()<Cuda>();
#endif
  (void)device;
  const DefaultFloatEnvironment environment;
  return f.template operator()<Cpu>();
}

// f.operator()<D, T>() for floating dtypes; throws std::invalid_argument, naming the op, for others.
template <class F>
decltype(auto) dispatch(const char* op, const Tensor& x, F&& f) {
  return dispatch_device(x.device(), [&]<class D>() {
    if (x.dtype() == DType::f32) return f.template operator()<D, float>();
    if (x.dtype() == DType::f64) return f.template operator()<D, double>();
    fail(op, ": needs a floating dtype, got ", x.dtype(), " of shape ", x.shape());
  });
}

// As dispatch, for every dtype: T is float, double, int64_t or uint8_t.
template <class F>
decltype(auto) dispatch_all(const Tensor& x, F&& f) {
  return dispatch_device(x.device(), [&]<class D>() {
    switch (x.dtype()) {
      case DType::f32: return f.template operator()<D, float>();
      case DType::f64: return f.template operator()<D, double>();
      case DType::i64: return f.template operator()<D, int64_t>();
      default: return f.template operator()<D, uint8_t>();
    }
  });
}

}  // namespace altgrad
