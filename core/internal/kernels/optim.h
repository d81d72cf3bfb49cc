// Optimizers and clipping, all parameters in one pass (core/cpu/optim.cpp).
#pragma once

#include <altgrad/core/device.h>
#include <altgrad/core/dtype.h>

namespace altgrad::kernels {

// One parameter: its values, state and gradient, with its group's settings. The learning rate and the number of its
// updates, this one included, lie in memory of the device: they change from step to step.
template <class T>
struct AdamWParam {
  T *w, *m, *v;
  const T* g;
  int64_t n;
  const double* lr;
  const double* step;
  double weight_decay;
};
// Loshchilov & Hutter, "Decoupled weight decay regularization", 2019, algorithm 2.
template <class T>
void adamw(const Cpu&, const AdamWParam<T>* params, int64_t count, double beta1, double beta2, double eps);
template <class T>
struct SgdParam {
  T *w, *v;  // v: momentum, null without
  const T* g;
  int64_t n;
  const double* lr;
  double weight_decay;
};
// d = g + weight_decay * w; v = momentum * v + d; w -= lr * (nesterov ? d + momentum * v : v)
template <class T>
void sgd(const Cpu&, const SgdParam<T>* params, int64_t count, double momentum, bool nesterov);

// A gradient of n elements, f32 or f64.
struct Gradient {
  void* data;
  int64_t n;
  DType dtype;
};
// The 2-norm of all gradients together; squares are summed in f64, gradient by gradient.
void grad_norm(const Cpu&, double* norm, const Gradient* grads, int64_t count);
// All gradients times max_norm / *norm, where *norm is finite and above max_norm.
void clip_grads(const Cpu&, const Gradient* grads, int64_t count, const double* norm, double max_norm);

}  // namespace altgrad::kernels
