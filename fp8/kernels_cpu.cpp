// Plain loops over the branch-free Rounder, which the compiler vectorises. Random words are drawn a few
// blocks at a time into a buffer, so that the rounding loop stays one that vectorises.
#include <altgrad/fp8/internal/kernels.h>

#include <altgrad/core/cpu/parallel.h>
#include <altgrad/core/internal/kernels/reduce.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>
#if defined(__AVX__)
#include <immintrin.h>
#endif

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

// The largest |x|; NaN counts as larger than all numbers.
float largest_of(const float* __restrict x, int64_t n) {
  uint32_t top = 0;
  for (int64_t i = 0; i < n; ++i) top = std::max(top, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  return std::bit_cast<float>(top);
}

// The largest of what several threads have seen, none of it negative: such floats order as their bits do.
class SharedLargest {
 public:
  void see(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    for (uint32_t top = top_; top < bits && !top_.compare_exchange_weak(top, bits);) continue;
  }
  float value() const { return std::bit_cast<float>(top_.load()); }

 private:
  std::atomic<uint32_t> top_ = 0;
};

#if defined(__FMA__)
// x / scale for floats of moderate size, without dividing: the residual of x * (1 / scale) brings it to the
// correctly rounded quotient (Markstein, "Computation of elementary functions on the IBM RISC System/6000 processor",
// 1990), but that -0 becomes 0.
float quotient(float x, float scale, float inverse) {
  const float q = x * inverse;
  return std::fma(std::fma(-q, scale, x), inverse, q);
}

// round_piece for a rounder that has_nearest(), 2^-40 <= scale <= 2^60 and no |x| above `top`.
template <class Out, class F>
void round_nearest(Out* __restrict y, const float* __restrict x, float scale, fp8::Rounder<float> rounder,
                   float top, int64_t n, F finish) {
  const float inverse = 1 / scale;
  const fp8::NearestRounder<float> nearest(rounder);
  if (top <= rounder.max() * scale) {
    // Then x / scale <= max, but for a last bit, which rounding drops. The sign is that of x * inverse, which is at hand.
    for (int64_t i = 0; i < n; ++i)
      y[i] = finish(nearest.operator()<false>(quotient(x[i], scale, inverse), x[i] * inverse));
  } else if (top <= 0x1p80f) {
    for (int64_t i = 0; i < n; ++i) y[i] = finish(nearest(quotient(x[i], scale, inverse), x[i]));
  } else {
    round_piece(y, x, scale, rounder, nullptr, n, finish);
  }
}
#endif

// Elements [first, first + n) of a tensor, no |x| above `top`; random words, where there is randomness, are drawn a
// run at a time.
template <class Out, class T, class F>
void round_range(Out* y, const T* x, T scale, const fp8::Rounder<T>& rounder,
                 const std::optional<RandomStream>& random, [[maybe_unused]] float top, int64_t first,
                 int64_t n, F finish) {
  if (!random) {
#if defined(__FMA__)
    if constexpr (std::is_same_v<T, float>) {
      if (rounder.has_nearest() && scale >= 0x1p-40f && scale <= 0x1p60f)
        return round_nearest(y, x, scale, rounder, top, n, finish);
    }
#endif
    return round_piece<Out>(y, x, scale, rounder, nullptr, n, finish);
  }
  uint32_t words[run];
  for (int64_t i = 0; i < n;) {
    const int64_t skipped = (first + i) % 4, count = std::min(run - skipped, n - i);
    for (int64_t w = 0; w < skipped + count; w += 4) {
      const std::array<uint32_t, 4> four = random->block(uint64_t(first + i - skipped + w) / 4);
      std::copy(four.begin(), four.end(), words + w);
    }
    round_piece<Out>(y + i, x + i, scale, rounder, words + skipped, count, finish);
    i += count;
  }
}

// The largest |x| of a block: `largest` where it is known for the whole tensor, else what `all` is told of.
template <class T>
float top_of(const T* x, int64_t n, float largest, SharedLargest& all) {
  if constexpr (std::is_same_v<T, float>) {
    if (largest == unknown_amax) {
      const float top = largest_of(x, n);
      all.see(top);
      return top;
    }
  }
  return largest;
}

// Elements that are looked at and rounded together, so that they are read from memory once.
constexpr int64_t block = 2048;
// From so many floats on, stores leave the caches alone and do not read what they overwrite.
constexpr int64_t large = 1 << 22;

void store_around_caches(float* to, const float* from, int64_t n) {
  int64_t whole = 0;
#if defined(__AVX__)
  if (reinterpret_cast<uintptr_t>(to) % 32 == 0) whole = n / 8 * 8;
  for (int64_t i = 0; i < whole; i += 8) _mm256_stream_ps(to + i, _mm256_load_ps(from + i));
  _mm_sfence();  // such stores are unordered otherwise
#endif
  std::copy(from + whole, from + n, to + whole);
}

// The largest |x|, which is given where it is known and else found on the way.
template <class Out, class T, class F>
float round_all(Out* y, const T* x, T scale, const Rounding<T>& how, float largest, int64_t n, F finish) {
  SharedLargest all;
  const bool around_caches = std::is_same_v<Out, float> && n >= large;
  const int64_t step = around_caches || largest == unknown_amax ? block : n;
  parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    alignas(64) Out kept[block];
    for (int64_t first = begin; first < end; first += step) {
      const int64_t count = std::min(step, end - first);
      const float top = top_of(x + first, count, largest, all);
      round_range<Out>(around_caches ? kept : y + first, x + first, scale, how.rounder, how.random, top,
                       first, count, finish);
      if constexpr (std::is_same_v<Out, float>) {
        if (around_caches) store_around_caches(y + first, kept, count);
      }
    }
  });
  return largest == unknown_amax ? all.value() : largest;
}

}  // namespace

template <class Out, class T>
void quantize(const Cpu& cpu, Out* y, const T* x, const float* scale, const Rounding<T>& rounding, int64_t n,
              float* amax, const float* rounded_with) {
  if (rounded_with && *rounded_with == *scale) return;
  const bool rounds = !std::isnan(*scale);
  const float known = amax ? *amax : unknown_amax;
  if (amax && known == unknown_amax && (!rounds || std::is_same_v<T, double>)) kernels::amax(cpu, amax, x, n);
  if (!rounds) return;
  const T s = T(*scale);
  const auto round = [&](auto finish) {
    const float seen = round_all(y, x, s, rounding, known, n, finish);
    if (amax && std::is_same_v<T, float>) *amax = seen;
  };
  if constexpr (std::is_same_v<Out, bfloat16>) {
    round([](float rounded) {
      return std::bit_cast<bfloat16>(uint16_t(std::bit_cast<uint32_t>(rounded) >> 16));
    });
  } else {
    round([=](T rounded) { return rounded * s; });
  }
}

void dequantize(const Cpu&, float* y, const bfloat16* x, const float* scale, int64_t n) {
  parallel_for(n, grain, [=, s = *scale](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = float(x[i]) * s;
  });
}

template <class T>
void encode(const Cpu&, uint8_t* codes, const T* x, const float* scale, const Rounding<T>& rounding,
            int64_t n) {
  round_all(codes, x, T(*scale), rounding, unknown_amax, n,
            [&rounder = rounding.rounder](T rounded) { return uint8_t(rounder.code(rounded)); });
}

void decode(const Cpu&, float* y, const uint8_t* codes, const std::array<float, 256>& table, int64_t n) {
  parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = table[codes[i]];
  });
}

template <class T>
void zero_saturated(const Cpu&, T* dx, const T* dy, const T* x, const float* scale, T max, int64_t n) {
  parallel_for(n, grain, [=, s = T(*scale)](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) dx[i] = std::abs(quotient(x[i], s)) > max ? T(0) : dy[i];
  });
}

void update_scale(const Cpu&, float* scale, const fp8::detail::History& history, const float* amax,
                  const fp8::detail::ScaleRule& rule) {
  *scale = fp8::detail::update_scale(history, *amax, rule);
}
void predict_scale(const Cpu&, float* scale, const fp8::detail::History& history,
                   const fp8::detail::ScaleRule& rule) {
  *scale = fp8::detail::predicted_scale(history, rule);
}
void record_amax(const Cpu&, const fp8::detail::History& history, const float* amax) {
  history.record(*amax);
}

template void quantize(const Cpu&, bfloat16*, const float*, const float*, const Rounding<float>&, int64_t,
                       float*, const float*);
#define AG_INSTANTIATE(T)                                                                             \
  template void quantize(const Cpu&, T*, const T*, const float*, const Rounding<T>&, int64_t, float*, \
                         const float*);                                                               \
  template void encode(const Cpu&, uint8_t*, const T*, const float*, const Rounding<T>&, int64_t);    \
  template void zero_saturated(const Cpu&, T*, const T*, const T*, const float*, T, int64_t);
AG_INSTANTIATE(float)
AG_INSTANTIATE(double)

}  // namespace altgrad::kernels
