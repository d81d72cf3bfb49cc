// Products by cuBLASLt: what they are to it, and their descriptors and algorithms, made once.
#pragma once

#include <altgrad/core/cuda/launch.h>

#include <cublasLt.h>

#include <compare>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>

namespace altgrad::cuda::lt {

inline void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw std::runtime_error(std::string("cuBLASLt: ") + what + ": " + cublasLtGetStatusString(status));
}

// 0, 1, ...
inline void count_up(const Cuda& device, float* numbers, int64_t n) {
  each(device, "count_up", n, [=] AG_LAMBDA(int64_t i) { numbers[i] = float(i); });
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

  altgrad::detail::Storage workspace;
  Scratch<float> numbers;  // 0 and 1, as a beta in memory of the device
  cublasLtHandle_t handle = nullptr;
};

// What is done to the sums of a product before they are rounded: gelu, in the tanh form, which may keep what it is given, or
// times its derivative at what was kept.
enum class Epilogue { none, gelu, gelu_grad };

// What a product is to cuBLASLt. Its best algorithm is for pointers of these alignments.
struct Kind {
  int device;
  cudaDataType_t type_a, type_b, result;
  cublasComputeType_t compute;
  bool device_scalars = false;  // alpha and beta lie in memory of the device
  int64_t m, n, k, batch = 1, stride_a = 0, stride_b = 0, stride_c = 0;
  bool trans_a = false, trans_b = false;
  uint32_t align_a, align_b, align_c, align_bias = 0, align_kept = 0;  // 0 where there is none
  Epilogue epilogue = Epilogue::none;

  auto operator<=>(const Kind&) const = default;
};

struct Pointers {
  const void *a, *b, *bias;
  void* c;
  const float *scale_a = nullptr, *scale_b = nullptr;  // of FP8
  const void* kept = nullptr;                          // of gelu, as C lies
};

// The descriptors of a product and its algorithm, made once: to choose it takes longer than a small product. cuBLASLt may
// have none with an epilogue.
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
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue(kind));
    if (at.kept) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, kind.n);
    set_pointers(at);  // the bias's alignment counts when the algorithm is chosen
    b_ = layout(kind.type_b, kind.trans_b ? kind.k : kind.n, kind.trans_b ? kind.n : kind.k, kind.batch,
                kind.stride_b);
    a_ = layout(kind.type_a, kind.trans_a ? kind.m : kind.k, kind.trans_a ? kind.k : kind.m, kind.batch,
                kind.stride_a);
    c_ = layout(kind.result, kind.n, kind.m, kind.batch, kind.stride_c);
    status_ = choose(kind);
  }
  bool has_algorithm() const { return status_ == CUBLAS_STATUS_SUCCESS; }

  static cublasLtEpilogue_t epilogue(const Kind& kind) {
    if (kind.epilogue == Epilogue::gelu_grad) return CUBLASLT_EPILOGUE_DGELU;
    if (kind.epilogue == Epilogue::none)
      return kind.align_bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    if (kind.align_kept)
      return kind.align_bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    return kind.align_bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
  }

  // 0 or 1 in memory of the device.
  const float* number(bool one) const { return context_.numbers.data() + one; }

  // Threads take turns, as some pointers are part of the descriptor.
  void run(cudaStream_t stream, const void* alpha, const void* beta, const Pointers& at) {
    check(status_, "no algorithm");
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
    if (at.kept) set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, at.kept);
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
    const cublasStatus_t result = status != CUBLAS_STATUS_SUCCESS ? status
                                  : found == 0                    ? CUBLAS_STATUS_NOT_SUPPORTED
                                                                  : best.state;
    if (result != CUBLAS_STATUS_NOT_SUPPORTED) check(result, "no algorithm");
    if (result == CUBLAS_STATUS_SUCCESS) algorithm_ = best.algo;
    return result;
  }

  const Context& context_;
  const bool is_fp8_;
  std::mutex mutex_;
  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatrixLayout_t a_ = nullptr, b_ = nullptr, c_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_;
  cublasStatus_t status_;
};

// The product's plan, of the current device. Plans live as long as the process, as devices do.
inline Plan& plan(const Cuda& device, const Kind& kind, const Pointers& at) {
  static std::mutex& mutex = *new std::mutex;
  static auto& contexts = *new std::map<int, Context>;
  static auto& plans = *new std::map<Kind, Plan>;
  const std::lock_guard lock(mutex);
  const auto found = plans.find(kind);
  if (found != plans.end()) return found->second;
  const Context& context = contexts.try_emplace(kind.device, device).first->second;
  return plans.try_emplace(kind, context, kind, at).first->second;
}

}  // namespace altgrad::cuda::lt
