// A product as cuBLASLt's descriptors ask for it: D = epilogue(alpha op(A) op(B) + beta C). Internal to the simulator.
#pragma once

#include <cublasLt.h>

#include <cstdint>

namespace altgrad::simulator {

// What the opaque descriptors hold here. Their fields are as wide as the attributes are documented to be.
struct Description {
  int32_t compute_type, scale_type;
  int32_t pointer_mode = CUBLASLT_POINTER_MODE_HOST;
  int32_t op_a = CUBLAS_OP_N, op_b = CUBLAS_OP_N;
  uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  void* bias = nullptr;
  int64_t bias_stride = 0;
  int32_t bias_type = -1;
  void* aux = nullptr;
  int64_t aux_ld = 0, aux_stride = 0;
  int32_t aux_type = -1;
  const float *a_scale = nullptr, *b_scale = nullptr, *d_scale = nullptr;
  float* amax = nullptr;
  int8_t fast_accumulation = 0;
};

struct Layout {
  uint32_t type;
  int32_t order = CUBLASLT_ORDER_COL;
  uint64_t rows, columns;
  int64_t ld;
  int32_t batch = 1;
  int64_t stride = 0;
};

// Of the pointers, what an algorithm may count on, and the most workspace.
struct Preference {
  uint64_t workspace_bytes = 0;
  uint32_t alignment[4] = {256, 256, 256, 256};  // of A, B, C, D
};

struct Product {
  Description description;
  Layout a, b, c, d;

  int64_t m() const { return int64_t(d.rows); }
  int64_t n() const { return int64_t(d.columns); }
  int64_t k() const { return int64_t(description.op_a == CUBLAS_OP_N ? a.columns : a.rows); }
  bool has(uint32_t bits) const { return (description.epilogue & bits) == bits; }
  uint32_t bias_type() const { return description.bias_type < 0 ? d.type : uint32_t(description.bias_type); }
  uint32_t aux_type() const { return description.aux_type < 0 ? d.type : uint32_t(description.aux_type); }
};
// Bits of cublasLtEpilogue_t.
constexpr uint32_t epilogue_bias = 4, epilogue_bias_grad = 16, epilogue_gelu = 32, epilogue_gelu_grad = 64,
                   epilogue_aux = 128, epilogue_a_sums = 256, epilogue_b_sums = 512;

struct Operands {
  const void *a, *b, *c;
  void* d;
};

size_t bytes_of(uint32_t type);
inline bool is_fp8(uint32_t type) { return type == CUDA_R_8F_E4M3 || type == CUDA_R_8F_E5M2; }

// Success, or the status that cuBLASLt refuses the product with.
cublasStatus_t check(const Product& product);
// `status`, and what refusal() says from now on.
cublasStatus_t refuse(cublasStatus_t status, const char* why);

void multiply(const Product& product, const Operands& operands, double alpha, double beta);

}  // namespace altgrad::simulator
