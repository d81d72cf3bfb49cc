// Plain loops over the branch-free Rounder, which the compiler vectorises. Random words are drawn a few
// blocks at a time into a buffer, so that the rounding loop stays one that vectorises.
#include <altgrad/fp8/internal/kernels.h>

#include <altgrad/core/cpu/amax.h>
#include <altgrad/core/cpu/matmul.h>
#include <altgrad/core/cpu/parallel.h>
#include <altgrad/core/cpu/streaming_store.h>
#include <altgrad/core/internal/coded.h>
#include <altgrad/core/internal/divide.h>
#include <altgrad/core/internal/instantiate.h>
#include <altgrad/core/internal/kernels/reduce.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace altgrad::kernels {
inline namespace on_cpu {
namespace {

constexpr int64_t grain = 1 << 14;
constexpr int64_t run = 256;  // elements whose random words are drawn together

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

// round_piece where has_nearest() and no |x| is above nearest_reach.
template <class Out, class F>
void round_nearest(Out* __restrict y, const float* __restrict x, float scale,
                   const fp8::NearestRounder<float> nearest, int64_t n, F finish) {
  const float inverse = 1 / scale;
  for (int64_t i = 0; i < n; ++i) y[i] = finish(nearest(divided(x[i], scale, inverse), x[i]));
}

// The same where no |x| is above max * scale, so that x / scale <= max, but for a last bit, which rounding drops. Whether
// that is so is seen on the way: returns the largest |x|, and what was rounded holds if it is not above.
template <class Out, class F>
float round_unsaturated(Out* __restrict y, const float* __restrict x, float scale,
                        const fp8::NearestRounder<float> nearest, int64_t n, F finish) {
  const float inverse = 1 / scale;
  int32_t amax = 0;
  for (int64_t i = 0; i < n; ++i) {  // the sign is that of x * inverse, which is at hand
    amax = std::max(amax, magnitude_bits(x[i]));
    y[i] = finish(nearest.operator()<false>(divided(x[i], scale, inverse), x[i] * inverse));
  }
  return std::bit_cast<float>(amax);
}

// Elements [first, first + n) of a tensor; random words, where there is randomness, are drawn a run at a time. Returns
// the largest |x| where it is asked for.
template <class Out, class T, class F>
float round_range(Out* y, const T* x, T scale, const ElementRounder<T>& how, bool wants_amax, int64_t first,
                  int64_t n, F finish) {
  if constexpr (std::is_same_v<T, float>) {
    if (!how.random && cpu::has_fma() && has_nearest(how.rounder, scale)) {
      const fp8::NearestRounder<float> nearest(how.rounder);
      const float amax = round_unsaturated(y, x, scale, nearest, n, finish);
      if (amax <= how.rounder.max() * scale) return amax;
      if (amax <= nearest_reach) {
        round_nearest(y, x, scale, nearest, n, finish);
      } else {
        round_piece(y, x, scale, how.rounder, nullptr, n, finish);
      }
      return amax;
    }
  }
  if (!how.random) {
    round_piece<Out>(y, x, scale, how.rounder, nullptr, n, finish);
  } else {
    uint32_t words[run];
    for (int64_t i = 0; i < n;) {
      const int64_t skipped = (first + i) % 4, count = std::min(run - skipped, n - i);
      for (int64_t w = 0; w < skipped + count; w += 4) {
        const std::array<uint32_t, 4> four = how.random->block(uint64_t(first + i - skipped + w) / 4);
        std::copy(four.begin(), four.end(), words + w);
      }
      round_piece<Out>(y + i, x + i, scale, how.rounder, words + skipped, count, finish);
      i += count;
    }
  }
  if constexpr (std::is_same_v<T, float>) return wants_amax ? amax_of(x, n) : 0;
  return 0;
}

// Elements that are rounded together: so few that they stay in L1, where they have to be rounded again.
constexpr int64_t block = 2048;
// From so many floats on, stores leave the caches alone and do not read what they overwrite.
constexpr int64_t large = 1 << 22;

// Returns the largest |x| where it is asked for; doubles are not looked at.
template <class Out, class T, class F>
float round_all(Out* y, const T* x, T scale, const ElementRounder<T>& how, bool wants_amax, int64_t n,
                F finish) {
  SharedAmax<float> amax;
  const bool around_caches = std::is_same_v<Out, float> && n >= large;
  parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    alignas(64) Out kept[block];
    for (int64_t first = begin; first < end; first += block) {
      const int64_t count = std::min(block, end - first);
      amax.see(round_range<Out>(around_caches ? kept : y + first, x + first, scale, how, wants_amax, first,
                                count, finish));
      if constexpr (std::is_same_v<Out, float>) {
        if (around_caches) store_around_caches(y + first, kept, count);
      }
    }
  });
  return amax.value();
}

}  // namespace

template <class Out, class T>
void quantize(const Cpu& cpu, Out* y, const T* x, const float* scale, const ElementRounder<T>& rounding,
              int64_t n, float* amax) {
  const bool wants_amax = amax != nullptr;
  if (wants_amax && std::is_same_v<T, double>) kernels::amax(cpu, amax, x, n);
  const T s = T(*scale);
  const auto round = [&](auto finish) {
    const float seen = round_all(y, x, s, rounding, wants_amax, n, finish);
    if (wants_amax && std::is_same_v<T, float>) *amax = seen;
  };
  if constexpr (std::is_same_v<Out, bfloat16>) {
    round([](float rounded) {
      return std::bit_cast<bfloat16>(uint16_t(std::bit_cast<uint32_t>(rounded) >> 16));
    });
  } else {
    round([=](T rounded) { return rounded * s; });
  }
}

template <class Out, class T>
void quantize(const Cpu& cpu, Out* y, const T* x, float* scale, const fp8::detail::History& history,
              const fp8::detail::ScaleRule& rule, const ElementRounder<T>& rounding, int64_t n) {
  const fp8::detail::Held held = fp8::detail::held_by(history);
  const float expected = fp8::detail::predicted_scale(history, held, rule);
  float amax;
  if (std::isnan(expected)) {
    kernels::amax(cpu, &amax, x, n);
  } else {
    quantize(cpu, y, x, &expected, rounding, n, &amax);
  }
  *scale = fp8::detail::update_scale(history, held, amax, rule);
  if (*scale != expected) quantize(cpu, y, x, scale, rounding, n);
}

void dequantize(const Cpu&, float* y, const bfloat16* x, const float* scale, int64_t n) {
  parallel_for(n, grain, [=, s = *scale](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = float(x[i]) * s;
  });
}

template <class T>
void encode(const Cpu&, uint8_t* codes, const T* x, const float* scale, const ElementRounder<T>& rounding,
            int64_t n) {
  round_all(codes, x, T(*scale), rounding, false, n,
            [&rounder = rounding.rounder](T rounded) { return uint8_t(rounder.code(rounded)); });
}

void decode(const Cpu&, float* y, const uint8_t* codes, const std::array<float, 256>& table, int64_t n,
            const float* scale) {
  parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = scale ? table[codes[i]] * *scale : table[codes[i]];
  });
}

template <class T>
void clipped_ste_grad(const Cpu&, T* dx, const T* dy, const T* x, const float* scale, T max, int64_t n) {
  parallel_for(n, grain, [=, s = T(*scale)](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) dx[i] = std::abs(quotient(x[i], s)) > max ? T(0) : dy[i];
  });
}

void record_amax(const Cpu&, const fp8::detail::History& history, const float* amax) {
  history.record(*amax);
}

void pack_codes(const Cpu&, uint8_t* panels, const uint8_t* codes, uint32_t sign_code, int64_t n, int64_t k) {
  parallel_tasks(divide_up(n, coded_panel), [=](int64_t panel) {
    const int64_t first = panel * coded_panel, end = std::min(n, first + coded_panel);
    std::fill_n(panels + first * k, k * coded_panel, uint8_t(0));
    for (int64_t j = first; j < end; ++j) {
      for (int64_t i = 0; i < k; ++i) panels[coded_place(j, i, k)] = byte_code(codes[j * k + i], sign_code);
    }
  });
}

void decode(const Cpu&, float* y, const CodedWeight& w) {
  const float factor = *w.scale * w.unit;
  parallel_tasks(divide_up(w.n, coded_panel), [=](int64_t panel) {
    const int64_t first = panel * coded_panel, end = std::min(w.n, first + coded_panel);
    for (int64_t j = first; j < end; ++j) {
      for (int64_t i = 0; i < w.k; ++i)
        y[j * w.k + i] = coded_value(w.panels[coded_place(j, i, w.k)], w.shift, factor);
    }
  });
}

void coded_linear(const Cpu&, float* y, const float* x, const CodedWeight& w, const float* bias,
                  int64_t rows) {
  static_assert(coded_rows == cpu::packed_few_rows);
  const int64_t panels = divide_up(w.n, coded_panel);
  const cpu::CodedMatrix matrix{w.panels, w.shift, *w.scale * w.unit};
  parallel_for(panels, divide_up(grain, coded_panel * w.k), [&](int64_t begin, int64_t end) {
    cpu::coded_matmul(y, x, matrix, rows, w.n, w.k, bias, begin, end);
  });
}

#define AG_INSTANTIATE_QUANTIZE(Out, T)                                                               \
  template void quantize(const Cpu&, Out*, const T*, const float*, const ElementRounder<T>&, int64_t, \
                         float*);                                                                     \
  template void quantize(const Cpu&, Out*, const T*, float*, const fp8::detail::History&,             \
                         const fp8::detail::ScaleRule&, const ElementRounder<T>&, int64_t);
AG_INSTANTIATE_QUANTIZE(bfloat16, float)
AG_INSTANTIATE_QUANTIZE(float, float)
AG_INSTANTIATE_QUANTIZE(double, double)
AG_INSTANTIATE_FLOATING(encode)
AG_INSTANTIATE_FLOATING(clipped_ste_grad)

}  // namespace on_cpu
}  // namespace altgrad::kernels
