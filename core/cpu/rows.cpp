// Row kernels: softmax, norms, cross-entropy. Each row is one thread's; parameter gradients are sums over
// rows, made in the same pass. What is subtracted from a row is kept in two parts, the large one first, so that
// numbers that are near each other and far from 0 keep their digits.
#include <altgrad/core/cpu/column_sums.h>
#include <altgrad/core/internal/instantiate.h>
#include <altgrad/core/internal/kernels/rows.h>
#include <altgrad/core/internal/math.h>

#include <algorithm>
#include <array>
#include <limits>

namespace altgrad::kernels {
inline namespace on_cpu {
namespace {

constexpr int64_t grain = 1 << 13;

// Reductions go through so many partial results, so that none waits for the one before: two vectors' in AVX2.
constexpr int64_t parts = 16;

template <class T>
T row_max(const T* __restrict x, int64_t n) {
  T m[2 * parts];
  std::fill_n(m, 2 * parts, -std::numeric_limits<T>::infinity());
  const int64_t whole = n / (2 * parts) * (2 * parts);
  for (int64_t i = 0; i < whole; i += 2 * parts) {
    for (int64_t j = 0; j < 2 * parts; ++j) m[j] = x[i + j] > m[j] ? x[i + j] : m[j];
  }
  for (int64_t i = whole; i < n; ++i) m[0] = x[i] > m[0] ? x[i] : m[0];
  return *std::max_element(m, m + 2 * parts);
}

// The sums of f(i), g(i), ... for i < n. One long sum in T would lose small terms beside a large one, all alike.
template <class T, class... F>
std::array<T, sizeof...(F)> row_sums(int64_t n, F... f) {
  T s[sizeof...(F)][parts] = {};
  const int64_t whole = n / parts * parts;
  for (int64_t i = 0; i < whole; i += parts) {
    for (int64_t j = 0; j < parts; ++j) {
      size_t k = 0;
      ((s[k++][j] += f(i + j)), ...);
    }
  }
  std::array<T, sizeof...(F)> totals = {};
  for (size_t k = 0; k < sizeof...(F); ++k) {
    for (int64_t j = 0; j < parts; ++j) totals[k] += s[k][j];
  }
  for (int64_t i = whole; i < n; ++i) {
    size_t k = 0;
    ((totals[k++] += f(i)), ...);
  }
  return totals;
}

// The sum of f(i). In builds for AVX-512 one vector holds as many parts, in an order of the compiler's: the last bits are
// others than those of a portable build on the same machine.
template <class T, class F>
T row_sum(int64_t n, F f) {
#if defined(__AVX512F__)
  T s = 0;
#pragma omp simd reduction(+ : s)
  for (int64_t i = 0; i < n; ++i) s += f(i);
  return s;
#else
  return row_sums<T>(n, f)[0];
#endif
}

// y[i] = beta * y[i] + f(i) for i < n; y is not read where beta = 0.
template <class T, class F>
void add_to(T* __restrict y, T beta, int64_t n, F f) {
  if (beta == 0) {
    for (int64_t i = 0; i < n; ++i) y[i] = f(i);
  } else {
    for (int64_t i = 0; i < n; ++i) y[i] = beta * y[i] + f(i);
  }
}

// 1 / sqrt(mean_square + eps), the mean being that of the squares of f(i); made again in a wider type where T cannot
// hold the squares.
template <class T, class F>
T inverse_rms(T mean_square, double eps, int64_t n, F f) {
  using Wide = std::conditional_t<sizeof(T) == 4, double, long double>;
  using Limits = std::numeric_limits<T>;
  const T mean = mean_square + T(eps);
  if (mean >= Limits::min() / Limits::epsilon() && mean <= Limits::max()) return T(1) / std::sqrt(mean);
  Wide total = 0;
  for (int64_t i = 0; i < n; ++i) total += Wide(f(i)) * Wide(f(i));
  return T(1 / std::sqrt(total / Wide(n) + Wide(eps)));
}

}  // namespace

template <class T>
void softmax(const Cpu&, T* y, const T* x, int64_t rows, int64_t n) {
  parallel_rows(rows, n, grain, [=](int64_t r) {
    const T* __restrict in = x + r * n;
    T* __restrict out = y + r * n;
    const T top = row_max(in, n);
    const T total = row_sum<T>(n, [=](int64_t i) { return out[i] = math::exp_bounded(in[i] - top); });
    const T scale = T(1) / total;
    for (int64_t i = 0; i < n; ++i) out[i] *= scale;
  });
}

template <class T>
void softmax_grad(const Cpu&, T* dx, const T* dy, const T* y, int64_t rows, int64_t n) {
  parallel_rows(rows, n, grain, [=](int64_t r) {
    const T* __restrict g = dy + r * n, * __restrict p = y + r * n;
    T* __restrict out = dx + r * n;
    const T dot = row_sum<T>(n, [=](int64_t i) { return g[i] * p[i]; });
    for (int64_t i = 0; i < n; ++i) out[i] = p[i] * (g[i] - dot);
  });
}

template <class T>
void log_softmax(const Cpu&, T* y, const T* x, int64_t rows, int64_t n) {
  parallel_rows(rows, n, grain, [=](int64_t r) {
    const T* __restrict in = x + r * n;
    T* __restrict out = y + r * n;
    const T top = row_max(in, n);
    const T log_sum = std::log(row_sum<T>(n, [=](int64_t i) { return math::exp_bounded(in[i] - top); }));
    for (int64_t i = 0; i < n; ++i) out[i] = in[i] - top - log_sum;
  });
}

template <class T>
void log_softmax_grad(const Cpu&, T* dx, const T* dy, const T* y, int64_t rows, int64_t n) {
  parallel_rows(rows, n, grain, [=](int64_t r) {
    const T* __restrict g = dy + r * n, * __restrict log_p = y + r * n;
    T* __restrict out = dx + r * n;
    const T total = row_sum<T>(n, [=](int64_t i) { return g[i]; });
    for (int64_t i = 0; i < n; ++i) out[i] = g[i] - math::exp_bounded(log_p[i]) * total;
  });
}

template <class T>
void layer_norm(const Cpu&, T* y, Moments<T>* moments, const T* x, const T* w, const T* b, int64_t rows,
                int64_t n, double eps, const T* residual, T* sum) {
  if (residual) {
    parallel_rows(rows, n, grain, [=](int64_t r) {
      const T* __restrict in = x + r * n, * __restrict added = residual + r * n;
      T* __restrict to = sum + r * n;
      for (int64_t i = 0; i < n; ++i) to[i] = in[i] + added[i];
    });
    x = sum;
  }
  parallel_rows(rows, n, grain, [=](int64_t r) {
    const T* __restrict in = x + r * n, * __restrict gain = w;
    T* __restrict out = y + r * n;
    const T share = T(1) / T(n), first = in[0];
    const T m = first + row_sum<T>(n, [=](int64_t i) { return (in[i] - first) * share; });
#if defined(__AVX512F__)
    T rest = 0, squares = 0;
#pragma omp simd reduction(+ : rest, squares)
    for (int64_t i = 0; i < n; ++i) {
      rest += (in[i] - m) * share;
      squares += (in[i] - m) * (in[i] - m);
    }
#else
    const auto sums = row_sums<T>(
        n, [=](int64_t i) { return (in[i] - m) * share; },
        [=](int64_t i) { return (in[i] - m) * (in[i] - m); });
    const T rest = sums[0], squares = sums[1];
#endif
    const T var = std::max(squares / T(n) - rest * rest, T(0));  // loses nothing: rest is a rounding error
    const T s = inverse_rms(var, eps, n, [=](int64_t i) { return (in[i] - m) - rest; });
    moments[r] = {m, rest, s};
    if (b) {
      const T* __restrict bias = b;
      for (int64_t i = 0; i < n; ++i) out[i] = ((in[i] - m) - rest) * s * gain[i] + bias[i];
    } else {
      for (int64_t i = 0; i < n; ++i) out[i] = ((in[i] - m) - rest) * s * gain[i];
    }
  });
}

template <class T>
void layer_norm_grad(const Cpu&, T* dx, double beta, T* dw, T* db, const T* dy, const T* x,
                     const Moments<T>* moments, const T* w, int64_t rows, int64_t n) {
  column_sums(std::array{dw, db}, rows, n,
              [=](int64_t r, double* __restrict sum_w, double* __restrict sum_b) {
                const T* __restrict in = x + r * n, * __restrict g = dy + r * n, * __restrict gain = w;
                const T m = moments[r].mean, rest = moments[r].rest, s = moments[r].rstd;
                const auto h = [=](int64_t i) { return ((in[i] - m) - rest) * s; };
                if (dx) {
                  const T mean_g = row_sum<T>(n, [=](int64_t i) { return g[i] * gain[i]; }) / T(n);
                  const T mean_gh = row_sum<T>(n, [=](int64_t i) { return g[i] * gain[i] * h(i); }) / T(n);
                  add_to(dx + r * n, T(beta), n,
                         [=](int64_t i) { return s * (g[i] * gain[i] - mean_g - h(i) * mean_gh); });
                }
                for (int64_t i = 0; sum_w && i < n; ++i) sum_w[i] += double(g[i] * h(i));
                for (int64_t i = 0; sum_b && i < n; ++i) sum_b[i] += double(g[i]);
              });
}

template <class T>
void rms_norm(const Cpu&, T* y, T* rstd, const T* x, const T* w, int64_t rows, int64_t n, double eps) {
  parallel_rows(rows, n, grain, [=](int64_t r) {
    const T* __restrict in = x + r * n, * __restrict gain = w;
    T* __restrict out = y + r * n;
    const T squares = row_sum<T>(n, [=](int64_t i) { return in[i] * in[i]; });
    const T s = inverse_rms(squares / T(n), eps, n, [=](int64_t i) { return in[i]; });
    rstd[r] = s;
    for (int64_t i = 0; i < n; ++i) out[i] = in[i] * s * gain[i];
  });
}

template <class T>
void rms_norm_grad(const Cpu&, T* dx, double beta, T* dw, const T* dy, const T* x, const T* rstd, const T* w,
                   int64_t rows, int64_t n) {
  column_sums(std::array{dw}, rows, n, [=](int64_t r, double* __restrict sum_w) {
    const T* __restrict in = x + r * n, * __restrict g = dy + r * n, * __restrict gain = w;
    const T s = rstd[r];
    if (dx) {
      const T mean_gh = row_sum<T>(n, [=](int64_t i) { return g[i] * gain[i] * (in[i] * s); }) / T(n);
      add_to(dx + r * n, T(beta), n, [=](int64_t i) { return s * (g[i] * gain[i] - in[i] * s * mean_gh); });
    }
    for (int64_t i = 0; sum_w && i < n; ++i) sum_w[i] += double(g[i] * (in[i] * s));
  });
}

template <class T>
void cross_entropy(const Cpu&, T* loss, LogSumExp<T>* lse, const T* x, const int64_t* targets, int64_t rows,
                   int64_t n, int64_t ignore) {
  parallel_rows(rows, n, grain, [=](int64_t r) {
    const T* __restrict in = x + r * n;
    const T top = row_max(in, n);
    const T log_sum = std::log(row_sum<T>(n, [=](int64_t i) { return math::exp_bounded(in[i] - top); }));
    lse[r] = {top, log_sum};
    loss[r] = targets[r] == ignore ? T(0) : (top - in[targets[r]]) + log_sum;
  });
}

template <class T>
void target_weight(const Cpu&, T* weight, const int64_t* targets, int64_t rows, int64_t ignore) {
  *weight = T(1.0 / double(rows - std::count(targets, targets + rows, ignore)));
}

template <class T>
void cross_entropy_grad(const Cpu&, T* dx, const T* dy, const T* weight, const T* x, const LogSumExp<T>* lse,
                        const int64_t* targets, int64_t rows, int64_t n, int64_t ignore) {
  const T scale = *dy * *weight;
  parallel_rows(rows, n, grain, [=](int64_t r) {
    const T* __restrict in = x + r * n;
    T* __restrict out = dx + r * n;
    if (targets[r] == ignore) {
      std::fill_n(out, n, T(0));
      return;
    }
    const auto [top, log_sum] = lse[r];
    for (int64_t i = 0; i < n; ++i) out[i] = scale * math::exp_bounded((in[i] - top) - log_sum);
    out[targets[r]] -= scale;
  });
}

AG_INSTANTIATE_FLOATING(softmax)
AG_INSTANTIATE_FLOATING(softmax_grad)
AG_INSTANTIATE_FLOATING(log_softmax)
AG_INSTANTIATE_FLOATING(log_softmax_grad)
AG_INSTANTIATE_FLOATING(layer_norm)
AG_INSTANTIATE_FLOATING(layer_norm_grad)
AG_INSTANTIATE_FLOATING(rms_norm)
AG_INSTANTIATE_FLOATING(rms_norm_grad)
AG_INSTANTIATE_FLOATING(cross_entropy)
AG_INSTANTIATE_FLOATING(target_weight)
AG_INSTANTIATE_FLOATING(cross_entropy_grad)

}  // namespace on_cpu
}  // namespace altgrad::kernels
