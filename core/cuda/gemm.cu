// Matrix products by cuBLASLt, which is column-major: a row-major (m, n) matrix is its (n, m) one. So C^T (n, m) =
// op(B)^T op(A)^T: its first operand is B, its second A, and each is transposed where ours is; a bias is one number for
// each of its rows, as cuBLASLt has it. A long sum may be cut, its parts kept in f32, or f64, and added in a fixed
// order: what a product gives follows from its sizes and alignments, never from what ran before.
#include <altgrad/core/internal/kernels/gemm.h>

#include <altgrad/core/cuda/launch.h>
#include <altgrad/core/internal/instantiate.h>
#include <altgrad/core/internal/kernels/reduce.h>
#include <altgrad/core/matmul_precision.h>

#include <cublasLt.h>
#include <cuda_fp8.h>

#include <compare>
#include <map>
#include <mutex>
#include <type_traits>

namespace altgrad::kernels {
inline namespace on_cuda {
namespace {

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw std::runtime_error(std::string("cuBLASLt: ") + what + ": " + cublasLtGetStatusString(status));
}

// 0, 1, ...
void count_up(const Cuda& device, float* numbers, int64_t n) {
  cuda::each(device, "count_up", n, [=] AG_LAMBDA(int64_t i) { numbers[i] = float(i); });
}

// What the products of a device share, made with the first of them. All run in its one stream, so that one workspace
// serves them in turn.
struct Context {
  static constexpr size_t workspace_bytes = size_t(32) << 20;

  explicit Context(const Cuda& device)
      : workspace(workspace_bytes, Device::cuda(device.index)), numbers(device, 2) {
    check(cublasLtCreate(&handle), "no handle");
    count_up(device, numbers.data(), 2);
  }

  detail::Storage workspace;
  cuda::Scratch<float> numbers;  // 0 and 1, as a beta in memory of the device
  cublasLtHandle_t handle = nullptr;
};

// What a product is to cuBLASLt. Its best algorithm is for pointers of these alignments.
struct Kind {
  int device;
  cudaDataType_t type_a, type_b, result;
  cublasComputeType_t compute;
  bool device_scalars;  // alpha and beta lie in memory of the device
  int64_t m, n, k, batch, stride_a, stride_b, stride_c;
  bool trans_a, trans_b;
  uint32_t align_a, align_b, align_c, align_bias;  // the last is 0 where there is no bias
  bool bias_grad = false;  // is the bias not added, but written, the sums of op(A)'s rows?

  auto operator<=>(const Kind&) const = default;
};

struct Pointers {
  const void *a, *b, *bias;  // or its gradient
  void* c;
  const float *scale_a = nullptr, *scale_b = nullptr;  // of FP8
};

// The descriptors of a product and its algorithm, made once: to choose it takes longer than a small product.
class Plan {
 public:
  Plan(const Context& context, const Kind& kind, const Pointers& at)
      : context_(context), is_fp8_(kind.type_a == CUDA_R_8F_E4M3 || kind.type_a == CUDA_R_8F_E5M2) {
    check(cublasLtMatmulDescCreate(&product_, kind.compute,
                                   kind.compute == CUBLAS_COMPUTE_64F ? CUDA_R_64F : CUDA_R_32F),
          "a descriptor");
    set(CUBLASLT_MATMUL_DESC_TRANSA, kind.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, kind.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_POINTER_MODE,
        int32_t(kind.device_scalars ? CUBLASLT_POINTER_MODE_DEVICE : CUBLASLT_POINTER_MODE_HOST));
    if (at.bias)
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, kind.bias_grad ? CUBLASLT_EPILOGUE_BGRADB : CUBLASLT_EPILOGUE_BIAS);
    set_pointers(at);  // the bias's alignment counts when the algorithm is chosen
    b_ = layout(kind.type_b, kind.trans_b ? kind.k : kind.n, kind.trans_b ? kind.n : kind.k, kind.batch,
                kind.stride_b);
    a_ = layout(kind.type_a, kind.trans_a ? kind.m : kind.k, kind.trans_a ? kind.k : kind.m, kind.batch,
                kind.stride_a);
    c_ = layout(kind.result, kind.n, kind.m, kind.batch, kind.stride_c);
    chosen_ = choose(kind);
  }

  // Has cuBLASLt an algorithm for it?
  bool exists() const { return chosen_ == CUBLAS_STATUS_SUCCESS; }

  // 0 or 1 in memory of the device.
  const float* number(bool one) const { return context_.numbers.data() + one; }

  // Threads take turns, as some pointers are part of the descriptor.
  void run(cudaStream_t stream, const void* alpha, const void* beta, const Pointers& at) {
    check(chosen_, "no algorithm");
    const std::lock_guard lock(mutex_);
    set_pointers(at);
    check(cublasLtMatmul(context_.handle, product_, alpha, at.b, b_, at.a, a_, beta, at.c, c_, at.c, c_,
                         &algorithm_, context_.workspace.data, Context::workspace_bytes, stream),
          "a product");
  }

 private:
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& x) {
    check(cublasLtMatmulDescSetAttribute(product_, attribute, &x, sizeof x), "a descriptor");
  }

  void set_pointers(const Pointers& at) {
    if (at.bias) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, at.bias);
    if (!is_fp8_) return;
    set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, at.scale_b);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, at.scale_a);
  }

  static cublasLtMatrixLayout_t layout(cudaDataType_t type, int64_t rows, int64_t columns, int64_t batch,
                                       int64_t stride) {
    cublasLtMatrixLayout_t made;
    check(cublasLtMatrixLayoutCreate(&made, type, uint64_t(rows), uint64_t(columns), rows), "a layout");
    const auto count = int32_t(batch);
    check(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count),
          "a layout");
    check(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                           sizeof stride),
          "a layout");
    return made;
  }

  // Sums may be cut where their parts are kept in the workspace, in the type that they are computed in: parts in C's
  // own type would be rounded, and those that are added in place lie in it.
  cublasStatus_t choose(const Kind& kind) {
    cublasLtMatmulPreference_t preference;
    check(cublasLtMatmulPreferenceCreate(&preference), "a preference");
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto x) {
      check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &x, sizeof x), "a preference");
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(Context::workspace_bytes));
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, kind.align_b);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, kind.align_a);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, kind.align_c);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, kind.align_c);
    cublasLtMatmulHeuristicResult_t best;
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(context_.handle, product_, b_, a_, c_, c_,
                                                                 preference, 1, &best, &found);
    check(cublasLtMatmulPreferenceDestroy(preference), "a preference");
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (found == 0) return CUBLAS_STATUS_NOT_SUPPORTED;
    algorithm_ = best.algo;
    return best.state;
  }

  const Context& context_;
  const bool is_fp8_;
  std::mutex mutex_;
  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatrixLayout_t a_ = nullptr, b_ = nullptr, c_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_;
  cublasStatus_t chosen_ = CUBLAS_STATUS_NOT_SUPPORTED;
};

// The product's plan, of the current device. Plans live as long as the process, as devices do.
Plan& plan(const Cuda& device, const Kind& kind, const Pointers& at) {
  static std::mutex& mutex = *new std::mutex;
  static auto& contexts = *new std::map<int, Context>;
  static auto& plans = *new std::map<Kind, Plan>;
  const std::lock_guard lock(mutex);
  const auto found = plans.find(kind);
  if (found != plans.end()) return found->second;
  const Context& context = contexts.try_emplace(kind.device, device).first->second;
  return plans.try_emplace(kind, context, kind, at).first->second;
}

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

uint32_t alignment(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p) | 256;
  return uint32_t(address & (~address + 1));
}

// y = x, rounded: eight numbers at a time where x is aligned to four, as y, memory of its own, is.
void to_bf16(const Cuda& device, bfloat16* y, const float* x, int64_t n) {
  const bool aligned = alignment(x) >= sizeof(float4);
  cuda::each(device, "to_bf16", (n + 7) / 8, [=] AG_LAMBDA(int64_t i) {
    const auto pair = [](float low, float high) {
      return uint32_t(bfloat16(low).bits) | uint32_t(bfloat16(high).bits) << 16;
    };
    const int64_t first = 8 * i, end = first + 8 < n ? first + 8 : n;
    if (aligned && end - first == 8) {
      const auto* const from = reinterpret_cast<const float4*>(x + first);
      const float4 u = from[0], v = from[1];
      *reinterpret_cast<uint4*>(y + first) =
          uint4{pair(u.x, u.y), pair(u.z, u.w), pair(v.x, v.y), pair(v.z, v.w)};
    } else {
      for (int64_t j = first; j < end; ++j) y[j] = bfloat16(x[j]);
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

// C = alpha op(A) op(B) + beta C + bias
template <class T, class Operand>
void multiply(const Cuda& device, T* c, const Operand* a, const Operand* b, const T* bias, const Gemm& g) {
  using S = Compute<T>;
  if (g.m == 0 || g.n == 0 || g.batch == 0) return;
  if (g.k == 0) return scale_and_add(device, c, bias, g);
  const bool device_scalars = g.scale_a || g.scale_b;
  const Pointers at{a, b, bias, c};
  Plan& p = plan(device,
                 {device.index, type_of<Operand>, type_of<Operand>, type_of<T>, compute_of<Operand>(),
                  device_scalars, g.m, g.n, g.k, g.batch, g.stride_a, g.stride_b, g.stride_c, g.trans_a,
                  g.trans_b, alignment(a), alignment(b), alignment(c), bias ? alignment(bias) : 0},
                 at);
  if (!device_scalars) {
    const S scalars[] = {S(g.alpha), S(g.beta)};
    return p.run(device.stream, scalars, scalars + 1, at);
  }
  if constexpr (std::is_same_v<S, float>) {  // one scale by itself is alpha
    if (!(g.scale_a && g.scale_b) && g.alpha == 1 && (g.beta == 0 || g.beta == 1))
      return p.run(device.stream, g.scale_a ? g.scale_a : g.scale_b, p.number(g.beta == 1), at);
  }
  const cuda::Scratch<S> scalars(device, 2);
  cuda::each(device, "alpha", 1,
             [=, to = scalars.data(), alpha = g.alpha, beta = g.beta, scale_a = g.scale_a,
              scale_b = g.scale_b] AG_LAMBDA(int64_t) {
               to[0] = S(alpha * ((scale_a ? double(*scale_a) : 1) * (scale_b ? double(*scale_b) : 1)));
               to[1] = S(beta);
             });
  p.run(device.stream, scalars.data(), scalars.data() + 1, at);
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
      return multiply(device, c, low_a.data(), low_b.data(), bias, g);
    }
  }
  multiply(device, c, a, b, bias, g);
}

// linear_grad as one product: its epilogue writes db, in the product's type and from sums in it, which is f32. Gives
// false, with nothing done, where cuBLASLt has none such; of which sizes and alignments it has, it does not say.
bool multiply_with_sums(const Cuda& device, float* dw, float* db, const bfloat16* dy, const bfloat16* x,
                        const Gemm& g) {
  if (g.m == 0 || g.n == 0 || g.k == 0) return false;
  const Pointers at{dy, x, db, dw};
  Plan& p = plan(device, {device.index,  CUDA_R_16BF,  CUDA_R_16BF,   CUDA_R_32F,    CUBLAS_COMPUTE_32F,
                          false,         g.m,          g.n,           g.k,           g.batch,
                          g.stride_a,    g.stride_b,   g.stride_c,    g.trans_a,     g.trans_b,
                          alignment(dy), alignment(x), alignment(dw), alignment(db), true},
                 at);
  if (!p.exists()) return false;
  const float scalars[] = {float(g.alpha), float(g.beta)};
  p.run(device.stream, scalars, scalars + 1, at);
  return true;
}

// ---- FP8: A and B^T by rows, in codes, with all sizes multiples of 16 ----

constexpr int64_t unit = 16;
int64_t padded(int64_t n) { return (n + unit - 1) / unit * unit; }

// The code of x, a number of the format, NaN, or E5M2's Inf, which the conversion alone would make finite.
AG_DEVICE uint32_t fp8_code(uint32_t bf16_bits, Fp8 format) {
  const uint32_t magnitude = bf16_bits & 0x7fff;
  if (format == Fp8::e5m2 && magnitude == 0x7f80) return 0x7c | (bf16_bits >> 8 & 0x80);
  return __nv_cvt_float_to_fp8(float(std::bit_cast<bfloat16>(uint16_t(bf16_bits))), __NV_SATFINITE,
                               format == Fp8::e4m3 ? __NV_E4M3 : __NV_E5M2);
}
AG_DEVICE uint32_t four_codes(uint32_t low, uint32_t high, Fp8 format) {  // of two pairs of bf16
  return fp8_code(low & 0xffff, format) | fp8_code(low >> 16, format) << 8 |
         fp8_code(high & 0xffff, format) << 16 | fp8_code(high >> 16, format) << 24;
}

// y (padded rows, padded columns) = codes of x (rows, columns), and zeros around them: sixteen for each thread.
void to_fp8(const Cuda& device, uint8_t* y, const bfloat16* x, int64_t rows, int64_t columns, Fp8 format) {
  const bool aligned = alignment(x) >= sizeof(uint4) && columns % unit == 0;
  const int64_t units = padded(columns) / unit;
  cuda::each(device, "to_fp8", padded(rows) * units, [=] AG_LAMBDA(int64_t i) {
    const int64_t r = i / units, first = i % units * unit;
    uint4 u{}, v{};
    if (r < rows && aligned) {
      const auto* const from = reinterpret_cast<const uint4*>(x + r * columns + first);
      u = from[0], v = from[1];
    } else if (r < rows) {
      uint32_t pairs[8];
      for (int j = 0; j < 8; ++j) {
        const int64_t at = first + 2 * j;
        pairs[j] = (at < columns ? x[r * columns + at].bits : 0u) |
                   (at + 1 < columns ? uint32_t(x[r * columns + at + 1].bits) : 0u) << 16;
      }
      u = {pairs[0], pairs[1], pairs[2], pairs[3]}, v = {pairs[4], pairs[5], pairs[6], pairs[7]};
    }
    reinterpret_cast<uint4*>(y)[i] = {four_codes(u.x, u.y, format), four_codes(u.z, u.w, format),
                                      four_codes(v.x, v.y, format), four_codes(v.z, v.w, format)};
  });
}

// The same of x^T, x being (columns, rows): a block has a tile of 64 by 64, which it reads and writes by rows.
void to_fp8_transposed(const Cuda& device, uint8_t* y, const bfloat16* x, int64_t rows, int64_t columns,
                       Fp8 format) {
  constexpr int side = 64, pitch = side + 4;  // what is read down the tile lies in different banks
  const int64_t high = padded(rows), wide = padded(columns), across = (wide + side - 1) / side;
  cuda::rows(device, "to_fp8", (high + side - 1) / side * across, cuda::most_threads,
             [=] AG_LAMBDA(int64_t tile) {
               AG_SHARED(uint32_t, codes, side * pitch / 4);
               auto* const code = reinterpret_cast<uint8_t*>(codes);
               const int64_t top = tile / across * side, left = tile % across * side;
               for (int i = int(threadIdx.x); i < side * side; i += int(blockDim.x)) {
                 const int64_t r = top + i % side, q = left + i / side;
                 code[i % side * pitch + i / side] =
                     uint8_t(r < rows && q < columns ? fp8_code(x[q * rows + r].bits, format) : 0);
               }
               __syncthreads();
               for (int i = int(threadIdx.x); i < side * side / unit; i += int(blockDim.x)) {
                 const int64_t r = top + i / (side / unit), q = left + i % (side / unit) * unit;
                 const uint32_t* const from = codes + (r - top) * (pitch / 4) + (q - left) / 4;
                 if (r < high && q < wide)
                   *reinterpret_cast<uint4*>(y + r * wide + q) = {from[0], from[1], from[2], from[3]};
               }
               __syncthreads();
             });
}

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
  const Gemm g{.m = n, .n = k, .k = rows, .trans_a = true, .beta = beta};
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (dw && db && multiply_with_sums(device, dw, db, dy, x, g)) return;
  }
  if (dw) gemm(device, dw, dy, x, g);
  if (db) sum(device, db, dy, 1, rows, n, 1);
}

bool has_bf16(const Cuda&) { return true; }  // all GPUs that there are kernels for have

void gemm(const Cuda& device, float* c, const bfloat16* a, const bfloat16* b, const float* bias,
          const Gemm& g) {
  multiply(device, c, a, b, bias, g);
}
// cuBLASLt takes a bias of C's type.
void gemm(const Cuda& device, bfloat16* c, const bfloat16* a, const bfloat16* b, const float* bias,
          const Gemm& g) {
  if (!bias) return multiply<bfloat16>(device, c, a, b, nullptr, g);
  const cuda::Scratch<bfloat16> rounded(device, g.n);
  to_bf16(device, rounded.data(), bias, g.n);
  multiply<bfloat16>(device, c, a, b, rounded.data(), g);
}

bool has_fp8(const Cuda& device) {
  int major = 0, minor = 0;
  cuda::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index), "a device");
  cuda::check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device.index), "a device");
  return 10 * major + minor >= 89;
}

// cuBLASLt adds no bias to an f32 result of FP8: it is there before, and the product is added to it.
template <class T>
void gemm_fp8(const Cuda& device, T* c, const bfloat16* a, Fp8 format_a, const bfloat16* b, Fp8 format_b,
              const float* bias, const Gemm& g) {
  if (g.m == 0 || g.n == 0) return;
  const int64_t m = padded(g.m), n = padded(g.n), k = padded(g.k);
  const bool whole = m == g.m && n == g.n;
  if (bias || g.k == 0 || !whole) scale_and_add(device, c, bias, g);
  if (g.k == 0) return;
  const cuda::Scratch<uint8_t> codes_a(device, m * k), codes_b(device, n * k);
  (g.trans_a ? to_fp8_transposed : to_fp8)(device, codes_a.data(), a, g.m, g.k, format_a);
  (g.trans_b ? to_fp8 : to_fp8_transposed)(device, codes_b.data(), b, g.n, g.k, format_b);
  const auto run = [&](auto* to, float beta) {
    const Pointers at{codes_a.data(), codes_b.data(), nullptr, to, g.scale_a, g.scale_b};
    const float scalars[] = {float(g.alpha), beta};
    plan(device,
         {device.index, type_of_fp8(format_a), type_of_fp8(format_b),
          type_of<std::remove_pointer_t<decltype(to)>>, CUBLAS_COMPUTE_32F, false, m, n, k, 1, m * k, k * n,
          m * n, false, true, 256, 256, alignment(to), 0},
         at)
        .run(device.stream, scalars, scalars + 1, at);
  };
  if (whole) return run(c, bias ? 1 : float(g.beta));
  const cuda::Scratch<float> sums(device, m * n);
  run(sums.data(), 0);
  cuda::each(device, "gemm_fp8", g.m * g.n, [=, sums = sums.data(), columns = g.n] AG_LAMBDA(int64_t i) {
    c[i] = T(float(c[i]) + sums[i / columns * n + i % columns]);
  });
}
template void gemm_fp8(const Cuda&, float*, const bfloat16*, Fp8, const bfloat16*, Fp8, const float*,
                       const Gemm&);
template void gemm_fp8(const Cuda&, bfloat16*, const bfloat16*, Fp8, const bfloat16*, Fp8, const float*,
                       const Gemm&);

AG_INSTANTIATE_FLOATING(gemm)
AG_INSTANTIATE_FLOATING(linear)
AG_INSTANTIATE_STORED(linear_grad)

}  // namespace on_cuda
}  // namespace altgrad::kernels
