// Row kernels: softmax, norms, cross-entropy. A block has a row; sums over rows are a thread's for each column, in f64.
// What is subtracted from a row is kept in two parts, as on the CPU.
#include <altgrad/core/internal/kernels/rows.h>

#include <altgrad/core/cuda/launch.h>
#include <altgrad/core/internal/ids.h>
#include <altgrad/core/internal/instantiate.h>
#include <altgrad/core/internal/math.h>

#include <limits>

namespace altgrad::kernels {
inline namespace on_cuda {
namespace {

using cuda::each_of_row;
using cuda::row_max;
using cuda::row_sum;

// y = beta * y + x; y is not read where beta = 0.
template <class T>
AG_DEVICE void add_to(T& y, Compute<T> beta, Compute<T> x) {
  y = T(beta == 0 ? x : beta * Compute<T>(y) + x);
}

// 1 / sqrt(mean_square + eps), the mean being that of the squares of f(i); made again where T cannot hold the
// squares, of f(i) over the largest of them, in f64.
template <class T, class F>
AG_DEVICE T inverse_rms(T mean_square, double eps, int64_t n, F f) {
  using Limits = std::numeric_limits<T>;
  const T mean = mean_square + T(eps);
  if (mean >= Limits::min() / Limits::epsilon() && mean <= Limits::max()) return T(1) / std::sqrt(mean);
  double top = std::sqrt(eps);
  each_of_row(n, [&](int64_t i) { top = std::abs(double(f(i))) > top ? std::abs(double(f(i))) : top; });
  top = cuda::block_reduce(top, 0.0, cuda::Larger());
  const double unit = top > 0 && top <= std::numeric_limits<double>::max() ? top : 1;
  const double squares =
      row_sum<double>(n, [=](int64_t i) { return double(f(i)) / unit * (double(f(i)) / unit); });
  return T(1 / (unit * std::sqrt(squares / double(n) + eps / unit / unit)));
}

}  // namespace

template <class T>
void softmax(const Cuda& device, T* y, const T* x, int64_t rows, int64_t n) {
  using C = Compute<T>;
  cuda::rows(device, "softmax", rows, n, [=] AG_LAMBDA(int64_t r) {
    const T* const in = x + r * n;
    T* const out = y + r * n;
    const C top = row_max(in, n);
    const auto power = [=](int64_t i) { return math::exp_bounded(in[i] - top); };
    const C scale = C(1) / row_sum<C>(n, power);
    each_of_row(n, [=](int64_t i) { out[i] = T(power(i) * scale); });
  });
}

template <class T>
void softmax_grad(const Cuda& device, T* dx, const T* dy, const T* y, int64_t rows, int64_t n) {
  using C = Compute<T>;
  cuda::rows(device, "softmax_grad", rows, n, [=] AG_LAMBDA(int64_t r) {
    const T *const g = dy + r * n, *const p = y + r * n;
    const C dot = row_sum<C>(n, [=](int64_t i) { return g[i] * p[i]; });
    each_of_row(n, [=, out = dx + r * n](int64_t i) { out[i] = T(p[i] * (g[i] - dot)); });
  });
}

template <class T>
void log_softmax(const Cuda& device, T* y, const T* x, int64_t rows, int64_t n) {
  using C = Compute<T>;
  cuda::rows(device, "log_softmax", rows, n, [=] AG_LAMBDA(int64_t r) {
    const T* const in = x + r * n;
    const C top = row_max(in, n);
    const C log_sum = std::log(row_sum<C>(n, [=](int64_t i) { return math::exp_bounded(in[i] - top); }));
    each_of_row(n, [=, out = y + r * n](int64_t i) { out[i] = T(in[i] - top - log_sum); });
  });
}

template <class T>
void log_softmax_grad(const Cuda& device, T* dx, const T* dy, const T* y, int64_t rows, int64_t n) {
  using C = Compute<T>;
  cuda::rows(device, "log_softmax_grad", rows, n, [=] AG_LAMBDA(int64_t r) {
    const T *const g = dy + r * n, *const log_p = y + r * n;
    const C total = row_sum<C>(n, [=](int64_t i) { return g[i]; });
    each_of_row(
        n, [=, out = dx + r * n](int64_t i) { out[i] = T(g[i] - math::exp_bounded(C(log_p[i])) * total); });
  });
}

template <class T>
void layer_norm(const Cuda& device, T* y, Moments<Compute<T>>* moments, const T* x, const Compute<T>* w,
                const Compute<T>* b, int64_t rows, int64_t n, double eps) {
  using C = Compute<T>;
  cuda::rows(device, "layer_norm", rows, n, [=] AG_LAMBDA(int64_t r) {
    const T* const in = x + r * n;
    const C share = C(1) / C(n), first = in[0];
    const C m = first + row_sum<C>(n, [=](int64_t i) { return (in[i] - first) * share; });
    const C rest = row_sum<C>(n, [=](int64_t i) { return (in[i] - m) * share; });
    const C squares = row_sum<C>(n, [=](int64_t i) { return (in[i] - m) * (in[i] - m); });
    const C spread = squares / C(n) - rest * rest;  // loses nothing: rest is a rounding error
    const C var = spread < 0 ? C(0) : spread;
    const C s = inverse_rms(var, eps, n, [=](int64_t i) { return (in[i] - m) - rest; });
    if (threadIdx.x == 0) moments[r] = {m, rest, s};
    each_of_row(n, [=, out = y + r * n](int64_t i) {
      const C scaled = ((in[i] - m) - rest) * s * w[i];
      out[i] = T(b ? scaled + b[i] : scaled);
    });
  });
}

template <class T>
void layer_norm_grad(const Cuda& device, T* dx, double beta, Compute<T>* dw, Compute<T>* db, const T* dy,
                     const T* x, const Moments<Compute<T>>* moments, const Compute<T>* w, int64_t rows,
                     int64_t n) {
  using C = Compute<T>;
  cuda::rows(device, "layer_norm_grad", dx ? rows : 0, n, [=] AG_LAMBDA(int64_t r) {
    const T *const in = x + r * n, *const g = dy + r * n;
    T* const out = dx + r * n;
    const auto [m, rest, s] = moments[r];
    const auto h = [=, m = m, rest = rest, s = s](int64_t i) { return ((in[i] - m) - rest) * s; };
    const C mean_g = row_sum<C>(n, [=](int64_t i) { return g[i] * w[i]; }) / C(n);
    const C mean_gh = row_sum<C>(n, [=](int64_t i) { return g[i] * w[i] * h(i); }) / C(n);
    each_of_row(
        n, [=, s = s](int64_t i) { add_to(out[i], C(beta), s * (g[i] * w[i] - mean_g - h(i) * mean_gh)); });
  });
  cuda::each(device, "layer_norm_grad", dw || db ? n : 0, [=] AG_LAMBDA(int64_t i) {
    double sum_w = 0, sum_b = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const C g = dy[r * n + i];
      sum_w += double(g * (((x[r * n + i] - moments[r].mean) - moments[r].rest) * moments[r].rstd));
      sum_b += double(g);
    }
    if (dw) dw[i] = C(sum_w);
    if (db) db[i] = C(sum_b);
  });
}

template <class T>
void rms_norm(const Cuda& device, T* y, Compute<T>* rstd, const T* x, const Compute<T>* w, int64_t rows,
              int64_t n, double eps) {
  using C = Compute<T>;
  cuda::rows(device, "rms_norm", rows, n, [=] AG_LAMBDA(int64_t r) {
    const T* const in = x + r * n;
    const C squares = row_sum<C>(n, [=](int64_t i) { return in[i] * in[i]; });
    const C s = inverse_rms(squares / C(n), eps, n, [=](int64_t i) { return in[i]; });
    if (threadIdx.x == 0) rstd[r] = s;
    each_of_row(n, [=, out = y + r * n](int64_t i) { out[i] = T(in[i] * s * w[i]); });
  });
}

template <class T>
void rms_norm_grad(const Cuda& device, T* dx, double beta, Compute<T>* dw, const T* dy, const T* x,
                   const Compute<T>* rstd, const Compute<T>* w, int64_t rows, int64_t n) {
  using C = Compute<T>;
  cuda::rows(device, "rms_norm_grad", dx ? rows : 0, n, [=] AG_LAMBDA(int64_t r) {
    const T *const in = x + r * n, *const g = dy + r * n;
    T* const out = dx + r * n;
    const C s = rstd[r];
    const C mean_gh = row_sum<C>(n, [=](int64_t i) { return g[i] * w[i] * (in[i] * s); }) / C(n);
    each_of_row(n, [=](int64_t i) { add_to(out[i], C(beta), s * (g[i] * w[i] - in[i] * s * mean_gh)); });
  });
  cuda::each(device, "rms_norm_grad", dw ? n : 0, [=] AG_LAMBDA(int64_t i) {
    double sum = 0;
    for (int64_t r = 0; r < rows; ++r) sum += double(dy[r * n + i] * (x[r * n + i] * rstd[r]));
    dw[i] = C(sum);
  });
}

template <class T>
void cross_entropy(const Cuda& device, Compute<T>* loss, LogSumExp<Compute<T>>* lse, const T* x,
                   const int64_t* targets, int64_t rows, int64_t n, int64_t ignore) {
  using C = Compute<T>;
  cuda::rows(device, "cross_entropy", rows, n, [=] AG_LAMBDA(int64_t r) {
    const T* const in = x + r * n;
    const C top = row_max(in, n);
    const C log_sum = std::log(row_sum<C>(n, [=](int64_t i) { return math::exp_bounded(in[i] - top); }));
    if (threadIdx.x > 0) return;
    lse[r] = {top, log_sum};
    loss[r] = targets[r] == ignore || n == 0 ? C(0) : (top - in[nearest_id(targets[r], n)]) + log_sum;
  });
}

template <std::floating_point T>
void target_weight(const Cuda& device, T* weight, const int64_t* targets, int64_t rows, int64_t ignore) {
  cuda::rows(device, "target_weight", 1, rows, [=] AG_LAMBDA(int64_t) {
    const int64_t count = row_sum<int64_t>(rows, [=](int64_t r) { return targets[r] != ignore; });
    if (threadIdx.x == 0) *weight = T(1.0 / double(count));
  });
}

template <class T>
void cross_entropy_grad(const Cuda& device, T* dx, const Compute<T>* dy, const Compute<T>* weight, const T* x,
                        const LogSumExp<Compute<T>>* lse, const int64_t* targets, int64_t rows, int64_t n,
                        int64_t ignore) {
  using C = Compute<T>;
  cuda::each(device, "cross_entropy_grad", rows * n, [=] AG_LAMBDA(int64_t i) {
    const int64_t r = i / n, target = targets[r];
    const C scale = *dy * *weight;
    const C share = scale * math::exp_bounded((x[i] - lse[r].top) - lse[r].log_sum);
    dx[i] = T(target == ignore ? C(0) : i % n == nearest_id(target, n) ? share - scale : share);
  });
}

AG_INSTANTIATE_STORED(softmax)
AG_INSTANTIATE_STORED(softmax_grad)
AG_INSTANTIATE_STORED(log_softmax)
AG_INSTANTIATE_STORED(log_softmax_grad)
AG_INSTANTIATE_STORED(layer_norm)
AG_INSTANTIATE_STORED(layer_norm_grad)
AG_INSTANTIATE_STORED(rms_norm)
AG_INSTANTIATE_STORED(rms_norm_grad)
AG_INSTANTIATE_STORED(cross_entropy)
AG_INSTANTIATE_FLOATING(target_weight)
AG_INSTANTIATE_STORED(cross_entropy_grad)

}  // namespace on_cuda
}  // namespace altgrad::kernels
