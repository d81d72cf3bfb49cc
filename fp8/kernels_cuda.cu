// Rounding on a GPU: the Rounder of the CPU, element by element, so that both give the same bits.
#include <altgrad/fp8/internal/kernels.h>

#include <altgrad/core/cuda/amax.h>
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
            int64_t n) {
  cuda::each(device, "decode", n, [=] AG_LAMBDA(int64_t i) { y[i] = table[codes[i]]; });
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
AG_INSTANTIATE_FLOATING(encode)
AG_INSTANTIATE_STORED(clipped_ste_grad)

}  // namespace on_cuda
}  // namespace altgrad::kernels
