// Which products cuBLASLt takes (its manual, "cublasLtMatmul"), as far as altgrad asks for them: what is not listed
// here is refused.
#include "matmul.h"
#include "simulator.h"

namespace altgrad::simulator {
namespace {

const char* reason = "";

bool is_one_of(int64_t x, std::initializer_list<int64_t> all) {
  for (const int64_t y : all) {
    if (x == y) return true;
  }
  return false;
}

const char* wrong_types(const Product& p) {
  const Description& desc = p.description;
  const uint32_t a = p.a.type, b = p.b.type, c = p.c.type, d = p.d.type;
  const char* const wrong = "types of A, B, C, D, compute type and scale type do not go together";
  if (a == CUDA_R_64F) {
    const bool fits = b == a && c == a && d == a && desc.scale_type == CUDA_R_64F &&
                      is_one_of(desc.compute_type, {CUBLAS_COMPUTE_64F, CUBLAS_COMPUTE_64F_PEDANTIC});
    return fits ? nullptr : wrong;
  }
  if (desc.scale_type != CUDA_R_32F) return wrong;
  if (a == CUDA_R_32F) {
    const bool fits =
        b == a && c == a && d == a &&
        is_one_of(desc.compute_type, {CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_PEDANTIC,
                                      CUBLAS_COMPUTE_32F_FAST_16BF, CUBLAS_COMPUTE_32F_FAST_TF32});
    return fits ? nullptr : wrong;
  }
  if (desc.compute_type != CUBLAS_COMPUTE_32F) return wrong;
  if (a == CUDA_R_16BF) return b == a && c == d && is_one_of(d, {CUDA_R_16BF, CUDA_R_32F}) ? nullptr : wrong;
  if (!is_fp8(a) || !is_fp8(b)) return wrong;
  if (a == CUDA_R_8F_E5M2 && b == CUDA_R_8F_E5M2) return "E5M2 times E5M2";
  if (d == CUDA_R_8F_E5M2 && a == b) return "a result in E5M2 of two factors in E4M3";
  if (is_fp8(d)) return c == CUDA_R_16BF ? nullptr : wrong;
  return c == d && is_one_of(d, {CUDA_R_16BF, CUDA_R_32F}) ? nullptr : wrong;
}

const char* wrong_shapes(const Product& p) {
  const Description& desc = p.description;
  if (!is_one_of(desc.op_a, {CUBLAS_OP_N, CUBLAS_OP_T}) || !is_one_of(desc.op_b, {CUBLAS_OP_N, CUBLAS_OP_T}))
    return "an operation that is not N or T";
  const bool ta = desc.op_a == CUBLAS_OP_T, tb = desc.op_b == CUBLAS_OP_T;
  if ((ta ? p.a.columns : p.a.rows) != p.d.rows || (tb ? p.b.rows : p.b.columns) != p.d.columns ||
      (ta ? p.a.rows : p.a.columns) != (tb ? p.b.columns : p.b.rows) || p.c.rows != p.d.rows ||
      p.c.columns != p.d.columns)
    return "shapes of op(A), op(B), C and D do not go together";
  for (const Layout* x : {&p.a, &p.b, &p.c, &p.d}) {
    if (x->order != CUBLASLT_ORDER_COL) return "an order other than by columns";
    if (x->rows == 0 || x->columns == 0) return "an empty matrix";
    if (x->ld < int64_t(x->rows)) return "a leading dimension below the number of rows";
    if (x->batch != p.d.batch || x->batch < 1) return "numbers of batches differ";
  }
  if (p.d.batch > 1 && p.d.stride < p.d.ld * (p.n() - 1) + p.m()) return "batches of D that overlap";
  return nullptr;
}

const char* wrong_fp8(const Product& p) {
  const Description& desc = p.description;
  if (!is_fp8(p.a.type)) {
    if (desc.a_scale || desc.b_scale) return "scales of A or B that are not FP8";
  } else {
    if (desc.op_a != CUBLAS_OP_T || desc.op_b != CUBLAS_OP_N) return "FP8 in another layout than A^T B";
    if (p.m() % 16 != 0 || p.n() % 16 != 0 || p.k() % 16 != 0)
      return "FP8 with a size that is not a multiple of 16";
    for (const Layout* x : {&p.a, &p.b, &p.c, &p.d}) {
      if (x->ld * int64_t(bytes_of(x->type)) % 16 != 0 || x->stride * int64_t(bytes_of(x->type)) % 16 != 0)
        return "FP8 with a leading dimension or stride that is not a multiple of 16 bytes";
    }
    if (p.d.type == CUDA_R_32F && p.has(epilogue_bias)) return "FP8 with a bias and a result in f32";
  }
  if (!is_fp8(p.d.type) && (desc.d_scale || desc.amax)) return "a scale or the amax of D that is not FP8";
  return nullptr;
}

const char* wrong_epilogue(const Product& p) {
  const Description& desc = p.description;
  if (!is_one_of(desc.epilogue,
                 {CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_GELU,
                  CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_GELU_BIAS, CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
                  CUBLASLT_EPILOGUE_DGELU, CUBLASLT_EPILOGUE_DGELU_BGRAD, CUBLASLT_EPILOGUE_BGRADA,
                  CUBLASLT_EPILOGUE_BGRADB}))
    return "an epilogue that is not simulated";
  if (!settings().has_gelu && (p.has(CUBLASLT_EPILOGUE_GELU) || p.has(CUBLASLT_EPILOGUE_DGELU)))
    return "gelu, where settings().has_gelu is false";
  const uint32_t other = is_fp8(p.a.type) ? uint32_t(CUDA_R_16BF) : p.d.type;
  const bool has_bias =
      (desc.epilogue & (epilogue_bias | epilogue_bias_grad | epilogue_a_sums | epilogue_b_sums)) != 0;
  if (has_bias && !desc.bias) return "no pointer to the bias";
  if (has_bias && p.bias_type() != other) return "a bias of another type than D (bf16 with FP8)";
  if (!p.has(epilogue_aux)) return nullptr;
  if (!desc.aux) return "no pointer to the auxiliary matrix";
  if (p.aux_type() != p.d.type) return "an auxiliary matrix of another type than D";
  if (desc.aux_ld % 8 != 0 || desc.aux_ld < p.m() || desc.aux_stride % 8 != 0)
    return "an auxiliary leading dimension or stride that is not a multiple of 8, or too small";
  return nullptr;
}

}  // namespace

const char* refusal() { return reason; }

cublasStatus_t refuse(cublasStatus_t status, const char* why) {
  reason = why;
  return status;
}

cublasStatus_t check(const Product& p) {
  if (const char* why = wrong_shapes(p)) return refuse(CUBLAS_STATUS_INVALID_VALUE, why);
  if (const char* why = wrong_types(p)) return refuse(CUBLAS_STATUS_NOT_SUPPORTED, why);
  if (is_fp8(p.a.type) && settings().capability < 89)
    return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "FP8 below compute capability 8.9");
  if (const char* why = wrong_fp8(p)) return refuse(CUBLAS_STATUS_NOT_SUPPORTED, why);
  if (const char* why = wrong_epilogue(p)) return refuse(CUBLAS_STATUS_NOT_SUPPORTED, why);
  if (!is_one_of(p.description.pointer_mode, {CUBLASLT_POINTER_MODE_HOST, CUBLASLT_POINTER_MODE_DEVICE}))
    return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "a pointer mode other than host and device");
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace altgrad::simulator
