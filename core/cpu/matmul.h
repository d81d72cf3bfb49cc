// Matrix products inside larger matrices, on the calling thread: what gemm.cpp shares among threads and what
// attention calls for its strips.
#pragma once

#include <cstdint>

namespace altgrad::cpu {

// A matrix inside memory: element (i, j) is at data[i * row + j * column], and one of the strides is 1.
template <class T>
struct Operand {
  const T* data;
  int64_t row, column;
};

// C (m, n), rows ldc apart, = alpha A (m, k) B (k, n) + beta C; with beta = 0, C is not read.
template <class T>
void matmul(T* c, int64_t ldc, Operand<T> a, Operand<T> b, int64_t m, int64_t n, int64_t k, T alpha, T beta);

// The f32 kernels (packed_matmul.h), compiled for CPUs that this program may not run on. scratch:
// packed_scratch floats, aligned to 64 bytes; m, n, k > 0.
using PackedMatmul = void(float* c, int64_t ldc, Operand<float> a, Operand<float> b, int64_t m, int64_t n,
                          int64_t k, float alpha, float beta, float* scratch);
PackedMatmul matmul_avx2, matmul_avx512;

// Blocks of B and of a column-major A while they are packed, in floats, for panels of up to 32 columns.
constexpr int64_t packed_scratch = 384 * 384 + 36 * 16 * (192 + 1);

// The same for bf16 values, sums in f32. Memory of A and B is filled up with zeros to multiples of bf16_padding
// rows and columns, and m and n only cut off what is stored: blocks of A and B begin at such multiples.
// bf16_scratch words, aligned to 64 bytes.
constexpr int64_t bf16_padding = 32;
using Bf16Matmul = void(float* c, int64_t ldc, Operand<uint16_t> a, Operand<uint16_t> b, int64_t m, int64_t n,
                        int64_t k, float alpha, float beta, uint32_t* scratch);
Bf16Matmul matmul_amx, matmul_avx512_bf16;
constexpr int64_t bf16_scratch = 512 * (224 + 256);

// The best one for this CPU, null where it has no such instructions.
Bf16Matmul* bf16_matmul_for_this_cpu();

}  // namespace altgrad::cpu
