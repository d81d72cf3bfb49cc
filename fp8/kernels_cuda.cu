// Rounding on a GPU: the Rounder of the CPU, element by element, so that both give the same bits.
#include <altgrad/fp8/internal/kernels.h>

#include <altgrad/core/cuda/amax.h>
#include <altgrad/core/cuda/fp8_code.h>
#include <altgrad/core/cuda/packs.h>
#include <altgrad/core/cuda/runtime.h>
#include <altgrad/core/internal/coded.h>
#include <altgrad/core/internal/instantiate.h>

#include <algorithm>

namespace altgrad::kernels {
inline namespace on_cuda {
namespace {

// Element i of x on the grid of the format.
template <class T>
AG_DEVICE T rounded(T x, T scale, const ElementRounder<T>& how, int64_t i) {
  const T q = quotient(x, scale);
  return how.random ? how.rounder(q, how.random->on_device().word(uint64_t(i))) : how.rounder(q);
}
// The same, in fewer operations where `nearest` is there and x is finite.
template <class T>
AG_DEVICE T rounded(T x, T scale, const ElementRounder<T>& how, const fp8::NearestRounder<T>& nearest,
                    int64_t i) {
  const bool finite = std::abs(x) <= std::numeric_limits<T>::max();
  return !how.random && how.rounder.has_nearest() && finite ? nearest(quotient(x, scale), x)
                                                            : rounded(x, scale, how, i);
}

template <class Out, class T>
AG_DEVICE Out dequantized(T rounded, T scale) {
  if constexpr (std::is_same_v<Out, bfloat16>) {
    return std::bit_cast<bfloat16>(uint16_t(std::bit_cast<uint32_t>(rounded) >> 16));
  } else {
    return rounded * scale;
  }
}

// y = x rounded, a piece of it by a block. *amax, where it is given, takes the bits of the largest |x|. Where the scale is
// NaN, x is only looked at.
template <class Out, class T>
struct RoundPiece {
  using C = Compute<T>;
  Out* y;
  const T* x;
  ElementRounder<C> rounding;
  fp8::NearestRounder<C> nearest;
  int64_t n;
  bool aligned;

  static constexpr int size = cuda::pack_size<Out, T>;
  RoundPiece(Out* to, const T* from, const ElementRounder<C>& how, int64_t count)
      : y(to),
        x(from),
        rounding(how),
        nearest(how.rounder),
        n(count),
        aligned(cuda::aligned<size>(to, from)) {}
  int64_t parts() const { return cuda::pieces_for(n); }
  int64_t threads() const { return (n + size - 1) / size; }

  AG_DEVICE void operator()(int64_t piece, float scale, unsigned* amax) const {
    const bool rounds = scale == scale;
    const int64_t first = piece * cuda::piece, end = first + cuda::piece < n ? first + cuda::piece : n;
    const C s = C(scale);
    for (int64_t i = first + threadIdx.x * size; i < end; i += blockDim.x * size) {
      const bool whole = aligned && i + size <= n;
      const auto in = cuda::load<size>(x + i, whole, n - i);
      cuda::Pack<Out, size> out;
      AG_UNROLL for (int k = 0; k < size; ++k) {
        const C v = C(in.at[k]);
        if (rounds) out.at[k] = dequantized<Out>(rounded(v, s, rounding, nearest, i + k), s);
        if (amax) *amax = cuda::Larger()(*amax, cuda::magnitude_bits(v));
      }
      if (rounds) cuda::store(out, y + i, whole, n - i);
    }
  }
};

// The same in codes, a tile of 64 by 64 by a block: a thread has sixteen numbers of one of its rows, and then of one of its
// columns.
template <class T>
struct RoundTile {
  static constexpr int side = 64, run = 16, pitch = side + 4;
  static_assert(side * side / run == cuda::most_threads);
  Codes to;
  const T* x;
  ElementRounder<float> rounding;
  fp8::NearestRounder<float> nearest;
  bool aligned, aligned_t;

  RoundTile(const Codes& codes, const T* from, const ElementRounder<float>& how)
      : to(codes),
        x(from),
        rounding(how),
        nearest(how.rounder),
        aligned(codes.columns % run == 0 && cuda::aligned<run>(from, static_cast<const uint8_t*>(codes.y))),
        aligned_t(codes.rows % run == 0 && cuda::aligned<run>(codes.y_t)) {}
  AG_HD int64_t across() const { return (to.columns + side - 1) / side; }
  int64_t parts() const { return (to.rows + side - 1) / side * across(); }
  int64_t threads() const { return cuda::most_threads; }

  AG_DEVICE void operator()(int64_t tile, float scale, unsigned* amax) const {
    AG_SHARED(uint32_t, words, side * pitch / 4);
    const bool rounds = scale == scale;
    const int64_t top = tile / across() * side, left = tile % across() * side;
    const int line = int(threadIdx.x) / (side / run), first = int(threadIdx.x) % (side / run) * run;

    const int64_t at = (top + line) * to.columns + left + first;
    const int64_t count = top + line < to.rows ? to.columns - left - first : 0;  // of a row's end, or below 0
    const bool whole = aligned && count >= run;
    const auto in = cuda::load<run>(x + at, whole, count);
    cuda::Pack<uint8_t, run> out;
    AG_UNROLL for (int k = 0; k < run; ++k) {
      const float v = float(in.at[k]);
      if (rounds) out.at[k] = cuda::fp8_code(rounded(v, scale, rounding, nearest, at + k), to.format);
      if (amax) *amax = cuda::Larger()(*amax, cuda::magnitude_bits(v));
    }
    if (!rounds) return;
    cuda::store(out, to.y + at, whole, count);

    auto* const codes = reinterpret_cast<uint8_t*>(words);
    AG_UNROLL for (int k = 0; k < run; ++k) codes[(first + k) * pitch + line] = out.at[k];
    __syncthreads();
    const auto down = std::bit_cast<cuda::Pack<uint8_t, run>>(
        cuda::load<run / 4>(words + (line * pitch + first) / 4, false));
    const int64_t count_t = left + line < to.columns ? to.rows - top - first : 0;
    cuda::store(down, to.y_t + (left + line) * to.rows + top + first, aligned_t && count_t >= run, count_t);
    __syncthreads();  // before another tile is written
  }
};

// round(part, *scale) for all parts; for none where x has been rounded with that scale already.
template <class Round>
void round_all(const Cuda& device, const Round& round, const float* scale,
               const float* rounded_with = nullptr) {
  cuda::rows(device, "quantize", round.parts(), round.threads(), [=] AG_LAMBDA(int64_t part) {
    if (rounded_with && *rounded_with == *scale) return;
    round(part, *scale, nullptr);
  });
}

AG_DEVICE fp8::detail::Held held_by_block(const fp8::detail::History& history) {
  fp8::detail::Held held;
  const int64_t next = history.place(history.recorded());
  cuda::each_of_row(history.size(), [&](int64_t i) { held.see(history.values[i], i == next); });
  return {cuda::block_reduce(held.amax, 0.f, cuda::Larger()),
          cuda::block_reduce(held.beside, 0.f, cuda::Larger())};
}

constexpr int64_t blocks_that_share = 1 << 10;  // an amax: each has the history to read first

// In one launch x is rounded with the predicted scale, its amax found, and, by the block that comes last, the scale made
// of it; another one rounds again where that is not the predicted one.
template <class Round>
void round_by_rule(const Cuda& device, const Round& round, float* scale, const fp8::detail::History& history,
                   const fp8::detail::ScaleRule& rule) {
  const cuda::Scratch<float> predicted(device, 1);
  const int64_t parts = round.parts(), blocks = std::clamp<int64_t>(parts, 1, blocks_that_share);
  cuda::rows(device, "quantize", blocks, round.threads(),
             [=, predicted = predicted.data(), tally = cuda::tally(device.index)] AG_LAMBDA(int64_t block) {
               const fp8::detail::Held held = held_by_block(history);
               const float s = fp8::detail::predicted_scale(history, held, rule);
               unsigned own = 0;
               for (int64_t part = block; part < parts; part += blocks) round(part, s, &own);
               unsigned amax;
               if (!cuda::take_largest(*tally, own, blocks, amax)) return;
               *predicted = s;
               *scale = fp8::detail::update_scale(history, held, std::bit_cast<float>(amax), rule);
             });
  round_all(device, round, scale, predicted.data());
}

}  // namespace

template <class Out, class T>
void quantize(const Cuda& device, Out* y, const T* x, const float* scale,
              const ElementRounder<Compute<T>>& rounding, int64_t n) {
  round_all(device, RoundPiece<Out, T>(y, x, rounding, n), scale);
}
template <class Out, class T>
void quantize(const Cuda& device, Out* y, const T* x, float* scale, const fp8::detail::History& history,
              const fp8::detail::ScaleRule& rule, const ElementRounder<Compute<T>>& rounding, int64_t n) {
  round_by_rule(device, RoundPiece<Out, T>(y, x, rounding, n), scale, history, rule);
}
template <class T>
void quantize(const Cuda& device, const Codes& y, const T* x, const float* scale,
              const ElementRounder<float>& rounding, int64_t) {
  round_all(device, RoundTile<T>(y, x, rounding), scale);
}
template <class T>
void quantize(const Cuda& device, const Codes& y, const T* x, float* scale,
              const fp8::detail::History& history, const fp8::detail::ScaleRule& rule,
              const ElementRounder<float>& rounding, int64_t) {
  round_by_rule(device, RoundTile<T>(y, x, rounding), scale, history, rule);
}

void dequantize(const Cuda& device, float* y, const bfloat16* x, const float* scale, int64_t n) {
  cuda::each(device, "dequantize", n, [=] AG_LAMBDA(int64_t i) { y[i] = float(x[i]) * *scale; });
}

template <class T>
void encode(const Cuda& device, uint8_t* codes, const T* x, const float* scale,
            const ElementRounder<T>& rounding, int64_t n) {
  cuda::each(device, "encode", n, [=] AG_LAMBDA(int64_t i) {
    codes[i] = uint8_t(rounding.rounder.code(rounded(x[i], T(*scale), rounding, i)));
  });
}

void decode(const Cuda& device, float* y, const uint8_t* codes, const std::array<float, 256>& table,
            int64_t n, const float* scale) {
  cuda::each(device, "decode", n,
             [=] AG_LAMBDA(int64_t i) { y[i] = scale ? table[codes[i]] * *scale : table[codes[i]]; });
}

template <class T>
void clipped_ste_grad(const Cuda& device, T* dx, const T* dy, const T* x, const float* scale, Compute<T> max,
                      int64_t n) {
  using C = Compute<T>;
  cuda::each(device, "clipped_ste_grad", n, [=] AG_LAMBDA(int64_t i) {
    dx[i] = std::abs(quotient(C(x[i]), C(*scale))) > max ? T(0) : dy[i];
  });
}

void record_amax(const Cuda& device, const fp8::detail::History& history, const float* amax) {
  cuda::each(device, "record_amax", 1, [=] AG_LAMBDA(int64_t) { history.record(*amax); });
}

void pack_codes(const Cuda& device, uint8_t* panels, const uint8_t* codes, uint32_t sign_code, int64_t n,
                int64_t k) {
  const int64_t bytes = (n + coded_panel - 1) / coded_panel * coded_panel * k;
  cuda::each(device, "pack_codes", bytes, [=] AG_LAMBDA(int64_t at) {
    const int64_t i = at / coded_panel % k, j = at / coded_panel / k * coded_panel + at % coded_panel;
    panels[at] = j < n ? byte_code(codes[j * k + i], sign_code) : uint8_t(0);
  });
}

void decode(const Cuda& device, float* y, const CodedWeight& w) {
  cuda::each(device, "decode", w.n * w.k, [=] AG_LAMBDA(int64_t at) {
    y[at] = coded_value(w.panels[coded_place(at / w.k, at % w.k, w.k)], w.shift, *w.scale * w.unit);
  });
}

// A block has a panel, a warp of it a part of the sums: a lane has one of the panel's rows, and reads its byte beside the
// other lanes'.
void coded_linear(const Cuda& device, float* y, const float* x, const CodedWeight& w, const float* bias,
                  int64_t rows) {
  static_assert(coded_panel == 32);
  constexpr int warps = cuda::most_threads / 32;
  cuda::rows(device, "coded_linear", (w.n + coded_panel - 1) / coded_panel, cuda::most_threads,
             [=] AG_LAMBDA(int64_t panel) {
               AG_SHARED(float, parts, coded_rows* cuda::most_threads);
               const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
               const uint8_t* const codes = w.panels + panel * coded_panel * w.k + lane;
               const float factor = *w.scale * w.unit;
               float sum[coded_rows] = {};
               for (int64_t i = warp; i < w.k; i += warps) {
                 const float value = coded_value(codes[i * coded_panel], w.shift, factor);
                 AG_UNROLL for (int r = 0; r < coded_rows; ++r) {
                   if (r < rows) sum[r] += x[r * w.k + i] * value;
                 }
               }
               AG_UNROLL for (int r = 0; r < coded_rows; ++r)
                   parts[r * cuda::most_threads + int(threadIdx.x)] = sum[r];
               __syncthreads();
               const int64_t j = panel * coded_panel + lane;
               if (warp < rows && j < w.n) {  // warp r adds up row r
                 float total = 0;
                 for (int part = 0; part < warps; ++part)
                   total += parts[warp * cuda::most_threads + part * 32 + lane];
                 y[warp * w.n + j] = total + (bias ? bias[j] : 0);
               }
               __syncthreads();  // before another panel's are written
             });
}

#define AG_INSTANTIATE_QUANTIZE(Out, T)                                                               \
  template void quantize(const Cuda&, Out, const T*, const float*, const ElementRounder<Compute<T>>&, \
                         int64_t);                                                                    \
  template void quantize(const Cuda&, Out, const T*, float*, const fp8::detail::History&,             \
                         const fp8::detail::ScaleRule&, const ElementRounder<Compute<T>>&, int64_t);
AG_INSTANTIATE_QUANTIZE(bfloat16*, bfloat16)
AG_INSTANTIATE_QUANTIZE(float*, bfloat16)
AG_INSTANTIATE_QUANTIZE(bfloat16*, float)
AG_INSTANTIATE_QUANTIZE(float*, float)
AG_INSTANTIATE_QUANTIZE(double*, double)
AG_INSTANTIATE_QUANTIZE(const Codes&, bfloat16)
AG_INSTANTIATE_QUANTIZE(const Codes&, float)
AG_INSTANTIATE_FLOATING(encode)
AG_INSTANTIATE_STORED(clipped_ste_grad)

}  // namespace on_cuda
}  // namespace altgrad::kernels
