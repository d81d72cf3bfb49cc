// Plain loops over the branch-free Rounder, which the compiler vectorises. Random words are drawn a few
// blocks at a time into a buffer, so that the rounding loop stays one that vectorises.
#include <altgrad/fp8/kernels.h>

#include <altgrad/core/cpu/parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace altgrad::kernels {
namespace {

constexpr int64_t grain = 1 << 14;
constexpr int64_t run = 256;  // elements whose random words are drawn together

template <class T>
T quotient(T x, T scale) {
  constexpr T limit = std::numeric_limits<T>::max();
  const T q = x / scale, bounded = q > limit ? limit : q < -limit ? -limit : q;
  return std::abs(x) <= limit ? bounded : q;
}

// y = finish(rounder(q(x))) on one thread; words may be null. All by value or __restrict, or the loops do not
// vectorise.
template <class Out, class T, class F>
void round_piece(Out* __restrict y, const T* __restrict x, T scale, fp8::Rounder<T> rounder,
                 const uint32_t* __restrict words, int64_t n, F finish) {
  if (words) {
    for (int64_t i = 0; i < n; ++i) y[i] = finish(rounder(quotient(x[i], scale), words[i]));
  } else {
    for (int64_t i = 0; i < n; ++i) y[i] = finish(rounder(quotient(x[i], scale)));
  }
}

template <class Out, class T, class F>
void round_all(Out* y, const T* x, T scale, const fp8::Rounder<T>& rounder,
               std::optional<RandomStream> random, int64_t n, F finish) {
  if (!random) {
    parallel_for(n, grain, [&](int64_t begin, int64_t end) {
      round_piece<Out>(y + begin, x + begin, scale, rounder, nullptr, end - begin, finish);
    });
    return;
  }
  parallel_for((n + run - 1) / run, grain / run, [&](int64_t begin, int64_t end) {
    uint32_t words[run];
    for (int64_t first = begin * run; first < std::min(n, end * run); first += run) {
      for (int64_t i = 0; i < run; i += 4) {
        const std::array<uint32_t, 4> four = random->block(uint64_t(first + i) / 4);
        std::copy(four.begin(), four.end(), words + i);
      }
      round_piece<Out>(y + first, x + first, scale, rounder, words, std::min(run, n - first), finish);
    }
  });
}

}  // namespace

template <class D, class T>
void quantize(T* y, const T* x, T scale, const fp8::Rounder<T>& rounder, std::optional<RandomStream> random,
              int64_t n) {
  round_all(y, x, scale, rounder, random, n, [=](T rounded) { return rounded * scale; });
}

template <class D, class T>
void encode(uint8_t* codes, const T* x, T scale, const fp8::Rounder<T>& rounder,
            std::optional<RandomStream> random, int64_t n) {
  round_all(codes, x, scale, rounder, random, n, [=](T rounded) { return uint8_t(rounder.code(rounded)); });
}

template <class D>
void decode(float* y, const uint8_t* codes, const float* table, int64_t n) {
  parallel_for(n, grain, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = table[codes[i]];
  });
}

template <class D, class T>
void zero_saturated(T* dx, const T* dy, const T* x, T scale, T max, int64_t n) {
  parallel_for(n, grain, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) dx[i] = std::abs(quotient(x[i], scale)) > max ? T(0) : dy[i];
  });
}

template void decode<Cpu>(float*, const uint8_t*, const float*, int64_t);
#define AG_INSTANTIATE(T)                                                                               \
  template void quantize<Cpu>(T*, const T*, T, const fp8::Rounder<T>&, std::optional<RandomStream>,     \
                              int64_t);                                                                 \
  template void encode<Cpu>(uint8_t*, const T*, T, const fp8::Rounder<T>&, std::optional<RandomStream>, \
                            int64_t);                                                                   \
  template void zero_saturated<Cpu>(T*, const T*, const T*, T, T, int64_t);
AG_INSTANTIATE(float)
AG_INSTANTIATE(double)

}  // namespace altgrad::kernels
