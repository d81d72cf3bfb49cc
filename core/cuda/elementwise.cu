// Elementwise kernels over the functors that the CPU has, too.
#include <altgrad/core/internal/kernels/elementwise.h>

#include <altgrad/core/cuda/approx.h>
#include <altgrad/core/cuda/columns.h>
#include <altgrad/core/cuda/packs.h>
#include <altgrad/core/internal/elementwise_instances.h>

namespace altgrad::kernels {
inline namespace on_cuda {
namespace {

struct Offsets {
  int64_t a, b;
};
// Where element i of the output is read. The loop has constant bounds and is unrolled: an index into s at run time
// would have it copied to local memory. Most indices are divided as 32-bit numbers, which is several times as fast.
template <class Index>
AG_DEVICE Offsets offsets(const LoopNest& s, Index i) {
  Offsets at{0, 0};
  for (int d = Shape::max_dim - 1; d >= 0; --d) {
    if (d >= s.dim) continue;
    const Index n = Index(s.size[d]), index = i % n;
    i /= n;
    at.a += int64_t(index) * s.a[d];
    at.b += int64_t(index) * s.b[d];
  }
  return at;
}

// The same loops over packs of elements that lie side by side in both inputs, or are the same one, if they are that.
template <int size>
bool in_packs(LoopNest& s, bool may_repeat) {
  const int last = s.dim - 1;
  const auto fits = [&](const int64_t(&stride)[Shape::max_dim]) {
    if (stride[last] == 0) return may_repeat;
    for (int d = 0; d < last; ++d) {
      if (stride[d] % size != 0) return false;
    }
    return stride[last] == 1;
  };
  if (s.dim == 0 || s.size[last] % size != 0 || !fits(s.a) || !fits(s.b)) return false;
  s.size[last] /= size, s.a[last] *= size, s.b[last] *= size, s.numel /= size;
  return true;
}

// f(i, offsets of i) for each index of the loops.
template <class F>
void each_of_nest(const Cuda& device, const char* name, const LoopNest& s, F f) {
  const bool narrow = s.numel <= std::numeric_limits<uint32_t>::max();
  cuda::each(device, name, s.numel,
             [=] AG_LAMBDA(int64_t i) { f(i, narrow ? offsets(s, uint32_t(i)) : offsets(s, i)); });
}

template <int size, class T>
AG_DEVICE cuda::Pack<T, size> pack_at(const T* p, bool repeats, bool aligned) {
  if (!repeats) return cuda::load<size>(p, aligned);
  cuda::Pack<T, size> pack;
  for (T& x : pack.at) x = *p;
  return pack;
}

// f(y[i], element of a, element of b, more[i]...) for each index i of the loops.
template <class F, class Y, class T, class... D>
void combine(const Cuda& device, const char* name, F f, const LoopNest& s, Y* y, const T* a, const T* b,
             const D*... more) {
  constexpr int size = cuda::pack_size<Y, T, D...>;
  const int last = s.dim - 1;
  if (s.dim == 0 || (s.dim == 1 && s.a[last] == 1 && s.b[last] == 1))
    return cuda::map(device, name, s.numel, f, y, a, b, more...);
  const std::tuple<const D*...> rest(more...);
  LoopNest packs = s;
  if (!in_packs<size>(packs, true)) {
    return each_of_nest(device, name, s, [=] AG_LAMBDA(int64_t i, Offsets at) {
      std::apply([&](const D*... d) { f(y[i], a[at.a], b[at.b], d[i]...); }, rest);
    });
  }
  const bool aligned = cuda::aligned<size>(y, a, b, more...);
  const bool same_a = s.a[last] == 0, same_b = s.b[last] == 0;
  each_of_nest(device, name, packs, [=] AG_LAMBDA(int64_t i, Offsets at) {
    const auto u = pack_at<size>(a + at.a, same_a, aligned), v = pack_at<size>(b + at.b, same_b, aligned);
    int k = 0;
    const auto one = [&](Y& to, const D&... given) { f(to, u.at[k], v.at[k], given...), ++k; };
    std::apply(
        [&](const D*... d) { cuda::for_pack<size>(aligned, size, one, y + i * size, (d + i * size)...); },
        rest);
  });
}

// What gelu and its derivative are made of where numbers are stored as bfloat16: to 2^-14 of each, in a third of the
// instructions that GeluErf takes in f32. As in math.h Phi(-|x|) = exp(-x^2 / 2) Q(t), Q being a minimax polynomial.
struct GeluOfBf16 {
  AG_DEVICE float value(float x) const { return x * cdf(x, gauss(x)); }
  AG_DEVICE float derivative(float x) const {
    const float g = gauss(x);
    return cdf(x, g) + x * g * 0.39894228040143268f;
  }

 private:
  AG_DEVICE static float gauss(float x) { return cuda::exp2_approx(x * x * (-0.5f * cuda::log2_e)); }
  AG_DEVICE static float cdf(float x, float gauss) {
    const float t = cuda::reciprocal_approx(1.0f + 0.38f * std::fabs(x));
    float q = -0.0899279766f;
    q = q * t + 0.188875667f;
    q = q * t + 0.0919803458f;
    q = q * t + 0.157829285f;
    q = q * t + 0.151225157f;
    const float tail = gauss * (q * t);
    return x < 0.0f ? tail : 1.0f - tail;
  }
};
// f, or what does instead where numbers are stored as T.
template <class T, class F>
auto function_for(F f) {
  if constexpr (std::is_same_v<T, bfloat16> && std::is_same_v<F, GeluErf>) {
    return GeluOfBf16();
  } else {
    return f;
  }
}

}  // namespace

template <class F, class T>
void unary(const Cuda& device, F f, T* y, const T* x, int64_t n) {
  const auto function = function_for<T>(f);
  cuda::map(
      device, F::name, n,
      [=] AG_LAMBDA(T & to, T u) { to = cuda::rounded<T>(function.value(Compute<T>(u))); }, y, x);
}

template <class F, class T>
void unary_grad(const Cuda& device, F f, T* dx, const T* dy, const T* saved, int64_t n) {
  using C = Compute<T>;
  const auto function = function_for<T>(f);
  if constexpr (F::saved_for_backward == Saved::nothing) {
    cuda::map(
        device, F::name, n,
        [=] AG_LAMBDA(T & to, T g) { to = cuda::rounded<T>(C(g) * function.derivative(C(0))); }, dx, dy);
  } else {
    cuda::map(
        device, F::name, n,
        [=] AG_LAMBDA(T & to, T g, T kept) { to = cuda::rounded<T>(C(g) * function.derivative(C(kept))); },
        dx, dy, saved);
  }
}

template <class F>
void unary_grad(const Cuda& device, F f, bfloat16* dx, float* sums, const bfloat16* saved, int64_t rows,
                int64_t columns) {
  const auto function = function_for<bfloat16>(f);
  cuda::column_sums<1>(
      device, F::name, 1, rows, columns,
      [=] AG_LAMBDA(int64_t, bfloat16 & to, float kept) {
        to = cuda::rounded<bfloat16>(float(to) * function.derivative(kept));
        return std::array<float, 1>{float(to)};
      },
      [=] AG_LAMBDA(int64_t, int, int64_t column, double total) { sums[column] = float(total); }, dx, saved);
}

template <class F, class Y, class T>
void binary(const Cuda& device, F f, Y* y, const T* a, const T* b, const LoopNest& s) {
  using C = Compute<T>;
  combine(
      device, F::name, [=] AG_LAMBDA(Y & to, T u, T v) { to = Y(f.value(C(u), C(v))); }, s, y, a, b);
}

template <class F, class T>
void binary_grad(const Cuda& device, F f, T* da, T* db, const T* dy, const T* a, const T* b,
                 const LoopNest& s) {
  using C = Compute<T>;
  const auto to_a = [=] AG_LAMBDA(T & to, T u, T v, T g) { to = T(C(g) * f.derivative_a(C(u), C(v))); };
  const auto to_b = [=] AG_LAMBDA(T & to, T u, T v, T g) { to = T(C(g) * f.derivative_b(C(u), C(v))); };
  if (da) combine(device, F::name, to_a, s, da, a, b, dy);
  if (db) combine(device, F::name, to_b, s, db, a, b, dy);
}

template <class T>
void copy_strided(const Cuda& device, T* dst, const T* src, const LoopNest& s) {
  constexpr int size = cuda::pack_size<T>;
  LoopNest packs = s;
  if (!in_packs<size>(packs, false) || !cuda::aligned<size>(dst, src)) {
    each_of_nest(device, "copy_strided", s, [=] AG_LAMBDA(int64_t, Offsets at) { dst[at.a] = src[at.b]; });
  } else {
    each_of_nest(device, "copy_strided", packs, [=] AG_LAMBDA(int64_t, Offsets at) {
      cuda::store(cuda::load<size>(src + at.b, true), dst + at.a, true);
    });
  }
}

template <class T>
void where(const Cuda& device, T* y, const uint8_t* condition, const T* a, const T* b, int64_t n) {
  if (a && b) {
    cuda::map(
        device, "where", n, [=] AG_LAMBDA(T & to, uint8_t c, T u, T v) { to = c ? u : v; }, y, condition, a,
        b);
  } else {
    const bool side = a;
    cuda::map(
        device, "where", n, [=] AG_LAMBDA(T & to, uint8_t c, T u) { to = bool(c) == side ? u : T(0); }, y,
        condition, a ? a : b);
  }
}

template <class T>
void fill(const Cuda& device, T* y, T value, int64_t n) {
  cuda::map(
      device, "fill", n, [=] AG_LAMBDA(T & to) { to = value; }, y);
}

template <class To, class From>
void cast(const Cuda& device, To* y, const From* x, int64_t n) {
  cuda::map(
      device, "cast", n, [=] AG_LAMBDA(To & to, From u) { to = converted<To>(u); }, y, x);
}

template <class T>
void axpy(const Cuda& device, T* y, const T* x, double alpha, int64_t n) {
  using C = Compute<T>;
  cuda::map(
      device, "axpy", n, [=] AG_LAMBDA(T & to, T u) { to = T(C(to) + C(alpha) * C(u)); }, y, x);
}

AG_INSTANTIATE_ELEMENTWISE
AG_INSTANTIATE_ELEMENTWISE_BF16
template void unary_grad(const Cuda&, GeluErf, bfloat16*, float*, const bfloat16*, int64_t, int64_t);
template void unary_grad(const Cuda&, GeluTanh, bfloat16*, float*, const bfloat16*, int64_t, int64_t);

}  // namespace on_cuda
}  // namespace altgrad::kernels
