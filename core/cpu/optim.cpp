// Optimizer updates. The parameters count as one long range, cut into tasks of equal size: a model's many
// small parameters cost one parallel region between them, and where the cuts fall depends on the sizes alone.
#include <altgrad/core/cpu/parallel.h>
#include <altgrad/core/internal/instantiate.h>
#include <altgrad/core/internal/kernels/optim.h>

#include <cmath>

namespace altgrad::kernels {
inline namespace on_cpu {
namespace {

constexpr int64_t task_size = 1 << 15;

// update(p, begin, end): elements [begin, end) of parameter p, which together are all elements of all parameters.
template <class Param, class F>
void for_all_elements(std::span<const Param> params, F&& update) {
  int64_t total = 0;
  for (const Param& p : params) total += p.n;
  parallel_tasks(divide_up(total, task_size), [&](int64_t task) {
    int64_t begin = task * task_size, end = begin + task_size;  // counted from the start of p
    for (const Param& p : params) {
      if (end <= 0) break;
      if (begin < p.n) update(p, std::max<int64_t>(begin, 0), std::min(end, p.n));
      begin -= p.n;
      end -= p.n;
    }
  });
}

}  // namespace

// m and v are divided by 1 - beta^step, as they start from zero. They are weighted sums, not m += (1 - beta1) (g
// - m): where beta is small and the old value large, that difference loses g.
template <class T>
void adamw(const Cpu&, std::span<const optim::ParamView<T>> params, double beta1, double beta2, double eps,
           const Clip& clip) {
  const T factor = T(clip.factor());
  for_all_elements(params, [=](const optim::ParamView<T>& p, int64_t begin, int64_t end) {
    T* __restrict w = p.w, * __restrict m = p.state[0], * __restrict v = p.state[1];
    const T* __restrict g = p.g;
    const T keep = T(1 - *p.lr * p.weight_decay), epsilon = T(eps);
    const T old1 = T(beta1), new1 = T(1 - beta1), old2 = T(beta2), new2 = T(1 - beta2);
    const T rate = T(*p.lr / (1 - std::pow(beta1, *p.step))),
            root = T(1 / std::sqrt(1 - std::pow(beta2, *p.step)));
    for (int64_t i = begin; i < end; ++i) {
      const T d = g[i] * factor;
      m[i] = old1 * m[i] + new1 * d;
      v[i] = old2 * v[i] + new2 * (d * d);
      w[i] = keep * w[i] - rate * m[i] / (std::sqrt(v[i]) * root + epsilon);
    }
  });
}

template <class T>
void sgd(const Cpu&, std::span<const optim::ParamView<T>> params, double momentum, bool nesterov) {
  for_all_elements(params, [=](const optim::ParamView<T>& p, int64_t begin, int64_t end) {
    T* __restrict w = p.w, * __restrict v = p.state[0];
    const T* __restrict g = p.g;
    const T lr = T(*p.lr), decay = T(p.weight_decay), mu = T(momentum);
    if (!v) {
      for (int64_t i = begin; i < end; ++i) w[i] -= lr * (g[i] + decay * w[i]);
      return;
    }
    for (int64_t i = begin; i < end; ++i) {
      const T d = g[i] + decay * w[i];
      v[i] = mu * v[i] + d;
      w[i] -= lr * (nesterov ? d + mu * v[i] : v[i]);
    }
  });
}

template <class T>
void ema(const Cpu&, std::span<const optim::ParamView<T>> params, double decay) {
  for_all_elements(params,
                   [=, share = T(1 - decay)](const optim::ParamView<T>& p, int64_t begin, int64_t end) {
                     T* __restrict w = p.w;
                     const T* __restrict g = p.g;
                     for (int64_t i = begin; i < end; ++i) w[i] += share * (g[i] - w[i]);
                   });
}

void grad_norm(const Cpu&, double* norm, std::span<const Gradient> grads) {
  double sum = 0;
  const auto add = [&](auto x) {
    sum += chunked_sum(int64_t(x.size()), [data = x.data()](int64_t begin, int64_t end) {
      double squares = 0;
#pragma omp simd reduction(+ : squares)
      for (int64_t i = begin; i < end; ++i) squares += double(data[i]) * double(data[i]);
      return squares;
    });
  };
  for (const Gradient& g : grads) std::visit(add, g);
  *norm = std::sqrt(sum);
}

void clip_grads(const Cpu&, std::span<const Gradient> grads, const Clip& clip) {
  const double factor = clip.factor();
  if (factor == 1) return;
  const auto scale = [=]<class T>(std::span<T> x) {
    parallel_for(int64_t(x.size()), task_size, [=, data = x.data()](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) data[i] *= T(factor);
    });
  };
  for (const Gradient& g : grads) std::visit(scale, g);  // one after the other: a gradient may be given twice
}

AG_INSTANTIATE_FLOATING(adamw)
AG_INSTANTIATE_FLOATING(sgd)
AG_INSTANTIATE_FLOATING(ema)

}  // namespace on_cpu
}  // namespace altgrad::kernels
