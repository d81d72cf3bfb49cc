// The seam between ops and kernels. A kernel is a function overloaded on devices, which are values:
//
//   template <class T>
//   void softmax(const Cpu&, T* y, const T* x, int64_t rows, int64_t n);
//
// first the device, then outputs, inputs, sizes. It writes its results to memory of the device and returns nothing, so
// that no caller waits for it, and trusts its arguments: the op has checked them. Tensors are contiguous and row-major;
// no kernel allocates one. launch() calls it on its tensors' device with their dtype:
//
//   launch("softmax", AG_KERNEL(softmax), y, x, rows, n);
//
// dispatch() and its like are for what needs more than one call.
//
// On a GPU T may be bfloat16, for activations: a kernel stores T and computes in Compute<T>, and what lasts longer is a
// Compute<T>, as the parameters beside activations and their gradients, sums over a row, losses:
//
//   template <class T>
//   void rms_norm(const Cuda&, T* y, Compute<T>* rstd, const T* x, const Compute<T>* w, ...);
//   launch("rms_norm", AG_KERNEL(rms_norm), y, in_compute(rstd), x, in_compute(w), ...);
#pragma once

#include <altgrad/core/float_environment.h>
#include <altgrad/core/tensor.h>

#include <optional>
#include <type_traits>

/// The overloads of a kernel as one function object.
#define AG_KERNEL(name)                                        \
  [](const auto&... args) requires requires { name(args...); } \
  { name(args...); }

ALTGRAD_API_BEGIN
namespace altgrad {

/// Throw std::invalid_argument, naming the op, where a tensor is undefined; where dtypes or devices of two differ;
/// where the dtype is not floating.
void check_defined(const char* op, const Tensor& x);
void check_same_kind(const char* op, const Tensor& a, const Tensor& b);
void check_floating(const char* op, const Tensor& x);
void check_floating(const char* op, DType dtype, const Shape& shape);
/// The same for ops that compute with bf16 on a GPU: where x is neither floating nor bf16 on one; where p is not what
/// goes beside such an x as a parameter, of compute_dtype(x.dtype()) and on its device.
void check_activation(const char* op, const Tensor& x);
void check_parameter(const char* op, const Tensor& x, const Tensor& p);

namespace detail {
/// For its life a GPU is the calling thread's current one (core/cuda/runtime.cpp).
class CurrentCuda {
 public:
  explicit CurrentCuda(int index);
  ~CurrentCuda();
  CurrentCuda(const CurrentCuda&) = delete;
  CurrentCuda& operator=(const CurrentCuda&) = delete;
  const Cuda& device() const { return device_; }

 private:
  Cuda device_;
  int before_;
};
}  // namespace detail

/// Calls f(device) with the value that kernels are overloaded on.
template <class F>
decltype(auto) dispatch_device(Device device, F&& f) {
  const DefaultFloatEnvironment environment;
  switch (device.type) {
    case DeviceType::cpu: return f(Cpu{});
    case DeviceType::cuda:
#if defined(ALTGRAD_CUDA)
      return f(detail::CurrentCuda(device.index).device());
#else
      break;
#endif
  }
  fail_runtime("device ", device, ": altgrad was built without CUDA");
}

/// Calls `f.operator()<T>(device)` for floating dtypes; throws as check_floating does for others.
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
    check_floating(op, x);
    __builtin_unreachable();
  });
}

/// The same, for bf16 on a GPU, too; throws as check_activation does.
template <class F>
void dispatch_activation(const char* op, const Tensor& x, F&& f) {
  if (!x.defined() || x.dtype() != DType::bf16) return dispatch(op, x, f);
  check_activation(op, x);
  dispatch_device(x.device(), [&](const auto& device) {
    if constexpr (!std::is_same_v<decltype(device), const Cpu&>) f.template operator()<bfloat16>(device);
  });
}

/// For every dtype.
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

struct InCompute {
  const Tensor* tensor;  // null where it is absent
};
template <template <class> class Struct>
struct StructsIn {
  const Tensor& tensor;
};

template <class T>
T* argument(const Tensor& x) {
  return x.defined() ? static_cast<T*>(body_of(x)->storage->data) : nullptr;
}
template <class T>
T* argument(const std::optional<Tensor>& x) {
  return x ? argument<T>(*x) : nullptr;
}
template <class T>
Compute<T>* argument(const InCompute& x) {
  return x.tensor ? argument<Compute<T>>(*x.tensor) : nullptr;
}
template <class T, template <class> class Struct>
Struct<Compute<T>>* argument(const StructsIn<Struct>& x) {
  return x.tensor.template ptr<Struct<Compute<T>>>();
}
template <class T, class A>
const A& argument(const A& x) {
  return x;
}

template <class Kernel, class On, class... Args>
void call_kernel(const char* op, const Tensor& of, const Kernel& kernel, const On& device,
                 const Args&... args) {
  if constexpr (std::is_same_v<On, Cpu> || std::is_invocable_v<const Kernel&, const On&, const Args&...>) {
    kernel(device, args...);
  } else {
    fail_runtime(op, ": has no kernel for ", of.dtype(), " on ", of.device());
  }
}

// The tensor that is given, null where there is none, and, of a marked one, no such.
inline const Tensor* plain_tensor(const Tensor& x) { return x.defined() ? &x : nullptr; }
inline const Tensor* plain_tensor(const std::optional<Tensor>& x) { return x ? plain_tensor(*x) : nullptr; }
template <class A>
const Tensor* plain_tensor(const A&) {
  return nullptr;
}
inline const Tensor* marked_tensor(const InCompute& x) {
  return x.tensor ? plain_tensor(*x.tensor) : nullptr;
}
template <template <class> class Struct>
const Tensor* marked_tensor(const StructsIn<Struct>& x) {
  return &x.tensor;
}
template <class A>
const Tensor* marked_tensor(const A&) {
  return nullptr;
}

}  // namespace detail

/// A tensor of Compute<T> as an argument of launch; may be undefined or absent.
inline detail::InCompute in_compute(const Tensor& x) { return {&x}; }
inline detail::InCompute in_compute(const std::optional<Tensor>& x) { return {x ? &*x : nullptr}; }
/// One that holds Structs of Compute<T>, LogSumExp or the like.
template <template <class> class Struct>
detail::StructsIn<Struct> structs_in(const Tensor& x) {
  return {x};
}

/// Calls a kernel on the device of the first tensor among the arguments that is defined and not marked by in_compute or
/// structs_in. Tensors, also optional ones, become pointers to elements of its dtype, null where undefined or absent;
/// pass x.ptr<U>() for one of another dtype. All else is handed on as it is. The kernel is a template for float and
/// double, and on a GPU, unless its declaration says otherwise, for bfloat16: others take dispatch_device. Throws as
/// check_activation does for that tensor, as check_same_kind where another one differs from it, as check_parameter for
/// those marked, and std::runtime_error where the kernel is not overloaded on its device.
template <class Kernel, class... Args>
void launch(const char* op, Kernel kernel, const Args&... args) {
  const Tensor* first = nullptr;
  const auto check = [&](const Tensor* x) {
    if (first && x) check_same_kind(op, *first, *x);
    if (!first) first = x;
  };
  (check(detail::plain_tensor(args)), ...);
  if (!first) fail(op, ": launch needs a tensor among its arguments");
  const auto check_marked = [&](const Tensor* x) {
    if (x) check_parameter(op, *first, *x);
  };
  (check_marked(detail::marked_tensor(args)), ...);
  dispatch_activation(op, *first, [&]<class T>(const auto& device) {
    detail::call_kernel(op, *first, kernel, device, detail::argument<T>(args)...);
  });
}

}  // namespace altgrad
ALTGRAD_API_END
