// Matrix products on one thread: the packed kernels where the CPU has the instructions for them, Eigen, single-
// threaded, for f64 and elsewhere.
#include <altgrad/core/cpu/eigen_maps.h>
#include <altgrad/core/cpu/isa.h>
#include <altgrad/core/cpu/matmul.h>
#include <altgrad/core/cpu/parallel.h>
#include <altgrad/core/internal/coded.h>
#include <altgrad/core/internal/instantiate.h>

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace altgrad::cpu {
namespace {

const PackedKernels* packed_kernels_for_this_cpu() {
  [[maybe_unused]] const Isa best = matmul_isa();
#if defined(ALTGRAD_X86_KERNELS)
  if (best >= Isa::avx512) return &packed_avx512;
  if (best >= Isa::avx2) return &packed_avx2;
#endif
  return nullptr;
}

// The kernels for T, null where Eigen has to do.
template <class T>
const PackedKernels* packed_kernels() {
  static const PackedKernels* const kernels =
      std::is_same_v<T, float> ? packed_kernels_for_this_cpu() : nullptr;
  return kernels;
}

// How much of B and of a transposed A makes a block. On a CPU with 512 KiB of L2, blocks of B of 384 columns were 3 % faster
// than those of 192, which fit L2 whole: what it cannot hold comes from L3 in time. So smaller caches alone make them
// smaller. (Zen 3, one thread, the layers of three GPTs.)
struct BlockSize {
  int64_t columns, strips;
};
const BlockSize& block_size() {
  static const BlockSize size = [] {
    const int64_t l2 = sysconf(_SC_LEVEL2_CACHE_SIZE), known = l2 > 0 ? l2 : 1 << 20, typical = 512 << 10;
    return BlockSize{std::clamp<int64_t>(packed_max_n * known / typical, 64, packed_max_n),
                     std::clamp<int64_t>(packed_max_strips * known / typical, 4, packed_max_strips)};
  }();
  return size;
}

// Are the k rows of a row-major B, of n floats, read where they lie, by m rows of A? Not if a panel's last vector reached
// beyond them. AVX-512 reads them well: a panel's row is two whole cache lines. AVX2 does where too few tiles would use
// what packing them costs, and where all rows lie within 128 KiB: rows further apart share cache sets and TLB entries,
// those that are multiples of 4 KiB apart most, which made products up to 2.1 times slower.
bool reads_in_place(const PackedKernels& kernels, MatrixView<float> b, int64_t m, int64_t n, int64_t k) {
  if (b.column != 1 || n % kernels.lanes != 0) return false;
  return kernels.lanes == 16 || m <= 16 || b.row * k <= 32768;
}

// B as the kernels read it for m rows of A: where it lies, or packed into `memory`.
Panels panels_of(const PackedKernels& kernels, float* memory, MatrixView<float> b, int64_t m, int64_t n,
                 int64_t k) {
  const int64_t panel = 2 * kernels.lanes;
  if (reads_in_place(kernels, b, m, n, k)) return {b.data, b.row, panel};
  kernels.pack(memory, b, k, n);
  return {memory, panel, k * panel};
}

// Blocks of equal depth, none much smaller than the others.
int64_t k_step_of(int64_t k) { return divide_up(k, divide_up(k, packed_max_k)); }

float* packing_scratch() { return static_cast<float*>(packing_memory(packed_scratch * sizeof(float))); }

template <class T>
void eigen_matmul(T* c, int64_t ldc, MatrixView<T> a, MatrixView<T> b, int64_t m, int64_t n, int64_t k,
                  T alpha, T beta, const T* bias) {
  auto C = block_at(c, m, n, ldc);
  if (beta == 0) {
    C.setZero();
  } else if (beta != 1) {
    C *= beta;
  }
  if (bias) C += block_at(bias, 1, n, n).replicate(m, 1);
  const bool trans_a = a.column != 1, trans_b = b.column != 1;
  const auto A = trans_a ? block_at(a.data, k, m, a.column) : block_at(a.data, m, k, a.row);
  const auto B = trans_b ? block_at(b.data, n, k, b.column) : block_at(b.data, k, n, b.row);
  if (trans_a && trans_b) C.noalias() += alpha * A.transpose() * B.transpose();
  if (trans_a && !trans_b) C.noalias() += alpha * A.transpose() * B;
  if (!trans_a && trans_b) C.noalias() += alpha * A * B.transpose();
  if (!trans_a && !trans_b) C.noalias() += alpha * A * B;
}

}  // namespace

Bf16Matmul* bf16_matmul_for_this_cpu() {
  [[maybe_unused]] const Isa best = matmul_isa();
#if defined(ALTGRAD_X86_KERNELS)
  if (best >= Isa::amx) return matmul_amx;
  if (best >= Isa::avx512_bf16) return matmul_avx512_bf16;
#endif
  return nullptr;
}

void packed_matmul(const PackedKernels& kernels, float* c, int64_t ldc, MatrixView<float> a,
                   MatrixView<float> b, int64_t m, int64_t n, int64_t k, float alpha, float beta,
                   const float* bias, float* scratch) {
  const int64_t panel = 2 * kernels.lanes;
  float* const memory = scratch;
  float* const packed_a = scratch + packed_max_k * packed_max_n;
  const int64_t k_step = k_step_of(k);
  if (m <= packed_few_rows && a.column == 1 && b.row == 1)
    return kernels.multiply_few(c, ldc, a, b, m, n, k, k_step, alpha, beta, bias);
  const int64_t n_step = divide_up(divide_up(n, divide_up(n, block_size().columns)), panel) * panel;
  for (int64_t p = 0; p < k; p += k_step, beta = 1, bias = nullptr) {
    const int64_t depth = std::min(k_step, k - p);
    for (int64_t j = 0; j < n; j += n_step) {
      const int64_t width = std::min(n_step, n - j);
      const Panels panels = panels_of(kernels, memory, at(b, p, j), m, width, depth);
      kernels.multiply(c + j, ldc, at(a, 0, p), panels, m, width, depth, alpha, beta,
                       bias ? bias + j : nullptr, packed_a, block_size().strips);
    }
  }
}

template <class T>
void matmul(T* c, int64_t ldc, MatrixView<T> a, MatrixView<T> b, int64_t m, int64_t n, int64_t k, T alpha,
            T beta, const T* bias) {
  if (m == 0 || n == 0) return;
  if constexpr (std::is_same_v<T, float>) {
    if (const PackedKernels* kernels = packed_kernels<T>(); kernels && k > 0) {
      return packed_matmul(*kernels, c, ldc, a, b, m, n, k, alpha, beta, bias, packing_scratch());
    }
  }
  eigen_matmul(c, ldc, a, b, m, n, k, alpha, beta, bias);
}

void coded_matmul(float* y, const float* x, const CodedMatrix& w, int64_t m, int64_t n, int64_t k,
                  const float* bias, int64_t first, int64_t end) {
  const PackedKernels* const kernels = packed_kernels<float>();
  for (int64_t panel = first; panel < end; ++panel) {
    const int64_t column = panel * coded_panel, columns = std::min(coded_panel, n - column);
    const CodedMatrix part{w.codes + column * k, w.shift, w.factor};
    const float* const added = bias ? bias + column : nullptr;
    if (kernels) {
      kernels->multiply_coded(y + column, n, x, k, part, m, columns, k, k_step_of(k), added);
      continue;
    }
    for (int64_t r = 0; r < m; ++r) {
      float sum[coded_panel] = {};
      for (int64_t i = 0; i < k; ++i) {
        for (int64_t j = 0; j < coded_panel; ++j)
          sum[j] += x[r * k + i] * coded_value(w.codes[coded_place(column + j, i, k)], w.shift, w.factor);
      }
      for (int64_t j = 0; j < columns; ++j) y[r * n + column + j] = sum[j] + (added ? added[j] : 0);
    }
  }
}

template <class T>
bool sums_follow_sizes() {
  return !packed_kernels<T>();
}

template <class T>
int64_t PackedB<T>::size(int64_t k, int64_t n) {
  const PackedKernels* kernels = packed_kernels<T>();
  return kernels ? divide_up(n, 2 * kernels->lanes) * 2 * kernels->lanes * k : 0;
}

template <class T>
PackedB<T>::PackedB(T* memory, MatrixView<T> b, int64_t k, int64_t n, int64_t m) : b_(b), panels_{} {
  if constexpr (std::is_same_v<T, float>) {
    if (const PackedKernels* kernels = packed_kernels<T>()) panels_ = panels_of(*kernels, memory, b, m, n, k);
  }
}

template <class T>
void PackedB<T>::multiply(T* c, int64_t ldc, MatrixView<T> a, int64_t m, int64_t n, int64_t k, T alpha,
                          T beta) const {
  if (m == 0 || n == 0) return;
  if constexpr (std::is_same_v<T, float>) {
    if (const PackedKernels* kernels = packed_kernels<T>(); kernels && k > 0) {
      for (int64_t p = 0; p < k; p += packed_max_k, beta = 1) {
        const Panels rows{panels_.data + p * panels_.row, panels_.row, panels_.panel};
        kernels->multiply(c, ldc, at(a, 0, p), rows, m, n, std::min(packed_max_k, k - p), alpha, beta,
                          nullptr, packing_scratch(), block_size().strips);
      }
      return;
    }
  }
  eigen_matmul<T>(c, ldc, a, b_, m, n, k, alpha, beta, nullptr);
}

AG_INSTANTIATE_FLOATING(matmul)
AG_INSTANTIATE_FLOATING(sums_follow_sizes)
template class PackedB<float>;
template class PackedB<double>;

}  // namespace altgrad::cpu
