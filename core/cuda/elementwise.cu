// Elementwise kernels over the functors that the CPU has, too.
#include <altgrad/core/internal/kernels/elementwise.h>

#include <altgrad/core/cuda/launch.h>
#include <altgrad/core/internal/elementwise_instances.h>

namespace altgrad::kernels {
inline namespace on_cuda {
namespace {

struct Offsets {
  int64_t a, b;
};
// Where element i of the output is read. The loop has constant bounds and is unrolled: an index into s at run time
// would have it copied to local memory.
AG_DEVICE Offsets offsets(const LoopNest& s, int64_t i) {
  Offsets at{0, 0};
  for (int d = Shape::max_dim - 1; d >= 0; --d) {
    if (d >= s.dim) continue;
    const int64_t index = i % s.size[d];
    i /= s.size[d];
    at.a += index * s.a[d];
    at.b += index * s.b[d];
  }
  return at;
}

}  // namespace

template <class F, class T>
void unary(const Cuda& device, F f, T* y, const T* x, int64_t n) {
  cuda::each(device, F::name, n, [=] AG_LAMBDA(int64_t i) { y[i] = T(f.value(Compute<T>(x[i]))); });
}

template <class F, class T>
void unary_with_derivative(const Cuda& device, F f, T* y, T* derivative, const T* x, int64_t n) {
  cuda::each(device, F::name, n, [=] AG_LAMBDA(int64_t i) {
    const ValueAndDerivative<Compute<T>> both = f.value_and_derivative(Compute<T>(x[i]));
    y[i] = T(both.value);
    derivative[i] = T(both.derivative);
  });
}

template <class F, class T>
void unary_grad(const Cuda& device, F f, T* dx, const T* dy, const T* saved, int64_t n) {
  cuda::each(device, F::name, n, [=] AG_LAMBDA(int64_t i) {
    dx[i] = T(dy[i] * f.derivative(saved ? Compute<T>(saved[i]) : Compute<T>(0)));
  });
}

template <class F, class Y, class T>
void binary(const Cuda& device, F f, Y* y, const T* a, const T* b, const LoopNest& s) {
  cuda::each(device, F::name, s.numel, [=] AG_LAMBDA(int64_t i) {
    const Offsets at = offsets(s, i);
    y[i] = Y(f.value(Compute<T>(a[at.a]), Compute<T>(b[at.b])));
  });
}

template <class F, class T>
void binary_grad(const Cuda& device, F f, T* da, T* db, const T* dy, const T* a, const T* b,
                 const LoopNest& s) {
  cuda::each(device, F::name, s.numel, [=] AG_LAMBDA(int64_t i) {
    const Offsets at = offsets(s, i);
    const Compute<T> u = a[at.a], v = b[at.b];
    if (da) da[i] = T(dy[i] * f.derivative_a(u, v));
    if (db) db[i] = T(dy[i] * f.derivative_b(u, v));
  });
}

template <class T>
void copy_strided(const Cuda& device, T* dst, const T* src, const LoopNest& s) {
  cuda::each(device, "copy_strided", s.numel, [=] AG_LAMBDA(int64_t i) {
    const Offsets at = offsets(s, i);
    dst[at.a] = src[at.b];
  });
}

template <class T>
void where(const Cuda& device, T* y, const uint8_t* condition, const T* a, const T* b, int64_t n) {
  cuda::each(device, "where", n,
             [=] AG_LAMBDA(int64_t i) { y[i] = condition[i] ? (a ? a[i] : T(0)) : (b ? b[i] : T(0)); });
}

template <class T>
void fill(const Cuda& device, T* y, T value, int64_t n) {
  cuda::each(device, "fill", n, [=] AG_LAMBDA(int64_t i) { y[i] = value; });
}

template <class To, class From>
void cast(const Cuda& device, To* y, const From* x, int64_t n) {
  cuda::each(device, "cast", n, [=] AG_LAMBDA(int64_t i) { y[i] = converted<To>(x[i]); });
}

template <class T>
void axpy(const Cuda& device, T* y, const T* x, double alpha, int64_t n) {
  cuda::each(device, "axpy", n, [=] AG_LAMBDA(int64_t i) { y[i] = T(y[i] + Compute<T>(alpha) * x[i]); });
}

AG_INSTANTIATE_ELEMENTWISE
AG_INSTANTIATE_ELEMENTWISE_BF16

}  // namespace on_cuda
}  // namespace altgrad::kernels
