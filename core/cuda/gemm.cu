// Matrix products by cuBLASLt, which is column-major: a row-major (m, n) matrix is its (n, m) one. So C^T (n, m) =
// op(B)^T op(A)^T: its first operand is B, its second A, and each is transposed where ours is; a bias is one number for
// each of its rows, as cuBLASLt has it. A long sum may be cut, its parts kept in f32, or f64, and added in a fixed
// order: what a product gives follows from its sizes and alignments, never from what ran before.
#include <altgrad/core/internal/kernels/gemm.h>

#include <altgrad/core/cuda/approx.h>
#include <altgrad/core/cuda/cublaslt.h>
#include <altgrad/core/cuda/launch.h>
#include <altgrad/core/cuda/runtime.h>
#include <altgrad/core/internal/functors.h>
#include <altgrad/core/internal/instantiate.h>
#include <altgrad/core/internal/kernels/elementwise.h>
#include <altgrad/core/internal/kernels/reduce.h>
#include <altgrad/core/matmul_precision.h>

#include <optional>
#include <type_traits>

namespace altgrad::kernels {
inline namespace on_cuda {
namespace {

using cuda::lt::Epilogue, cuda::lt::Kind, cuda::lt::Plan, cuda::lt::plan, cuda::lt::Pointers;

template <class T>
constexpr cudaDataType_t type_of = std::is_same_v<T, double>  ? CUDA_R_64F
                                   : std::is_same_v<T, float> ? CUDA_R_32F
                                                              : CUDA_R_16BF;

// How products of such operands are computed.
template <class Operand>
cublasComputeType_t compute_of() {
  if (std::is_same_v<Operand, double>) return CUBLAS_COMPUTE_64F;
  const bool in_tf32 = std::is_same_v<Operand, float> && matmul_precision() == MatmulPrecision::tf32;
  return in_tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

uint32_t alignment(const void* p) {  // 0 of null
  if (!p) return 0;
  const auto address = reinterpret_cast<uintptr_t>(p) | 256;
  return uint32_t(address & (~address + 1));
}

// y = x, rounded: eight numbers at a time where x is aligned to four, as y, memory of its own, is.
void to_bf16(const Cuda& device, bfloat16* y, const float* x, int64_t n) {
  const bool aligned = alignment(x) >= sizeof(float4);
  cuda::each(device, "to_bf16", (n + 7) / 8, [=] AG_LAMBDA(int64_t i) {
    const int64_t first = 8 * i, end = first + 8 < n ? first + 8 : n;
    if (aligned && end - first == 8) {
      const auto* const from = reinterpret_cast<const float4*>(x + first);
      const float4 u = from[0], v = from[1];
      *reinterpret_cast<uint4*>(y + first) = uint4{cuda::pair_of(u.x, u.y), cuda::pair_of(u.z, u.w),
                                                   cuda::pair_of(v.x, v.y), cuda::pair_of(v.z, v.w)};
    } else {
      for (int64_t j = first; j < end; ++j) y[j] = cuda::rounded<bfloat16>(x[j]);
    }
  });
}

// C = beta C + bias; C is not read where beta = 0, bias may be null.
template <class T, class B>
void scale_and_add(const Cuda& device, T* c, const B* bias, const Gemm& g) {
  using S = Compute<T>;
  const int64_t size = g.m * g.n;
  cuda::each(device, "scale_and_add", g.batch * size,
             [=, n = g.n, stride = g.stride_c, beta = S(g.beta)] AG_LAMBDA(int64_t i) {
               T& at = c[i / size * stride + i % size];
               at = T((beta == 0 ? S(0) : beta * S(at)) + (bias ? S(bias[i % n]) : S(0)));
             });
}

// C = alpha op(A) op(B) + beta C + bias, or what an epilogue makes of it: false, and nothing is done, where cuBLASLt has none
// such.
template <class T, class Operand>
bool multiply(const Cuda& device, T* c, const Operand* a, const Operand* b, const T* bias, const Gemm& g,
              Epilogue epilogue = Epilogue::none, const T* kept = nullptr) {
  using S = Compute<T>;
  if (g.m == 0 || g.n == 0 || g.batch == 0) return true;
  if (g.k == 0) return scale_and_add(device, c, bias, g), true;
  const bool device_scalars = g.scale_a || g.scale_b;
  const Pointers at{.a = a, .b = b, .bias = bias, .c = c, .kept = kept};
  Plan& p = plan(device,
                 {.device = device.index,
                  .type_a = type_of<Operand>,
                  .type_b = type_of<Operand>,
                  .result = type_of<T>,
                  .compute = compute_of<Operand>(),
                  .device_scalars = device_scalars,
                  .m = g.m,
                  .n = g.n,
                  .k = g.k,
                  .batch = g.batch,
                  .stride_a = g.stride_a,
                  .stride_b = g.stride_b,
                  .stride_c = g.stride_c,
                  .trans_a = g.trans_a,
                  .trans_b = g.trans_b,
                  .align_a = alignment(a),
                  .align_b = alignment(b),
                  .align_c = alignment(c),
                  .align_bias = alignment(bias),
                  .align_kept = alignment(kept),
                  .epilogue = epilogue},
                 at);
  if (epilogue != Epilogue::none && !p.has_algorithm()) return false;
  if (!device_scalars) {
    const S scalars[] = {S(g.alpha), S(g.beta)};
    return p.run(device.stream, scalars, scalars + 1, at), true;
  }
  if constexpr (std::is_same_v<S, float>) {  // one scale by itself is alpha
    if (!(g.scale_a && g.scale_b) && g.alpha == 1 && (g.beta == 0 || g.beta == 1))
      return p.run(device.stream, g.scale_a ? g.scale_a : g.scale_b, p.number(g.beta == 1), at), true;
  }
  const cuda::Scratch<S> scalars(device, 2);
  cuda::each(device, "alpha", 1,
             [=, to = scalars.data(), alpha = g.alpha, beta = g.beta, scale_a = g.scale_a,
              scale_b = g.scale_b] AG_LAMBDA(int64_t) {
               to[0] = S(alpha * ((scale_a ? double(*scale_a) : 1) * (scale_b ? double(*scale_b) : 1)));
               to[1] = S(beta);
             });
  p.run(device.stream, scalars.data(), scalars.data() + 1, at);
  return true;
}

// The same of matrices of T, rounded first where that is asked for.
template <class T>
void multiply_as_set(const Cuda& device, T* c, const T* a, const T* b, const T* bias, const Gemm& g) {
  if constexpr (std::is_same_v<T, float>) {
    if (matmul_precision() == MatmulPrecision::bf16) {
      const int64_t size_a = (g.batch - 1) * g.stride_a + g.m * g.k,
                    size_b = (g.batch - 1) * g.stride_b + g.k * g.n;
      const cuda::Scratch<bfloat16> low_a(device, size_a), low_b(device, size_b);
      to_bf16(device, low_a.data(), a, size_a);
      to_bf16(device, low_b.data(), b, size_b);
      multiply(device, c, low_a.data(), low_b.data(), bias, g);
      return;
    }
  }
  multiply(device, c, a, b, bias, g);
}

// cuBLASLt takes a bias of C's type. The launch that rounds it also makes one scale of two.
bool multiply_with_bias(const Cuda& device, bfloat16* c, const bfloat16* a, const bfloat16* b,
                        const float* bias, const Gemm& g, Epilogue epilogue = Epilogue::none,
                        const bfloat16* kept = nullptr) {
  if (!bias) return multiply<bfloat16>(device, c, a, b, nullptr, g, epilogue, kept);
  const cuda::Scratch<bfloat16> rounded(device, g.n);
  const cuda::Scratch<float> product(device, 1);
  Gemm scaled = g;
  if (g.scale_a && g.scale_b) scaled.scale_a = product.data(), scaled.scale_b = nullptr;
  cuda::each(device, "bias", g.n,
             [=, to = rounded.data(), product = product.data(), scale_a = g.scale_a,
              scale_b = g.scale_b] AG_LAMBDA(int64_t i) {
               to[i] = cuda::rounded<bfloat16>(bias[i]);
               if (i == 0 && scale_a && scale_b) *product = *scale_a * *scale_b;
             });
  return multiply<bfloat16>(device, c, a, b, rounded.data(), scaled, epilogue, kept);
}

constexpr int64_t unit = 16;  // bytes

// Is gelu, in this form, to be an epilogue of products with such numbers in their rows? cuBLASLt has the tanh form. All that is
// documented of epilogues' matrices is in units of 16 bytes. Only on sm_90 and sm_100 is it cuBLASLt's way to do it within the
// product: elsewhere a kernel of its own comes behind, which others have found slower than one that is written for gelu (llm.c,
// pull requests 338, 591, 653).
template <class F, class... P>
bool has_gelu_epilogue(const Cuda& device, int64_t n, int64_t k, const P*... operands) {
  constexpr int64_t numbers = unit / int64_t(sizeof(bfloat16));
  const int kind = cuda::compute_capability(device.index) / 10;
  return std::is_same_v<F, GeluTanh> && (kind == 9 || kind == 10) && k > 0 && n % numbers == 0 &&
         k % numbers == 0 && ((alignment(operands) >= unit) && ...);
}

// ---- FP8: A and B^T by rows, in codes, with all sizes multiples of 16 ----

int64_t padded(int64_t n) { return (n + unit - 1) / unit * unit; }

// y (padded rows, padded columns) = x (rows, columns), and zeros around it.
void pad(const Cuda& device, uint8_t* y, const uint8_t* x, int64_t rows, int64_t columns) {
  const int64_t wide = padded(columns);
  cuda::each(device, "pad", padded(rows) * wide, [=] AG_LAMBDA(int64_t i) {
    const int64_t r = i / wide, q = i % wide;
    y[i] = r < rows && q < columns ? x[r * columns + q] : uint8_t(0);
  });
}

// Codes (rows, columns) as they are, or padded in memory of their own, where cuBLASLt does not take them.
class PaddedCodes {
 public:
  PaddedCodes(const Cuda& device, const uint8_t* x, int64_t rows, int64_t columns) : data_(x) {
    if (rows % unit == 0 && columns % unit == 0 && alignment(x) >= unit) return;
    uint8_t* const y = memory_.emplace(device, padded(rows) * padded(columns)).data();
    pad(device, y, x, rows, columns);
    data_ = y;
  }
  const uint8_t* data() const { return data_; }

 private:
  const uint8_t* data_;
  std::optional<cuda::Scratch<uint8_t>> memory_;
};

cudaDataType_t type_of_fp8(Fp8 format) { return format == Fp8::e4m3 ? CUDA_R_8F_E4M3 : CUDA_R_8F_E5M2; }

}  // namespace

template <class T>
void gemm(const Cuda& device, T* c, const T* a, const T* b, const Gemm& g) {
  multiply_as_set<T>(device, c, a, b, nullptr, g);
}

template <class T>
void linear(const Cuda& device, T* y, const T* x, const T* w, const T* bias, int64_t rows, int64_t n,
            int64_t k) {
  multiply_as_set(device, y, x, w, bias, {.m = rows, .n = n, .k = k, .trans_b = true});
}

template <class T>
void linear_grad(const Cuda& device, Compute<T>* dw, double beta, Compute<T>* db, const T* dy, const T* x,
                 int64_t rows, int64_t n, int64_t k) {
  if (dw) gemm(device, dw, dy, x, {.m = n, .n = k, .k = rows, .trans_a = true, .beta = beta});
  if (db) sum(device, db, dy, 1, rows, n, 1);
}

bool has_bf16(const Cuda&) { return true; }  // all GPUs that there are kernels for have

void gemm(const Cuda& device, float* c, const bfloat16* a, const bfloat16* b, const float* bias,
          const Gemm& g) {
  multiply(device, c, a, b, bias, g);
}
void gemm(const Cuda& device, bfloat16* c, const bfloat16* a, const bfloat16* b, const float* bias,
          const Gemm& g) {
  multiply_with_bias(device, c, a, b, bias, g);
}
template <class F>
void linear_gelu(const Cuda& device, F gelu, bfloat16* y, bfloat16* h, const bfloat16* x, const bfloat16* w,
                 const float* bias, int64_t rows, int64_t n, int64_t k) {
  const Gemm g{.m = rows, .n = n, .k = k, .trans_b = true};
  if (has_gelu_epilogue<F>(device, n, k, x, w) &&
      multiply_with_bias(device, y, x, w, bias, g, Epilogue::gelu, h))
    return;
  multiply_with_bias(device, h, x, w, bias, g);
  unary(device, gelu, y, h, rows * n);
}
template <class F>
void linear_gelu_grad(const Cuda& device, F gelu, bfloat16* dh, float* db, const bfloat16* dy,
                      const bfloat16* w, const bfloat16* h, int64_t rows, int64_t n, int64_t k) {
  const Gemm g{.m = rows, .n = n, .k = k};
  if (has_gelu_epilogue<F>(device, n, k, dy, w) &&
      multiply<bfloat16>(device, dh, dy, w, nullptr, g, Epilogue::gelu_grad, h)) {
    if (db) sum(device, db, dh, 1, rows, n, 1);
    return;
  }
  multiply<bfloat16>(device, dh, dy, w, nullptr, g);
  if (db) {
    unary_grad(device, gelu, dh, db, h, rows, n);
  } else {
    unary_grad(device, gelu, dh, dh, h, rows * n);
  }
}
#define AG_INSTANTIATE_GELU(F)                                                                        \
  template void linear_gelu(const Cuda&, F, bfloat16*, bfloat16*, const bfloat16*, const bfloat16*,   \
                            const float*, int64_t, int64_t, int64_t);                                 \
  template void linear_gelu_grad(const Cuda&, F, bfloat16*, float*, const bfloat16*, const bfloat16*, \
                                 const bfloat16*, int64_t, int64_t, int64_t);
AG_INSTANTIATE_GELU(GeluErf)
AG_INSTANTIATE_GELU(GeluTanh)

bool has_fp8(const Cuda& device) { return cuda::compute_capability(device.index) >= 89; }

// cuBLASLt adds a bias to a result in bf16 alone: elsewhere it is in C before, and the product is added to it.
template <class T>
void gemm_fp8(const Cuda& device, T* c, const uint8_t* a, Fp8 format_a, const uint8_t* b, Fp8 format_b,
              const float* bias, const Gemm& g) {
  if (g.m == 0 || g.n == 0) return;
  const int64_t m = padded(g.m), n = padded(g.n), k = padded(g.k);
  const bool whole = m == g.m && n == g.n;
  const bool adds_bias = bias && std::is_same_v<T, bfloat16> && whole && g.k > 0;
  const bool begins_with_c = (bias && !adds_bias) || !whole || g.k == 0;
  if (begins_with_c) scale_and_add(device, c, bias, g);
  if (g.k == 0) return;
  std::optional<cuda::Scratch<bfloat16>> added;
  if (adds_bias) to_bf16(device, added.emplace(device, g.n).data(), bias, g.n);
  const PaddedCodes left(device, a, g.m, g.k), right(device, b, g.n, g.k);
  const auto run = [&](auto* to, float beta) {
    const Pointers at{left.data(), right.data(), added ? added->data() : nullptr, to, g.scale_a, g.scale_b};
    const float scalars[] = {float(g.alpha), beta};
    plan(device,
         {.device = device.index,
          .type_a = type_of_fp8(format_a),
          .type_b = type_of_fp8(format_b),
          .result = type_of<std::remove_pointer_t<decltype(to)>>,
          .compute = CUBLAS_COMPUTE_32F,
          .m = m,
          .n = n,
          .k = k,
          .trans_b = true,
          .align_a = alignment(left.data()),
          .align_b = alignment(right.data()),
          .align_c = alignment(to),
          .align_bias = alignment(at.bias)},
         at)
        .run(device.stream, scalars, scalars + 1, at);
  };
  if (whole) return run(c, begins_with_c ? 1 : float(g.beta));
  const cuda::Scratch<float> sums(device, m * n);
  run(sums.data(), 0);
  cuda::each(device, "gemm_fp8", g.m * g.n, [=, sums = sums.data(), columns = g.n] AG_LAMBDA(int64_t i) {
    c[i] = T(float(c[i]) + sums[i / columns * n + i % columns]);
  });
}
template void gemm_fp8(const Cuda&, float*, const uint8_t*, Fp8, const uint8_t*, Fp8, const float*,
                       const Gemm&);
template void gemm_fp8(const Cuda&, bfloat16*, const uint8_t*, Fp8, const uint8_t*, Fp8, const float*,
                       const Gemm&);

AG_INSTANTIATE_FLOATING(gemm)
AG_INSTANTIATE_FLOATING(linear)
AG_INSTANTIATE_STORED(linear_grad)

}  // namespace on_cuda
}  // namespace altgrad::kernels
