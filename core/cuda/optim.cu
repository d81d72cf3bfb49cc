// Optimizer updates and clipping, a launch for each parameter.
#include <altgrad/core/internal/kernels/optim.h>

#include <altgrad/core/cuda/launch.h>
#include <altgrad/core/internal/instantiate.h>

#include <cmath>

namespace altgrad::kernels {
inline namespace on_cuda {
namespace {

// The numbers of the step, which lie in memory of the device, are worked out once a block.
template <class T>
__global__ void __launch_bounds__(cuda::most_threads)
    adamw_kernel(optim::ParamView<T> p, double beta1, double beta2, double eps) {
  AG_SHARED(T, numbers, 3);
  if (threadIdx.x == 0) {
    numbers[0] = T(1 - *p.lr * p.weight_decay);
    numbers[1] = T(*p.lr / (1 - std::pow(beta1, *p.step)));
    numbers[2] = T(1 / std::sqrt(1 - std::pow(beta2, *p.step)));
  }
  __syncthreads();
  const T keep = numbers[0], rate = numbers[1], root = numbers[2], epsilon = T(eps);
  const T old1 = T(beta1), new1 = T(1 - beta1), old2 = T(beta2), new2 = T(1 - beta2);
  T *const m = p.state[0], *const v = p.state[1];
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < p.n;
       i += int64_t(gridDim.x) * blockDim.x) {
    m[i] = old1 * m[i] + new1 * p.g[i];
    v[i] = old2 * v[i] + new2 * (p.g[i] * p.g[i]);
    p.w[i] = keep * p.w[i] - rate * m[i] / (std::sqrt(v[i]) * root + epsilon);
  }
}

template <class T>
void squares_of(const Cuda& device, double* sum, std::span<T> x) {
  cuda::sum_all(device, "grad_norm", sum, int64_t(x.size()),
                [=, x = x.data()] AG_LAMBDA(int64_t i) { return double(x[i]) * double(x[i]); });
}

template <class T>
void clip(const Cuda& device, std::span<T> x, const double* norm, double max_norm) {
  cuda::each(device, "clip_grads", int64_t(x.size()), [=, x = x.data()] AG_LAMBDA(int64_t i) {
    if (std::isfinite(*norm) && *norm > max_norm) x[i] *= T(max_norm / *norm);
  });
}

}  // namespace

template <class T>
void adamw(const Cuda& device, std::span<const optim::ParamView<T>> params, double beta1, double beta2,
           double eps) {
  for (const optim::ParamView<T>& p : params) {
    if (p.n == 0) continue;
    const unsigned threads = cuda::threads_for(p.n);
    cuda::launch("adamw", adamw_kernel<T>, device.stream,
                 {cuda::blocks_for((p.n + threads - 1) / threads), threads}, p, beta1, beta2, eps);
  }
}

template <class T>
void sgd(const Cuda& device, std::span<const optim::ParamView<T>> params, double momentum, bool nesterov) {
  for (const optim::ParamView<T>& p : params) {
    cuda::each(device, "sgd", p.n, [=] AG_LAMBDA(int64_t i) {
      const T lr = T(*p.lr), mu = T(momentum), d = p.g[i] + T(p.weight_decay) * p.w[i];
      T* const v = p.state[0];
      if (v) v[i] = mu * v[i] + d;
      p.w[i] -= lr * (!v ? d : nesterov ? d + mu * v[i] : v[i]);
    });
  }
}

void grad_norm(const Cuda& device, double* norm, std::span<const Gradient> grads) {
  const auto count = int64_t(grads.size());
  const cuda::Scratch<double> squares(device, count);
  for (int64_t k = 0; k < count; ++k) {
    std::visit([&](auto x) { squares_of(device, squares.data() + k, x); }, grads[size_t(k)]);
  }
  cuda::each(device, "grad_norm", 1, [=, squares = squares.data()] AG_LAMBDA(int64_t) {
    double sum = 0;
    for (int64_t k = 0; k < count; ++k) sum += squares[k];
    *norm = std::sqrt(sum);
  });
}

void clip_grads(const Cuda& device, std::span<const Gradient> grads, const double* norm, double max_norm) {
  for (const Gradient& g : grads) std::visit([&](auto x) { clip(device, x, norm, max_norm); }, g);
}

AG_INSTANTIATE_FLOATING(adamw)
AG_INSTANTIATE_FLOATING(sgd)

}  // namespace on_cuda
}  // namespace altgrad::kernels
