// Matrix products inside larger matrices, on the calling thread: what gemm.cpp shares among threads and what
// attention calls for its strips.
#pragma once

#include <altgrad/core/internal/strict_math.h>

#include <cstdint>

namespace altgrad::cpu {

// A matrix inside memory: element (i, j) is at data[i * row + j * column], and one of the strides is 1.
template <class T>
struct MatrixView {
  const T* data;
  int64_t row, column;
};

// x from element (row, column) on. Not for the kernels' own files, which share no functions (packed_matmul.h).
template <class T>
MatrixView<T> at(const MatrixView<T>& x, int64_t row, int64_t column) {
  return {x.data + row * x.row + column * x.column, x.row, x.column};
}

// C (m, n), rows ldc apart, = alpha A (m, k) B (k, n) + beta C + bias; with beta = 0, C is not read; bias (n) is
// added to every row and may be null.
template <class T>
void matmul(T* c, int64_t ldc, MatrixView<T> a, MatrixView<T> b, int64_t m, int64_t n, int64_t k, T alpha,
            T beta, const T* bias = nullptr);

// Do the sums of matmul follow from the sizes of the product, as Eigen's do, by which it cuts them? Then a product that is
// to give the same bits on any number of threads must be cut where its own sizes say. The f32 kernels cut by depth alone.
template <class T>
bool sums_follow_sizes();

// A right-hand operand as the f32 kernels read it, in panels of so many columns: element (i, j) of a panel is at
// i * row + j from its beginning, and panels begin `panel` floats apart.
struct Panels {
  const float* data;
  int64_t row, panel;
};

// A right-hand operand that several products share: packed once, or read where it lies.
template <class T>
class PackedB {
 public:
  static int64_t size(int64_t k, int64_t n);  // elements of its memory, which is aligned to 64 bytes
  // For products with m rows: so few may not be worth packing for.
  PackedB(T* memory, MatrixView<T> b, int64_t k, int64_t n, int64_t m = INT64_MAX);
  // C (m, n) = alpha A (m, k) B + beta C, with the first k rows and n columns of the operand as B.
  void multiply(T* c, int64_t ldc, MatrixView<T> a, int64_t m, int64_t n, int64_t k, T alpha, T beta) const;

 private:
  MatrixView<T> b_;
  Panels panels_;
};

// A matrix (n, k) in codes of a byte, in panels of coded_panel rows (core/internal/coded.h).
struct CodedMatrix {
  const uint8_t* codes;
  int shift;
  float factor;
};

// y (m, n) = x (m, k) w^T + bias for m <= packed_few_rows, by the panels of w from `first` to `end`: to the bits of
// matmul of the decoded matrix, if sums do not follow sizes. bias may be null.
void coded_matmul(float* y, const float* x, const CodedMatrix& w, int64_t m, int64_t n, int64_t k,
                  const float* bias, int64_t first, int64_t end);

// The f32 kernels (packed_matmul.h), compiled for CPUs that this program may not run on.
struct PackedKernels {
  int64_t lanes;  // floats of a vector; a panel is two wide
  // B (k, n) into panels of their own, in rows one after the other, the last panel filled up with zeros.
  void (*pack)(float* panels, MatrixView<float> b, int64_t k, int64_t n);
  // C (m, n) = alpha A (m, k) B + beta C + bias; k <= packed_max_k. A transposed A is packed into packed_a
  // (packed_a_size floats), max_strips <= packed_max_strips at a time. All columns of the last vector of B are read.
  void (*multiply)(float* c, int64_t ldc, MatrixView<float> a, Panels b, int64_t m, int64_t n, int64_t k,
                   float alpha, float beta, const float* bias, float* packed_a, int64_t max_strips);
  // The same for any k, m <= packed_few_rows, a row-major A, and a B that is stored transposed: too few rows to pay for
  // packing it, so it is read once, as it lies. Sums are cut at multiples of k_step <= packed_max_k.
  void (*multiply_few)(float* c, int64_t ldc, MatrixView<float> a, MatrixView<float> b, int64_t m, int64_t n,
                       int64_t k, int64_t k_step, float alpha, float beta, const float* bias);
  // A panel's columns of coded_matmul (coded_matmul.h).
  void (*multiply_coded)(float* c, int64_t ldc, const float* a, int64_t lda, const CodedMatrix& panel,
                         int64_t m, int64_t columns, int64_t k, int64_t k_step, const float* bias);
};
extern const PackedKernels packed_avx2, packed_avx512;

// A whole product, in blocks that fit the caches. scratch: packed_scratch floats, aligned to 64 bytes;
// m, n, k > 0.
void packed_matmul(const PackedKernels& kernels, float* c, int64_t ldc, MatrixView<float> a,
                   MatrixView<float> b, int64_t m, int64_t n, int64_t k, float alpha, float beta,
                   const float* bias, float* scratch);
// A block has at most 576 KiB of B and 433 KiB (AVX-512) or 217 KiB (AVX2) of A. Sums are cut at packed_max_k whatever the machine.
constexpr int64_t packed_max_k = 384, packed_max_n = 384, packed_max_strips = 18;
constexpr int64_t packed_few_rows = 4;
constexpr int64_t packed_a_size = packed_max_strips * 16 * (packed_max_k + 1);
constexpr int64_t packed_scratch = packed_max_k * packed_max_n + packed_a_size;

// The same for bf16 values, sums in f32. Memory of A and B is filled up with zeros to multiples of bf16_padding
// rows and columns, and m and n only cut off what is stored: blocks of A and B begin at such multiples.
// bf16_scratch words, aligned to 64 bytes.
constexpr int64_t bf16_padding = 32;
using Bf16Matmul = void(float* c, int64_t ldc, MatrixView<uint16_t> a, MatrixView<uint16_t> b, int64_t m,
                        int64_t n, int64_t k, float alpha, float beta, const float* bias, uint32_t* scratch);
Bf16Matmul matmul_amx, matmul_avx512_bf16;
constexpr int64_t bf16_scratch = 512 * (224 + 256);

// The best one for this CPU, null where it has no such instructions.
Bf16Matmul* bf16_matmul_for_this_cpu();

}  // namespace altgrad::cpu
