// Layer norm and RMS norm. What is subtracted from a row is kept in two parts, as on the CPU.
#include <altgrad/core/internal/kernels/rows.h>

#include <altgrad/core/cuda/row_sums.h>
#include <altgrad/core/internal/instantiate.h>

#include <cmath>
#include <limits>

namespace altgrad::kernels {
inline namespace on_cuda {
namespace {

using cuda::Same;

// y = beta * old + f(values...)
template <class Row, class T, class Old, class F, class... V>
AG_DEVICE void add_to(const Row& row, T* y, double beta, const Old& old, const F& f, const V&... values) {
  using C = Compute<T>;
  row.write(
      y, [&](C u, auto... x) { return C(beta) * u + f(x...); }, old, values...);
}

// 1 / sqrt(mean_square + eps), the mean being that of the squares of f(values); made again where C cannot hold the
// squares, of f(values) over the largest of them, in f64.
template <class C, class Row, class F, class V>
AG_DEVICE C inverse_rms(C mean_square, double eps, const Row& row, const F& f, const V& values) {
  using Limits = std::numeric_limits<C>;
  const C mean = mean_square + C(eps);
  if (mean >= Limits::min() / Limits::epsilon() && mean <= Limits::max()) return C(1) / std::sqrt(mean);
  const double largest = row.max([&](C u) { return std::abs(double(f(u))); }, values), root = std::sqrt(eps),
               top = largest > root ? largest : root;
  const double unit = top > 0 && top <= std::numeric_limits<double>::max() ? top : 1;
  const double squares = row.sum([&](C u) { return double(f(u)) / unit * (double(f(u)) / unit); }, values);
  return C(1 / (unit * std::sqrt(squares / double(row.n) + eps / unit / unit)));
}

}  // namespace

template <class T>
void layer_norm(const Cuda& device, T* y, Moments<Compute<T>>* moments, const T* x, const Compute<T>* w,
                const Compute<T>* b, int64_t rows, int64_t n, double eps, const T* residual, T* sum) {
  using C = Compute<T>;
  // Of the row r that `in` is, whose first number is `first`.
  const auto normalise = [=] AG_LAMBDA(int64_t r, const auto& row, const auto& in, C first) {
    const C share = C(1) / C(n);
    const C m = first + row.sum([=](C u) { return (u - first) * share; }, in);
    const C rest = row.sum([=](C u) { return (u - m) * share; }, in);
    const C squares = row.sum([=](C u) { return (u - m) * (u - m); }, in);
    const C spread = squares / C(n) - rest * rest;  // loses nothing: rest is a rounding error
    const C var = spread < 0 ? C(0) : spread;
    const C s = inverse_rms(
        var, eps, row, [=](C u) { return (u - m) - rest; }, in);
    if (row.thread() == 0) moments[r] = {m, rest, s};
    const auto scaled = [=](C u, C gain) { return ((u - m) - rest) * s * gain; };
    const auto shifted = [=](C u, C gain, C bias) { return scaled(u, gain) + bias; };
    if (b) {
      row.write(y + r * n, shifted, in, row.keep(Same(), w), row.keep(Same(), b));
    } else {
      row.write(y + r * n, scaled, in, row.keep(Same(), w));
    }
  };
  if (!residual) {
    const auto alone = [=] AG_LAMBDA(int64_t r, auto row) {
      normalise(r, row, row.keep(Same(), x + r * n), n > 0 ? C(x[r * n]) : C(0));
    };
    return cuda::each_row<T>(device, "layer_norm", rows, n, alone, y, x, w, b);
  }
  const auto with_residual = [=] AG_LAMBDA(int64_t r, auto row) {
    const auto add = [](C u, C v) { return C(cuda::rounded<T>(u + v)); };
    const auto sums = row.keep(add, x + r * n, residual + r * n);
    row.write(sum + r * n, Same(), sums);
    const C first = n > 0 ? add(C(x[r * n]), C(residual[r * n])) : C(0);
    normalise(r, row, row.written(sums, static_cast<const T*>(sum + r * n)), first);
  };
  cuda::each_row<T>(device, "layer_norm", rows, n, with_residual, y, x, w, b, residual, sum);
}

template <class T>
void layer_norm_grad(const Cuda& device, T* dx, double beta, Compute<T>* dw, Compute<T>* db, const T* dy,
                     const T* x, const Moments<Compute<T>>* moments, const Compute<T>* w, int64_t rows,
                     int64_t n) {
  using C = Compute<T>;
  const auto grad = [=] AG_LAMBDA(int64_t r, auto row, auto&& sums) {
    const auto old = row.keep_if(dx && beta != 0, dx ? dx + r * n : dx);
    const C m = moments[r].mean, rest = moments[r].rest, s = moments[r].rstd;
    const auto times = [](C u, C v) { return u * v; };
    const auto given = row.keep(Same(), dy + r * n);
    const auto h = row.keep([=](C u) { return ((u - m) - rest) * s; }, x + r * n);
    sums.add(row, 0, times, given, h);
    sums.add(row, 1, Same(), given);
    if (!dx) return;
    const auto g = row.then(times, given, row.read(Same(), w));
    const C mean_g = row.sum(Same(), g) / C(n), mean_gh = row.sum(times, g, h) / C(n);
    add_to(
        row, dx + r * n, beta, old, [=](C u, C v) { return s * (u - mean_g - v * mean_gh); }, g, h);
  };
  const auto finish = [=] AG_LAMBDA(int64_t, int which, int64_t column, double total) {
    C* const to = which == 0 ? dw : db;
    if (to) to[column] = C(total);
  };
  if ((dw || db) && cuda::sums_beside<T>(n))  // whether dx is wanted or not, to the same bits
    return cuda::each_row_with_sums<T, 2>(device, "layer_norm_grad", rows, n, grad, finish, dx, dy, x, w);
  if (dx) cuda::each_row<T>(device, "layer_norm_grad", rows, n, cuda::without_sums(grad), dx, dy, x, w);
  if (!dw && !db) return;
  cuda::column_sums<2>(
      device, "layer_norm_grad", 1, rows, n,
      [=] AG_LAMBDA(int64_t r, C g, C u) {
        const C h = ((u - moments[r].mean) - moments[r].rest) * moments[r].rstd;
        return std::array<C, 2>{g * h, g};
      },
      finish, dy, x);
}

template <class T>
void rms_norm(const Cuda& device, T* y, Compute<T>* rstd, const T* x, const Compute<T>* w, int64_t rows,
              int64_t n, double eps) {
  using C = Compute<T>;
  const auto normalise = [=] AG_LAMBDA(int64_t r, auto row) {
    const auto in = row.keep(Same(), x + r * n);
    const C squares = row.sum([](C u) { return u * u; }, in);
    const C s = inverse_rms(squares / C(n), eps, row, Same(), in);
    if (row.thread() == 0) rstd[r] = s;
    row.write(
        y + r * n, [=](C u, C gain) { return u * s * gain; }, in, row.keep(Same(), w));
  };
  cuda::each_row<T>(device, "rms_norm", rows, n, normalise, y, x, w);
}

template <class T>
void rms_norm_grad(const Cuda& device, T* dx, double beta, Compute<T>* dw, const T* dy, const T* x,
                   const Compute<T>* rstd, const Compute<T>* w, int64_t rows, int64_t n) {
  using C = Compute<T>;
  const auto grad = [=] AG_LAMBDA(int64_t r, auto row) {
    const auto old = row.keep_if(beta != 0, dx + r * n);
    const C s = rstd[r];
    const auto g = row.keep([](C u, C gain) { return u * gain; }, dy + r * n, w);
    const auto h = row.keep([=](C u) { return u * s; }, x + r * n);
    const C mean_gh = row.sum([](C u, C v) { return u * v; }, g, h) / C(n);
    add_to(
        row, dx + r * n, beta, old, [=](C u, C v) { return s * (u - v * mean_gh); }, g, h);
  };
  if (dx) cuda::each_row<T>(device, "rms_norm_grad", rows, n, grad, dx, dy, x, w);
  if (!dw) return;
  cuda::column_sums<1>(
      device, "rms_norm_grad", 1, rows, n,
      [=] AG_LAMBDA(int64_t r, C g, C u) { return std::array<C, 1>{g * (u * rstd[r])}; },
      [=] AG_LAMBDA(int64_t, int, int64_t column, double total) { dw[column] = C(total); }, dy, x);
}

AG_INSTANTIATE_STORED(layer_norm)
AG_INSTANTIATE_STORED(layer_norm_grad)
AG_INSTANTIATE_STORED(rms_norm)
AG_INSTANTIATE_STORED(rms_norm_grad)

}  // namespace on_cuda
}  // namespace altgrad::kernels
