// Optimizers and clipping, all parameters in one pass (core/cpu/optim.cpp).
#pragma once

#include <altgrad/core/device.h>
#include <altgrad/core/param_view.h>

#include <span>
#include <variant>

namespace altgrad::kernels {

// The elements of a gradient, in memory of the device.
using Gradient = std::variant<std::span<float>, std::span<double>>;

inline namespace on_cpu {

// Loshchilov & Hutter, "Decoupled weight decay regularization", 2019, algorithm 2; m = state[0], v = state[1]
template <class T>
void adamw(const Cpu&, std::span<const optim::ParamView<T>> params, double beta1, double beta2, double eps);
// d = g + weight_decay * w; v = momentum * v + d; w -= lr * (nesterov ? d + momentum * v : v); v = state[0], null without
template <class T>
void sgd(const Cpu&, std::span<const optim::ParamView<T>> params, double momentum, bool nesterov);
// The 2-norm of all gradients together; squares are summed in f64, gradient by gradient.
void grad_norm(const Cpu&, double* norm, std::span<const Gradient> grads);
// All gradients times max_norm / *norm, where *norm is finite and above max_norm.
void clip_grads(const Cpu&, std::span<const Gradient> grads, const double* norm, double max_norm);

}  // namespace on_cpu

// The same on a GPU (core/cuda/optim.cu).
inline namespace on_cuda {

template <class T>
void adamw(const Cuda&, std::span<const optim::ParamView<T>> params, double beta1, double beta2, double eps);
template <class T>
void sgd(const Cuda&, std::span<const optim::ParamView<T>> params, double momentum, bool nesterov);
void grad_norm(const Cuda&, double* norm, std::span<const Gradient> grads);
void clip_grads(const Cuda&, std::span<const Gradient> grads, const double* norm, double max_norm);

}  // namespace on_cuda

}  // namespace altgrad::kernels
