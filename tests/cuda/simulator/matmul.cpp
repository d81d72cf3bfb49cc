// The arithmetic of a product: operands are unpacked to f32, or f64, and multiplied by plain loops, sums in ascending
// k.
#include "matmul.h"

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

namespace altgrad::simulator {
namespace {

double load(uint32_t type, const void* p, int64_t i) {
  const auto fp8 = [&](__nv_fp8_interpretation_t format) {
    return double(
        __half2float(__half(__nv_cvt_fp8_to_halfraw(static_cast<const __nv_fp8_storage_t*>(p)[i], format))));
  };
  switch (type) {
    case CUDA_R_64F: return static_cast<const double*>(p)[i];
    case CUDA_R_16BF: return double(__bfloat162float(static_cast<const __nv_bfloat16*>(p)[i]));
    case CUDA_R_8F_E4M3: return fp8(__NV_E4M3);
    case CUDA_R_8F_E5M2: return fp8(__NV_E5M2);
    default: return double(static_cast<const float*>(p)[i]);
  }
}

void store(uint32_t type, void* p, int64_t i, double x) {
  const auto fp8 = [&](__nv_fp8_interpretation_t format) {
    static_cast<__nv_fp8_storage_t*>(p)[i] = __nv_cvt_float_to_fp8(float(x), __NV_SATFINITE, format);
  };
  switch (type) {
    case CUDA_R_64F: static_cast<double*>(p)[i] = x; break;
    case CUDA_R_16BF: static_cast<__nv_bfloat16*>(p)[i] = __float2bfloat16_rn(float(x)); break;
    case CUDA_R_8F_E4M3: fp8(__NV_E4M3); break;
    case CUDA_R_8F_E5M2: fp8(__NV_E5M2); break;
    default: static_cast<float*>(p)[i] = float(x);
  }
}

// What the tensor cores see of an f32 operand in the fast modes.
double round_operand(double x, int32_t compute_type) {
  if (compute_type == CUBLAS_COMPUTE_32F_FAST_16BF)
    return double(__bfloat162float(__float2bfloat16_rn(float(x))));
  if (compute_type != CUBLAS_COMPUTE_32F_FAST_TF32 || !std::isfinite(x)) return x;
  return double(std::bit_cast<float>((std::bit_cast<uint32_t>(float(x)) + 0x1000u) & ~0x1fffu));
}

// The approximation by tanh, as in cuBLASLt, and its derivative.
template <class T>
T gelu(T x) {
  return x / 2 * (1 + std::tanh(T(0.7978845608028654) * (x + T(0.044715) * x * x * x)));
}
template <class T>
T gelu_grad(T x) {
  const T t = std::tanh(T(0.7978845608028654) * (x + T(0.044715) * x * x * x));
  return (1 + t) / 2 + x / 2 * (1 - t * t) * T(0.7978845608028654) * (1 + T(0.134145) * x * x);
}

// op(X) (rows, columns) of this batch, by rows.
template <class T>
std::vector<T> unpack(const Layout& x, int32_t op, const void* p, int64_t batch, int32_t compute_type) {
  const bool transposed = op != CUBLAS_OP_N;
  const int64_t rows = int64_t(transposed ? x.columns : x.rows),
                columns = int64_t(transposed ? x.rows : x.columns);
  std::vector<T> values(size_t(rows * columns));
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t at = batch * x.stride + (transposed ? j + i * x.ld : i + j * x.ld);
      values[size_t(i * columns + j)] = T(round_operand(load(x.type, p, at), compute_type));
    }
  }
  return values;
}

template <class T>
void multiply_as(const Product& p, const Operands& x, T alpha, T beta) {
  const Description& desc = p.description;
  const int64_t m = p.m(), n = p.n(), k = p.k();
  const T scales = T(desc.a_scale ? *desc.a_scale : 1) * T(desc.b_scale ? *desc.b_scale : 1);
  const T d_scale = T(desc.d_scale ? *desc.d_scale : 1);
  T amax = 0;
  for (int64_t batch = 0; batch < p.d.batch; ++batch) {
    const std::vector<T> a = unpack<T>(p.a, desc.op_a, x.a, batch, desc.compute_type);
    const std::vector<T> b = unpack<T>(p.b, desc.op_b, x.b, batch, desc.compute_type);
    std::vector<T> sums(size_t(m * n)), bias_grad(size_t(p.has(epilogue_b_sums) ? n : m));
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t q = 0; q < k; ++q) {
        const T factor = a[size_t(i * k + q)];
        const T* const row = &b[size_t(q * n)];
        T* const to = &sums[size_t(i * n)];
        for (int64_t j = 0; j < n; ++j) to[j] += factor * row[j];
        if (p.has(epilogue_a_sums)) bias_grad[size_t(i)] += factor;
      }
    }
    for (int64_t q = 0; q < k && p.has(epilogue_b_sums); ++q) {
      for (int64_t j = 0; j < n; ++j) bias_grad[size_t(j)] += b[size_t(q * n + j)];
    }
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t i = 0; i < m; ++i) {
        T value = alpha * scales * sums[size_t(i * n + j)];
        if (beta != 0) value += beta * T(load(p.c.type, x.c, batch * p.c.stride + i + j * p.c.ld));
        if (p.has(epilogue_bias)) value += T(load(p.bias_type(), desc.bias, batch * desc.bias_stride + i));
        const int64_t at_aux = batch * desc.aux_stride + i + j * desc.aux_ld;
        if (p.has(epilogue_gelu)) {
          if (p.has(epilogue_aux)) store(p.aux_type(), desc.aux, at_aux, double(value));
          value = gelu(value);
        }
        if (p.has(epilogue_gelu_grad)) value *= gelu_grad(T(load(p.aux_type(), desc.aux, at_aux)));
        if (p.has(epilogue_bias_grad)) bias_grad[size_t(i)] += value;
        amax = std::max(amax, std::abs(value));
        store(p.d.type, x.d, batch * p.d.stride + i + j * p.d.ld, double(value * d_scale));
      }
    }
    if (p.has(epilogue_a_sums) || p.has(epilogue_b_sums) || p.has(epilogue_bias_grad)) {
      for (size_t i = 0; i < bias_grad.size(); ++i)
        store(p.bias_type(), desc.bias, batch * desc.bias_stride + int64_t(i), double(bias_grad[i]));
    }
  }
  if (desc.amax) *desc.amax = float(amax);
}

}  // namespace

size_t bytes_of(uint32_t type) {
  switch (type) {
    case CUDA_R_64F: return 8;
    case CUDA_R_32F: return 4;
    case CUDA_R_16BF: return 2;
    case CUDA_R_8F_E4M3:
    case CUDA_R_8F_E5M2: return 1;
    default: return 0;
  }
}

void multiply(const Product& product, const Operands& operands, double alpha, double beta) {
  if (product.description.scale_type == CUDA_R_64F) {
    multiply_as<double>(product, operands, alpha, beta);
  } else {
    multiply_as<float>(product, operands, float(alpha), float(beta));
  }
}

}  // namespace altgrad::simulator
