// Elementwise kernels: plain loops over the named functors, which the compiler vectorises.
#include <altgrad/core/cpu/parallel.h>
#include <altgrad/core/internal/elementwise_instances.h>
#include <altgrad/core/internal/kernels/elementwise.h>

namespace altgrad::kernels {
inline namespace on_cpu {
namespace {

constexpr int64_t grain = 1 << 14;

// Walks the index space of s in rows of its last axis: f(first element of the output, offset in a, offset in
// b, length). Flat ranges are handed to threads, so one long row is shared too.
template <class F>
void for_rows(const LoopNest& s, F&& f) {
  const int last = s.dim - 1;
  const int64_t inner = s.dim ? s.size[last] : 1;
  parallel_for(s.numel, grain, [&](int64_t begin, int64_t end) {
    int64_t index[Shape::max_dim] = {}, a = 0, b = 0;
    int64_t rest = begin / inner;
    for (int d = last - 1; d >= 0; --d) {
      index[d] = rest % s.size[d];
      rest /= s.size[d];
      a += index[d] * s.a[d];
      b += index[d] * s.b[d];
    }
    for (int64_t i = begin, column = begin % inner; i < end; column = 0) {
      const int64_t n = std::min(inner - column, end - i);
      const int64_t step_a = s.dim ? s.a[last] : 0, step_b = s.dim ? s.b[last] : 0;
      f(i, a + column * step_a, b + column * step_b, n);
      i += n;
      for (int d = last - 1; d >= 0; --d) {  // the next row's offsets, as an odometer counts
        a += s.a[d];
        b += s.b[d];
        if (++index[d] < s.size[d]) break;
        a -= s.size[d] * s.a[d];
        b -= s.size[d] * s.b[d];
        index[d] = 0;
      }
    }
  });
}

// f(i, a[i * step_a], b[i * step_b]) for i < n, with loops of their own for the steps that vectorise.
template <class T, class F>
void for_pairs(const T* __restrict a, int64_t step_a, const T* __restrict b, int64_t step_b, int64_t n,
               F&& f) {
  if (step_a == 1 && step_b == 1) {
    for (int64_t i = 0; i < n; ++i) f(i, a[i], b[i]);
  } else if (step_a == 1 && step_b == 0) {
    const T b0 = *b;
    for (int64_t i = 0; i < n; ++i) f(i, a[i], b0);
  } else if (step_a == 0 && step_b == 1) {
    const T a0 = *a;
    for (int64_t i = 0; i < n; ++i) f(i, a0, b[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) f(i, a[i * step_a], b[i * step_b]);
  }
}

int64_t last_a(const LoopNest& s) { return s.dim ? s.a[s.dim - 1] : 0; }
int64_t last_b(const LoopNest& s) { return s.dim ? s.b[s.dim - 1] : 0; }

}  // namespace

template <class F, class T>
void unary(const Cpu&, F f, T* y, const T* x, int64_t n) {
  parallel_for(n, grain, [=](int64_t begin, int64_t end) {
    T* __restrict out = y;
    const T* __restrict in = x;
    for (int64_t i = begin; i < end; ++i) out[i] = f.value(in[i]);
  });
}

template <class F, class T>
void unary_with_derivative(const Cpu&, F f, T* y, T* derivative, const T* x, int64_t n) {
  parallel_for(n, grain, [=](int64_t begin, int64_t end) {
    T* __restrict values = y, * __restrict derivatives = derivative;
    const T* __restrict in = x;
    for (int64_t i = begin; i < end; ++i) {
      const ValueAndDerivative<T> both = f.value_and_derivative(in[i]);
      values[i] = both.value;
      derivatives[i] = both.derivative;
    }
  });
}

template <class F, class T>
void unary_grad(const Cpu&, F f, T* dx, const T* dy, const T* saved, int64_t n) {
  parallel_for(n, grain, [=](int64_t begin, int64_t end) {
    T* __restrict out = dx;
    for (int64_t i = begin; i < end; ++i) out[i] = dy[i] * f.derivative(saved ? saved[i] : T(0));
  });
}

template <class F, class Y, class T>
void binary(const Cpu&, F f, Y* y, const T* a, const T* b, const LoopNest& s) {
  for_rows(s, [&, y, f](int64_t i, int64_t at_a, int64_t at_b, int64_t n) {
    Y* __restrict out = y + i;
    for_pairs(a + at_a, last_a(s), b + at_b, last_b(s), n,
              [=](int64_t j, T p, T q) { out[j] = f.value(p, q); });
  });
}

template <class F, class T>
void binary_grad(const Cpu&, F f, T* da, T* db, const T* dy, const T* a, const T* b, const LoopNest& s) {
  for_rows(s, [&, f](int64_t i, int64_t at_a, int64_t at_b, int64_t n) {
    const T* __restrict in = dy + i;
    if (da) {
      T* __restrict out = da + i;
      for_pairs(a + at_a, last_a(s), b + at_b, last_b(s), n,
                [=](int64_t j, T p, T q) { out[j] = in[j] * f.derivative_a(p, q); });
    }
    if (db) {
      T* __restrict out = db + i;
      for_pairs(a + at_a, last_a(s), b + at_b, last_b(s), n,
                [=](int64_t j, T p, T q) { out[j] = in[j] * f.derivative_b(p, q); });
    }
  });
}

template <class T>
void copy_strided(const Cpu&, T* dst, const T* src, const LoopNest& s) {
  const int64_t step_to = last_a(s), step_from = last_b(s);
  for_rows(s, [=](int64_t, int64_t at_dst, int64_t at_src, int64_t n) {
    T* __restrict to = dst + at_dst;
    const T* __restrict from = src + at_src;
    if (step_to == 1 && step_from == 1) {
      std::copy_n(from, n, to);
    } else {
      for (int64_t i = 0; i < n; ++i) to[i * step_to] = from[i * step_from];
    }
  });
}

template <class T>
void where(const Cpu&, T* y, const uint8_t* condition, const T* a, const T* b, int64_t n) {
  parallel_for(n, grain, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = condition[i] ? (a ? a[i] : T(0)) : (b ? b[i] : T(0));
  });
}

template <class T>
void fill(const Cpu&, T* y, T value, int64_t n) {
  parallel_for(n, grain, [=](int64_t begin, int64_t end) { std::fill(y + begin, y + end, value); });
}

template <class To, class From>
void cast(const Cpu&, To* y, const From* x, int64_t n) {
  parallel_for(n, grain, [=](int64_t begin, int64_t end) {
    To* __restrict out = y;
    const From* __restrict in = x;
    for (int64_t i = begin; i < end; ++i) out[i] = converted<To>(in[i]);
  });
}

template <class T>
void axpy(const Cpu&, T* y, const T* x, double alpha, int64_t n) {
  parallel_for(n, grain, [=](int64_t begin, int64_t end) {
    T* __restrict out = y;
    const T* __restrict in = x;
    const auto factor = Compute<T>(alpha);
    for (int64_t i = begin; i < end; ++i) out[i] = T(out[i] + factor * in[i]);
  });
}

#define AG_UNARY_WITH_DERIVATIVE(F) AG_INSTANTIATE_FLOATING(unary_with_derivative, F)

AG_INSTANTIATE_ELEMENTWISE
AG_VALUE_AND_DERIVATIVE_FUNCTORS(AG_UNARY_WITH_DERIVATIVE)
AG_INSTANTIATE_FOR(axpy<bfloat16>)

}  // namespace on_cpu
}  // namespace altgrad::kernels
