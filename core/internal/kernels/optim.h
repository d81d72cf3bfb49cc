// Optimizers and clipping, all parameters in one pass (core/cpu/optim.cpp).
#pragma once

#include <altgrad/core/device.h>
#include <altgrad/core/internal/strict_math.h>
#include <altgrad/core/param_view.h>

#include <cmath>
#include <span>
#include <variant>

namespace altgrad::kernels {

// The elements of a gradient, in memory of the device.
using Gradient = std::variant<std::span<float>, std::span<double>>;

// Gradients of this norm, in memory of the device, are taken as ones of max_norm where it is finite and larger.
struct Clip {
  const double* norm = nullptr;  // null: they are taken as they are
  double max_norm = 0;

  AG_HD double factor() const {
    return norm && std::isfinite(*norm) && *norm > max_norm ? max_norm / *norm : 1;
  }
};

inline namespace on_cpu {

// Loshchilov & Hutter, "Decoupled weight decay regularization", 2019, algorithm 2; m = state[0], v = state[1]
template <class T>
void adamw(const Cpu&, std::span<const optim::ParamView<T>> params, double beta1, double beta2, double eps,
           const Clip& clip);
// d = g + weight_decay * w; v = momentum * v + d; w -= lr * (nesterov ? d + momentum * v : v); v = state[0], null without
template <class T>
void sgd(const Cpu&, std::span<const optim::ParamView<T>> params, double momentum, bool nesterov);
// w += (1 - decay) (g - w): here w is an average, and g what it follows.
template <class T>
void ema(const Cpu&, std::span<const optim::ParamView<T>> params, double decay);
// The 2-norm of all gradients together; squares are summed in f64, gradient by gradient.
void grad_norm(const Cpu&, double* norm, std::span<const Gradient> grads);
// All gradients times clip.factor().
void clip_grads(const Cpu&, std::span<const Gradient> grads, const Clip& clip);

}  // namespace on_cpu

// The same on a GPU (core/cuda/optim.cu).
inline namespace on_cuda {

template <class T>
void adamw(const Cuda&, std::span<const optim::ParamView<T>> params, double beta1, double beta2, double eps,
           const Clip& clip);
template <class T>
void sgd(const Cuda&, std::span<const optim::ParamView<T>> params, double momentum, bool nesterov);
template <class T>
void ema(const Cuda&, std::span<const optim::ParamView<T>> params, double decay);
void grad_norm(const Cuda&, double* norm, std::span<const Gradient> grads);
void clip_grads(const Cuda&, std::span<const Gradient> grads, const Clip& clip);

}  // namespace on_cuda

}  // namespace altgrad::kernels
