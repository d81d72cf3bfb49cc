// Matrix products by cuBLASLt, which is column-major: a row-major (m, n) matrix is its (n, m) one. So C^T (n, m) =
// op(B)^T op(A)^T: its first operand is B, its second A, and each is transposed where ours is. Sums are f32's or
// f64's own, never TF32's, and are not cut, so that they have one order.
#include <altgrad/core/internal/kernels/gemm.h>

#include <altgrad/core/cuda/launch.h>
#include <altgrad/core/dtype.h>

#include <cublasLt.h>

#include <map>
#include <mutex>
#include <tuple>
#include <type_traits>

namespace altgrad::kernels {
inline namespace on_cuda {
namespace {

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw std::runtime_error(std::string("cuBLASLt: ") + what + ": " + cublasLtGetStatusString(status));
}

// What a product is to cuBLASLt. Its best algorithm is for pointers of these alignments.
struct Kind {
  int device;
  cudaDataType_t operands, result;
  bool device_scalars;  // alpha and beta lie in memory of the device
  int64_t m, n, k, batch, stride_a, stride_b, stride_c;
  bool trans_a, trans_b;
  uint32_t align_a, align_b, align_c;

  auto members() const {
    return std::tie(device, operands, result, device_scalars, m, n, k, batch, stride_a, stride_b, stride_c,
                    trans_a, trans_b, align_a, align_b, align_c);
  }
  friend bool operator<(const Kind& a, const Kind& b) { return a.members() < b.members(); }
};

// The descriptors of a product and its algorithm, made once: to choose it takes longer than a small product.
class Plan {
 public:
  Plan(cublasLtHandle_t handle, const Kind& kind) : handle_(handle) {
    const bool wide = kind.result == CUDA_R_64F;
    check(cublasLtMatmulDescCreate(&product_, wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                   wide ? CUDA_R_64F : CUDA_R_32F),
          "a descriptor");
    set(CUBLASLT_MATMUL_DESC_TRANSA, kind.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, kind.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_POINTER_MODE,
        int32_t(kind.device_scalars ? CUBLASLT_POINTER_MODE_DEVICE : CUBLASLT_POINTER_MODE_HOST));
    b_ = layout(kind.operands, kind.trans_b ? kind.k : kind.n, kind.trans_b ? kind.n : kind.k, kind.batch,
                kind.stride_b);
    a_ = layout(kind.operands, kind.trans_a ? kind.m : kind.k, kind.trans_a ? kind.k : kind.m, kind.batch,
                kind.stride_a);
    c_ = layout(kind.result, kind.n, kind.m, kind.batch, kind.stride_c);
    choose(kind);
  }

  void run(cudaStream_t stream, const void* alpha, const void* a, const void* b, const void* beta,
           void* c) const {
    check(cublasLtMatmul(handle_, product_, alpha, b, b_, a, a_, beta, c, c_, c, c_, &algorithm_, nullptr, 0,
                         stream),
          "a product");
  }

 private:
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& x) {
    check(cublasLtMatmulDescSetAttribute(product_, attribute, &x, sizeof x), "a descriptor");
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

  void choose(const Kind& kind) {
    cublasLtMatmulPreference_t preference;
    check(cublasLtMatmulPreferenceCreate(&preference), "a preference");
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, uint32_t x) {
      check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &x, sizeof x), "a preference");
    };
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_REDUCTION_SCHEME_NONE);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, kind.align_b);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, kind.align_a);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, kind.align_c);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, kind.align_c);
    cublasLtMatmulHeuristicResult_t best;
    int found = 0;
    check(cublasLtMatmulAlgoGetHeuristic(handle_, product_, b_, a_, c_, c_, preference, 1, &best, &found),
          "no algorithm");
    check(found > 0 ? best.state : CUBLAS_STATUS_NOT_SUPPORTED, "no algorithm");
    algorithm_ = best.algo;
    check(cublasLtMatmulPreferenceDestroy(preference), "a preference");
  }

  cublasLtHandle_t handle_;
  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatrixLayout_t a_ = nullptr, b_ = nullptr, c_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_;
};

// The product's plan, of the current device. Plans live as long as the process, as devices do.
const Plan& plan(const Kind& kind) {
  static std::mutex& mutex = *new std::mutex;
  static auto& handles = *new std::map<int, cublasLtHandle_t>;
  static auto& plans = *new std::map<Kind, Plan>;
  const std::lock_guard lock(mutex);
  cublasLtHandle_t& handle = handles[kind.device];
  if (!handle) check(cublasLtCreate(&handle), "no handle");
  return plans.try_emplace(kind, handle, kind).first->second;
}

template <class T>
constexpr cudaDataType_t type_of = std::is_same_v<T, double>  ? CUDA_R_64F
                                   : std::is_same_v<T, float> ? CUDA_R_32F
                                                              : CUDA_R_16BF;

uint32_t alignment(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p) | 256;
  return uint32_t(address & (~address + 1));
}

// C = beta C + bias; C is not read where beta = 0, bias may be null.
template <class T>
void scale_and_add(const Cuda& device, T* c, double beta, const Compute<T>* bias, const Gemm& g) {
  using S = Compute<T>;
  const int64_t size = g.m * g.n;
  cuda::each(device, "scale_and_add", g.batch * size, [=, n = g.n, stride = g.stride_c] AG_LAMBDA(int64_t i) {
    T& at = c[i / size * stride + i % size];
    at = T((beta == 0 ? S(0) : S(beta) * S(at)) + (bias ? bias[i % n] : S(0)));
  });
}

// C = alpha op(A) op(B) + beta C + bias
template <class T, class Operand>
void multiply(const Cuda& device, T* c, const Operand* a, const Operand* b, const Compute<T>* bias,
              const Gemm& g) {
  using S = Compute<T>;
  if (g.m == 0 || g.n == 0 || g.batch == 0) return;
  if (bias || g.k == 0) scale_and_add(device, c, g.beta, bias, g);
  if (g.k == 0) return;
  const double beta = bias ? 1 : g.beta;
  const bool device_scalars = g.scale_a || g.scale_b;
  const Plan& p =
      plan({device.index, type_of<Operand>, type_of<T>, device_scalars, g.m, g.n, g.k, g.batch, g.stride_a,
            g.stride_b, g.stride_c, g.trans_a, g.trans_b, alignment(a), alignment(b), alignment(c)});
  if (!device_scalars) {
    const S scalars[] = {S(g.alpha), S(beta)};
    p.run(device.stream, scalars, a, b, scalars + 1, c);
    return;
  }
  const cuda::Scratch<S> scalars(device, 2);
  cuda::each(
      device, "alpha", 1,
      [=, to = scalars.data(), alpha = g.alpha, scale_a = g.scale_a, scale_b = g.scale_b] AG_LAMBDA(int64_t) {
        to[0] = S(alpha * ((scale_a ? double(*scale_a) : 1) * (scale_b ? double(*scale_b) : 1)));
        to[1] = S(beta);
      });
  p.run(device.stream, scalars.data(), a, b, scalars.data() + 1, c);
}

}  // namespace

template <class T>
void gemm(const Cuda& device, T* c, const T* a, const T* b, const Gemm& g) {
  multiply<T, T>(device, c, a, b, nullptr, g);
}

template <class T>
void linear(const Cuda& device, T* y, const T* x, const T* w, const T* bias, int64_t rows, int64_t n,
            int64_t k) {
  multiply(device, y, x, w, bias, {.m = rows, .n = n, .k = k, .trans_b = true});
}

bool has_bf16(const Cuda&) { return true; }  // all GPUs that there are kernels for have

void gemm(const Cuda& device, float* c, const bfloat16* a, const bfloat16* b, const float* bias,
          const Gemm& g) {
  multiply(device, c, a, b, bias, g);
}
void gemm(const Cuda& device, bfloat16* c, const bfloat16* a, const bfloat16* b, const float* bias,
          const Gemm& g) {
  multiply(device, c, a, b, bias, g);
}

#define AG_INSTANTIATE(T)                                               \
  template void gemm(const Cuda&, T*, const T*, const T*, const Gemm&); \
  template void linear(const Cuda&, T*, const T*, const T*, const T*, int64_t, int64_t, int64_t);
AG_INSTANTIATE(float)
AG_INSTANTIATE(double)

}  // namespace on_cuda
}  // namespace altgrad::kernels
