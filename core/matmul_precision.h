// How exact products of f32 matrices are on a GPU.
#pragma once

#include <altgrad/core/export.h>

#include <cstdint>

ALTGRAD_API_BEGIN
namespace altgrad {

/// What the tensor cores of a GPU see of an f32 matrix in matmul, linear and their gradients. Sums are f32 in all of
/// them, and so are results. Attention is in tf32 for bf16, too: its weights are made of products.
enum class MatmulPrecision : uint8_t {
  f32,   ///< all of it; no tensor cores
  tf32,  ///< 11 significant bits of the 24
  bf16,  ///< 8 of them: the matrices are rounded to bf16 first
};

/// For the products that any thread computes from now on; until it is called, f32. (To PyTorch's
/// set_float32_matmul_precision they are "highest", "high" and "medium".) On the CPU and for other dtypes it changes
/// nothing, nor for products of fp8's codes, which bf16 holds exactly. set_matmul_precision throws std::invalid_argument
/// for what is none of MatmulPrecision.
void set_matmul_precision(MatmulPrecision precision);
MatmulPrecision matmul_precision();

}  // namespace altgrad
ALTGRAD_API_END
