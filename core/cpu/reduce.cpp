// Reductions. Sums are carried in f64 and cut into pieces that depend on the size alone, so they do not
// change with the number of threads.
#include <altgrad/core/cpu/amax.h>
#include <altgrad/core/cpu/column_sums.h>
#include <altgrad/core/internal/instantiate.h>
#include <altgrad/core/internal/kernels/reduce.h>

#include <cmath>
#include <limits>

namespace altgrad::kernels {
inline namespace on_cpu {
namespace {

constexpr int64_t columns = 64;  // inner elements handled together
constexpr int64_t task_work = 1 << 14;

template <class T, class F>
double sum_of(const T* x, int64_t begin, int64_t end, F f) {
  double total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = begin; i < end; ++i) total += f(double(x[i]));
  return total;
}

// f(outer index, first column, number of columns) for every block of columns.
template <class F>
void for_column_blocks(int64_t outer, int64_t n, int64_t inner, F&& f) {
  const int64_t blocks = divide_up(inner, columns);
  const int64_t group = std::max<int64_t>(1, task_work / std::max<int64_t>(1, n * std::min(inner, columns)));
  const int64_t total = outer * blocks;
  parallel_tasks(divide_up(total, group), [&](int64_t task) {
    for (int64_t i = task * group; i < std::min(total, (task + 1) * group); ++i) {
      const int64_t first = i % blocks * columns;
      f(i / blocks, first, std::min(columns, inner - first));
    }
  });
}

// The largest |x| itself.
template <class T>
T exact_amax(const T* x, int64_t n) {
  SharedAmax<T> amax;
  parallel_for(n, 1 << 15, [&](int64_t begin, int64_t end) { amax.see(amax_of(x + begin, end - begin)); });
  return amax.value();
}

}  // namespace

template <class T>
void sum(const Cpu&, T* y, const T* x, int64_t outer, int64_t n, int64_t inner, double divisor) {
  if (outer == 0 || inner == 0) return;  // n may be anything
  const auto identity = [](double v) { return v; };
  if (inner == 1 && outer == 1) {
    *y = T(chunked_sum(n, [=](int64_t begin, int64_t end) { return sum_of(x, begin, end, identity); }) /
           divisor);
  } else if (inner == 1) {
    parallel_rows(outer, n, task_work,
                  [=](int64_t o) { y[o] = T(sum_of(x + o * n, 0, n, identity) / divisor); });
  } else if (outer == 1 && n >= 64) {  // few rows are better walked by columns
    column_sums(
        std::array{y}, n, inner,
        [=](int64_t r, double* __restrict sums) {
          const T* __restrict row = x + r * inner;
          for (int64_t c = 0; c < inner; ++c) sums[c] += double(row[c]);
        },
        divisor);
  } else {
    for_column_blocks(outer, n, inner, [=](int64_t o, int64_t first, int64_t count) {
      double acc[columns] = {};
      for (int64_t i = 0; i < n; ++i) {
        const T* __restrict row = x + (o * n + i) * inner + first;
        for (int64_t c = 0; c < count; ++c) acc[c] += double(row[c]);
      }
      for (int64_t c = 0; c < count; ++c) y[o * inner + first + c] = T(acc[c] / divisor);
    });
  }
}

template <class T>
void max(const Cpu&, T* y, const T* x, int64_t outer, int64_t n, int64_t inner) {
  for_column_blocks(outer, n, inner, [=](int64_t o, int64_t first, int64_t count) {
    T acc[columns];
    std::fill_n(acc, columns, -std::numeric_limits<T>::infinity());
    for (int64_t i = 0; i < n; ++i) {
      const T* __restrict row = x + (o * n + i) * inner + first;
      for (int64_t c = 0; c < count; ++c) acc[c] = row[c] > acc[c] || row[c] != row[c] ? row[c] : acc[c];
    }
    std::copy_n(acc, count, y + o * inner + first);
  });
}

template <class T>
void max_grad(const Cpu&, T* dx, const T* dy, const T* x, const T* y, int64_t outer, int64_t n,
              int64_t inner) {
  for_column_blocks(outer, n, inner, [=](int64_t o, int64_t first, int64_t count) {
    for (int64_t c = first; c < first + count; ++c) {
      const T top = y[o * inner + c];
      int64_t equal = 0;
      for (int64_t i = 0; i < n; ++i) equal += x[(o * n + i) * inner + c] == top;
      const T share = equal ? dy[o * inner + c] / T(equal) : std::numeric_limits<T>::quiet_NaN();
      for (int64_t i = 0; i < n; ++i) {
        const int64_t at = (o * n + i) * inner + c;
        dx[at] = x[at] == top ? share : x[at] != x[at] ? x[at] : T(0);
      }
    }
  });
}

template <class T>
void argmax(const Cpu&, int64_t* y, const T* x, int64_t rows, int64_t n) {
  // NaN is the largest.
  const auto below = [](T a, T b) { return a < b || (std::isnan(b) && !std::isnan(a)); };
  parallel_rows(rows, n, task_work,
                [=](int64_t r) { y[r] = std::max_element(x + r * n, x + (r + 1) * n, below) - (x + r * n); });
}

template <class T>
void amax(const Cpu&, float* result, const T* x, int64_t n) {
  const T exact = exact_amax(x, n);
  const float rounded = float(exact);
  *result = T(rounded) < exact ? std::nextafter(rounded, std::numeric_limits<float>::infinity()) : rounded;
}

template <class T>
void has_nan(const Cpu&, uint8_t* result, const T* x, int64_t n) {
  *result = std::isnan(exact_amax(x, n));
}

AG_INSTANTIATE_FLOATING(sum)
AG_INSTANTIATE_FLOATING(max)
AG_INSTANTIATE_FLOATING(max_grad)
AG_INSTANTIATE_FLOATING(argmax)
AG_INSTANTIATE_FLOATING(amax)
AG_INSTANTIATE_FLOATING(has_nan)

}  // namespace on_cpu
}  // namespace altgrad::kernels
