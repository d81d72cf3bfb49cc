// Rounding on a GPU: the Rounder of the CPU, element by element, so that both give the same bits.
#include <altgrad/fp8/internal/kernels.h>

#include <altgrad/core/cuda/amax.h>
#include <altgrad/core/cuda/fp8_code.h>
#include <altgrad/core/cuda/packs.h>
#include <altgrad/core/internal/instantiate.h>

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

}  // namespace

template <class Out, class T>
void quantize(const Cuda& device, Out* y, const T* x, const float* scale,
              const ElementRounder<Compute<T>>& rounding, int64_t n, float* amax, const float* rounded_with) {
  using C = Compute<T>;
  constexpr int size = cuda::pack_size<Out, T>;
  const fp8::NearestRounder<C> nearest(rounding.rounder);
  const bool aligned = cuda::aligned<size>(y, x);
  cuda::rows(device, "quantize", cuda::pieces_for(n), (n + size - 1) / size, [=] AG_LAMBDA(int64_t r) {
    if (rounded_with && *rounded_with == *scale) return;
    const bool rounds = *scale == *scale;
    const int64_t first = r * cuda::piece, end = first + cuda::piece < n ? first + cuda::piece : n;
    const C s = C(*scale);
    unsigned own = 0;
    for (int64_t i = first + threadIdx.x * size; i < end; i += blockDim.x * size) {
      const bool whole = aligned && i + size <= n;
      const auto in = cuda::load<size>(x + i, whole, n - i);
      cuda::Pack<Out, size> out;
      AG_UNROLL for (int k = 0; k < size; ++k) {
        const C v = C(in.at[k]);
        if (rounds) out.at[k] = dequantized<Out>(rounded(v, s, rounding, nearest, i + k), s);
        if (amax) own = cuda::Larger()(own, cuda::magnitude_bits(v));
      }
      if (rounds) cuda::store(out, y + i, whole, n - i);
    }
    if (amax) cuda::take_largest(reinterpret_cast<unsigned*>(amax), own);  // the bits are the float
  });
}

// A block has a tile of 64 by 64, a thread sixteen numbers of one of its rows, and then of one of its columns.
template <class T>
void quantize(const Cuda& device, uint8_t* y, uint8_t* y_t, const T* x, const float* scale,
              const ElementRounder<float>& rounding, Fp8 format, int64_t rows, int64_t columns, float* amax,
              const float* rounded_with) {
  constexpr int side = 64, run = 16, pitch = side + 4;
  static_assert(side * side / run == cuda::most_threads);
  const fp8::NearestRounder<float> nearest(rounding.rounder);
  const bool aligned = columns % run == 0 && cuda::aligned<run>(x, y),
             aligned_t = rows % run == 0 && cuda::aligned<run>(y_t);
  const int64_t across = (columns + side - 1) / side;
  cuda::rows(
      device, "quantize", (rows + side - 1) / side * across, cuda::most_threads, [=] AG_LAMBDA(int64_t tile) {
        AG_SHARED(uint32_t, words, side * pitch / 4);
        if (rounded_with && *rounded_with == *scale) return;
        const float s = *scale;
        const bool rounds = s == s;
        const int64_t top = tile / across * side, left = tile % across * side;
        const int line = int(threadIdx.x) / (side / run), first = int(threadIdx.x) % (side / run) * run;

        const int64_t at = (top + line) * columns + left + first;
        const int64_t count = top + line < rows ? columns - left - first : 0;  // of a row's end, or below 0
        const bool whole = aligned && count >= run;
        const auto in = cuda::load<run>(x + at, whole, count);
        cuda::Pack<uint8_t, run> out;
        unsigned own = 0;
        AG_UNROLL for (int k = 0; k < run; ++k) {
          const float v = float(in.at[k]);
          if (rounds) out.at[k] = cuda::fp8_code(rounded(v, s, rounding, nearest, at + k), format);
          if (amax) own = cuda::Larger()(own, cuda::magnitude_bits(v));
        }
        if (amax) cuda::take_largest(reinterpret_cast<unsigned*>(amax), own);  // the bits are the float
        if (!rounds) return;
        cuda::store(out, y + at, whole, count);

        auto* const codes = reinterpret_cast<uint8_t*>(words);
        AG_UNROLL for (int k = 0; k < run; ++k) codes[(first + k) * pitch + line] = out.at[k];
        __syncthreads();
        const auto down = std::bit_cast<cuda::Pack<uint8_t, run>>(
            cuda::load<run / 4>(words + (line * pitch + first) / 4, false));
        const int64_t count_t = left + line < columns ? rows - top - first : 0;
        cuda::store(down, y_t + (left + line) * rows + top + first, aligned_t && count_t >= run, count_t);
        __syncthreads();  // before another tile is written
      });
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

void update_scale(const Cuda& device, float* scale, const fp8::detail::History& history, const float* amax,
                  const fp8::detail::ScaleRule& rule) {
  cuda::each(device, "update_scale", 1,
             [=] AG_LAMBDA(int64_t) { *scale = fp8::detail::update_scale(history, *amax, rule); });
}
void predict_scale(const Cuda& device, float* scale, float* amax, const fp8::detail::History& history,
                   const fp8::detail::ScaleRule& rule) {
  cuda::each(device, "predict_scale", 1, [=] AG_LAMBDA(int64_t) {
    *scale = fp8::detail::predicted_scale(history, rule);
    *amax = 0;
  });
}
void record_amax(const Cuda& device, const fp8::detail::History& history, const float* amax) {
  cuda::each(device, "record_amax", 1, [=] AG_LAMBDA(int64_t) { history.record(*amax); });
}

AG_INSTANTIATE_FOR(quantize<bfloat16, bfloat16>)
AG_INSTANTIATE_FOR(quantize<float, bfloat16>)
AG_INSTANTIATE_FOR(quantize<bfloat16, float>)
AG_INSTANTIATE_FOR(quantize<float, float>)
AG_INSTANTIATE_FOR(quantize<double, double>)
#define AG_INSTANTIATE_CODES(T)                                                   \
  template void quantize(const Cuda&, uint8_t*, uint8_t*, const T*, const float*, \
                         const ElementRounder<float>&, Fp8, int64_t, int64_t, float*, const float*);
AG_INSTANTIATE_CODES(bfloat16)
AG_INSTANTIATE_CODES(float)
AG_INSTANTIATE_FLOATING(encode)
AG_INSTANTIATE_STORED(clipped_ste_grad)

}  // namespace on_cuda
}  // namespace altgrad::kernels
