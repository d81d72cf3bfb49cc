// Softmax and cross-entropy. What is subtracted from a row is kept in two parts, as on the CPU.
#include <altgrad/core/internal/kernels/rows.h>

#include <altgrad/core/cuda/row.h>
#include <altgrad/core/cuda/runtime.h>
#include <altgrad/core/internal/ids.h>
#include <altgrad/core/internal/instantiate.h>
#include <altgrad/core/internal/math.h>

#include <algorithm>
#include <limits>

namespace altgrad::kernels {
inline namespace on_cuda {
namespace {

using cuda::Same;

// e^x for x <= 0, as exact as what is stored as T needs.
template <class T>
AG_DEVICE Compute<T> power(Compute<T> x) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    return cuda::exp2_approx(x * cuda::log2_e);
  } else {
    return math::exp_bounded(x);
  }
}

// A long row is read once: what a thread has summed is scaled to each larger element that it meets.
template <class T, class Row, class V>
AG_DEVICE LogSumExp<Compute<T>> log_sum_exp(const Row& row, const V& x) {
  using C = Compute<T>;
  if constexpr (Row::is_short) {
    const C top = row.max(Same(), x);
    return {top, std::log(row.sum([=](C u) { return power<T>(u - top); }, x))};
  } else {
    constexpr C none = -std::numeric_limits<C>::infinity();
    C top = none, sum = 0;
    row.each(
        [&](int64_t, const auto& pack) {
          C larger = top;
          for (const C u : pack.at) larger = cuda::Larger()(larger, u);
          const C base = larger == none ? C(0) : larger;
          if (larger != top) sum *= power<T>(top - base);
          for (const C u : pack.at) sum += power<T>(u - base);
          top = larger;
        },
        x);
    const C all = row.reduced(top, none, cuda::Larger());
    return {all, std::log(row.reduced(sum * power<T>(top - all), C(0), cuda::Add()))};
  }
}

// dx = scale * (softmax(x) - [column = target]), or 0 for a row that does not count. Who has written the target's element
// writes it again: so no other is compared with it.
template <class T, class Row, class V>
AG_DEVICE void write_loss_grad(const Row& row, T* dx, const LogSumExp<Compute<T>>& lse, Compute<T> scale,
                               bool counts, int64_t target, Compute<T> x_of_target, const V& x) {
  using C = Compute<T>;
  const auto share = [=](C u) { return scale * power<T>((u - lse.top) - lse.log_sum); };
  if (!counts)
    return row.write(
        dx, [](C) { return C(0); }, x);
  row.write(dx, share, x);
  if (row.has(target)) dx[target] = cuda::rounded<T>(share(x_of_target) - scale);
}

}  // namespace

template <class T>
void softmax(const Cuda& device, T* y, const T* x, int64_t rows, int64_t n) {
  using C = Compute<T>;
  const auto normalise = [=] AG_LAMBDA(int64_t r, auto row) {
    const auto in = row.keep(Same(), x + r * n);
    const C top = row.max(Same(), in);
    const auto powers = row.then([=](C u) { return power<T>(u - top); }, in);
    const C scale = C(1) / row.sum(Same(), powers);
    row.write(
        y + r * n, [=](C u) { return u * scale; }, powers);
  };
  cuda::each_row<T>(device, "softmax", rows, n, normalise, y, x);
}

template <class T>
void softmax_grad(const Cuda& device, T* dx, const T* dy, const T* y, int64_t rows, int64_t n) {
  using C = Compute<T>;
  const auto grad = [=] AG_LAMBDA(int64_t r, auto row) {
    const auto g = row.keep(Same(), dy + r * n), p = row.keep(Same(), y + r * n);
    const C dot = row.sum([](C u, C v) { return u * v; }, g, p);
    row.write(
        dx + r * n, [=](C u, C v) { return v * (u - dot); }, g, p);
  };
  cuda::each_row<T>(device, "softmax_grad", rows, n, grad, dx, dy, y);
}

template <class T>
void log_softmax(const Cuda& device, T* y, const T* x, int64_t rows, int64_t n) {
  using C = Compute<T>;
  const auto normalise = [=] AG_LAMBDA(int64_t r, auto row) {
    const auto in = row.keep(Same(), x + r * n);
    const LogSumExp<C> of_row = log_sum_exp<T>(row, in);
    row.write(
        y + r * n, [=](C u) { return u - of_row.top - of_row.log_sum; }, in);
  };
  cuda::each_row<T>(device, "log_softmax", rows, n, normalise, y, x);
}

template <class T>
void log_softmax_grad(const Cuda& device, T* dx, const T* dy, const T* y, int64_t rows, int64_t n) {
  using C = Compute<T>;
  const auto grad = [=] AG_LAMBDA(int64_t r, auto row) {
    const auto g = row.keep(Same(), dy + r * n);
    const C total = row.sum(Same(), g);
    const auto minus = [=](C u, C log_p) { return u - power<T>(log_p) * total; };
    row.write(dx + r * n, minus, g, row.read(Same(), y + r * n));
  };
  cuda::each_row<T>(device, "log_softmax_grad", rows, n, grad, dx, dy, y);
}

template <class T>
void cross_entropy(const Cuda& device, Compute<T>* loss, LogSumExp<Compute<T>>* lse, const T* x,
                   const int64_t* targets, int64_t rows, int64_t n, int64_t ignore) {
  using C = Compute<T>;
  const auto entropy = [=] AG_LAMBDA(int64_t r, auto row) {
    const LogSumExp<C> of_row = log_sum_exp<T>(row, row.keep(Same(), x + r * n));
    if (row.thread() > 0) return;
    lse[r] = of_row;
    const bool counts = targets[r] != ignore && n > 0;
    loss[r] = counts ? (of_row.top - C(x[r * n + nearest_id(targets[r], n)])) + of_row.log_sum : C(0);
  };
  cuda::each_row<T>(device, "cross_entropy", rows, n, entropy, x);
}

template <std::floating_point T>
void target_weight(const Cuda& device, T* weight, const int64_t* targets, int64_t rows, int64_t ignore) {
  cuda::Tally* const tally = cuda::tally(device.index);
  const int64_t blocks = std::max<int64_t>(1, (rows + cuda::few - 1) / cuda::few);
  cuda::rows(device, "target_weight", blocks, cuda::few, [=] AG_LAMBDA(int64_t b) {
    const int64_t first = b * cuda::few, left = rows - first;
    const unsigned own = cuda::row_sum<unsigned>(left < cuda::few ? left : cuda::few,
                                                 [=](int64_t r) { return targets[first + r] != ignore; });
    if (threadIdx.x != 0) return;
    atomicAdd(&tally->top, own);
    if (cuda::arrive(&tally->arrived) + 1 < blocks) return;
    *weight = T(1.0 / double(atomicExch(&tally->top, 0u)));  // by the block that comes last
    tally->arrived = 0;
  });
}

template <class T>
void cross_entropy_grad(const Cuda& device, T* dx, const Compute<T>* dy, const Compute<T>* weight, const T* x,
                        const LogSumExp<Compute<T>>* lse, const int64_t* targets, int64_t rows, int64_t n,
                        int64_t ignore) {
  using C = Compute<T>;
  const auto grad = [=] AG_LAMBDA(int64_t r, auto row) {
    const int64_t target = nearest_id(targets[r], n);
    const bool counts = targets[r] != ignore && n > 0;
    const C x_of_target = counts ? C(x[r * n + target]) : C(0);
    write_loss_grad(row, dx + r * n, lse[r], *dy * *weight, counts, target, x_of_target,
                    row.read(Same(), x + r * n));
  };
  cuda::each_row<T>(device, "cross_entropy_grad", rows, n, grad, dx, x);
}

template <class T>
void cross_entropy_with_grad(const Cuda& device, Compute<T>* loss, T* dx, const Compute<T>* weight,
                             const T* x, const int64_t* targets, int64_t rows, int64_t n, int64_t ignore) {
  using C = Compute<T>;
  const auto both = [=] AG_LAMBDA(int64_t r, auto row) {
    const auto in = row.hold(x + r * n);
    const LogSumExp<C> of_row = log_sum_exp<T>(row, in);
    const int64_t target = nearest_id(targets[r], n);
    const bool counts = targets[r] != ignore && n > 0;
    const C x_of_target = counts ? C(x[r * n + target]) : C(0);
    if (row.thread() == 0) loss[r] = counts ? (of_row.top - x_of_target) + of_row.log_sum : C(0);
    write_loss_grad(row, dx + r * n, of_row, *weight, counts, target, x_of_target, in);
  };
  cuda::each_held_row<T>(device, "cross_entropy", rows, n, both, dx, x);
}

template <class T>
void scale(const Cuda& device, T* x, const Compute<T>* factor, int64_t n) {
  constexpr int size = cuda::pack_size<T>;
  const bool aligned = cuda::aligned<size>(x);
  const int64_t packs = (n + size - 1) / size,
                blocks = cuda::blocks_for((packs + cuda::most_threads - 1) / cuda::most_threads);
  cuda::rows(device, "scale", blocks, packs, [=] AG_LAMBDA(int64_t b) {
    const Compute<T> c = *factor;
    if (c == 1) return;  // as a rule
    const auto times_c = [=](T& u) { u = T(Compute<T>(u) * c); };
    for (int64_t i = b * blockDim.x + threadIdx.x; i < packs; i += blocks * blockDim.x) {
      const int64_t first = i * size;
      cuda::for_pack<size>(aligned && first + size <= n, n - first, times_c, x + first);
    }
  });
}

AG_INSTANTIATE_STORED(softmax)
AG_INSTANTIATE_STORED(softmax_grad)
AG_INSTANTIATE_STORED(log_softmax)
AG_INSTANTIATE_STORED(log_softmax_grad)
AG_INSTANTIATE_STORED(cross_entropy)
AG_INSTANTIATE_FLOATING(target_weight)
AG_INSTANTIATE_STORED(cross_entropy_grad)
AG_INSTANTIATE_STORED(cross_entropy_with_grad)
AG_INSTANTIATE_STORED(scale)

}  // namespace on_cuda
}  // namespace altgrad::kernels
