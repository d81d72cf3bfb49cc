// Matrix products shared among threads in a grid of blocks of C. No sum is cut; where Eigen makes a block, which cuts sums
// by its sizes, the grid is the same for any number of threads, so that the result is too.
#include <altgrad/core/cpu/matmul.h>
#include <altgrad/core/cpu/parallel.h>
#include <altgrad/core/internal/instantiate.h>
#include <altgrad/core/internal/kernels/gemm.h>
#include <altgrad/core/internal/kernels/reduce.h>
#include <altgrad/core/memory.h>

#include <algorithm>
#include <cstdint>

namespace altgrad::kernels {
inline namespace on_cpu {
namespace {

// Below this many multiplications for each thread, starting threads costs more than it saves.
constexpr int64_t work_per_thread = 1 << 16;
// Columns and rows that blocks are cut at: a panel of B; a tile of f32 costs what its rows cost, however many.
constexpr int64_t block_columns = 32, f32_rows = 1, bf16_rows = 32;

// What it costs to read a row of A and a column of B, in multiplications for each of its elements; the latter where B
// is packed, which each thread does for itself, and where it is read as it lies. (Measured on two cores of a Zen 4.)
constexpr int64_t row_cost = 40, packed_column_cost = 24, column_cost = 4;

// f(first row, rows, first column, columns) for the blocks of an (m, n) result, one for each thread: of the grids
// that a number of threads allows, the one whose largest block costs least. A thread has the same rows each time, as
// in other kernels: what it wrote is in its cache.
template <class F>
void for_blocks(int64_t m, int64_t n, int64_t k, int64_t block_rows, bool packs_b, F&& f) {
  const double work = double(m) * double(n) * double(k);
  const int64_t threads = int64_t(std::clamp<double>(work / double(work_per_thread), 1, num_threads()));
  const int64_t units_m = divide_up(m, block_rows), units_n = divide_up(n, block_columns);
  int64_t across = 1, lowest_cost = INT64_MAX;
  for (int64_t columns = 1; columns <= threads; ++columns) {
    if (threads % columns != 0) continue;
    const int64_t high = divide_up(units_m, threads / columns) * block_rows,
                  wide = divide_up(units_n, columns) * block_columns;
    const int64_t cost = high * wide + row_cost * high + (packs_b ? packed_column_cost : column_cost) * wide;
    if (cost < lowest_cost) across = columns, lowest_cost = cost;
  }
  const int64_t down = threads / across;
  parallel_tasks(threads, [&](int64_t task) {
    const int64_t i = task / across, j = task % across;
    const int64_t row = units_m * i / down * block_rows, column = units_n * j / across * block_columns;
    const int64_t end_row = std::min(m, units_m * (i + 1) / down * block_rows),
                  end_column = std::min(n, units_n * (j + 1) / across * block_columns);
    if (row < end_row && column < end_column) f(row, end_row - row, column, end_column - column);
  });
}

// for_blocks on a grid that depends on the sizes alone.
template <class F>
void for_fixed_blocks(int64_t m, int64_t n, F&& f) {
  constexpr int64_t rows = 64, columns = 256;
  const int64_t across = divide_up(n, columns);
  parallel_tasks(divide_up(m, rows) * across, [&](int64_t task) {
    const int64_t row = task / across * rows, column = task % across * columns;
    f(row, std::min(rows, m - row), column, std::min(columns, n - column));
  });
}

template <class T, class F>
void for_blocks_of(int64_t m, int64_t n, int64_t k, bool packs_b, F&& f) {
  cpu::sums_follow_sizes<T>() ? for_fixed_blocks(m, n, f) : for_blocks(m, n, k, f32_rows, packs_b, f);
}

double alpha_of(const Gemm& g) {
  return g.alpha * ((g.scale_a ? double(*g.scale_a) : 1) * (g.scale_b ? double(*g.scale_b) : 1));
}

template <class T>
cpu::MatrixView<T> operand(const T* data, bool trans, int64_t rows, int64_t columns) {
  return trans ? cpu::MatrixView<T>{data, 1, rows} : cpu::MatrixView<T>{data, columns, 1};
}

// A matrix as the bf16 kernels read it: where its sizes are no multiples of their padding, a copy that is filled up with
// zeros.
class Padded {
 public:
  Padded(const bfloat16* x, bool trans, int64_t rows, int64_t columns) {
    const int64_t height = trans ? columns : rows, width = trans ? rows : columns;
    const int64_t stride = round_up(width, cpu::bf16_padding),
                  padded_height = round_up(height, cpu::bf16_padding);
    const auto* data = reinterpret_cast<const uint16_t*>(x);
    if (stride != width || padded_height != height) {
      memory_ =
          detail::Ref(new detail::Storage(size_t(stride * padded_height) * sizeof(uint16_t), Device::cpu()));
      auto* const copy = static_cast<uint16_t*>(memory_->data);
      parallel_for(padded_height, 1 + (1 << 15) / stride, [=](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          uint16_t* const row = copy + r * stride;
          const int64_t used = r < height ? width : 0;
          if (used) std::copy_n(data + r * width, used, row);
          std::fill(row + used, row + stride, uint16_t(0));
        }
      });
      data = copy;
    }
    operand = trans ? cpu::MatrixView<uint16_t>{data, 1, stride} : cpu::MatrixView<uint16_t>{data, stride, 1};
  }
  cpu::MatrixView<uint16_t> operand;

 private:
  detail::Ref<detail::Storage> memory_;
};

cpu::Bf16Matmul* bf16_product() {
  static cpu::Bf16Matmul* const product = cpu::bf16_matmul_for_this_cpu();
  return product;
}

}  // namespace

template <class T>
void gemm(const Cpu&, T* c, const T* a, const T* b, const Gemm& g) {
  if (g.m == 0 || g.n == 0) return;
  const auto A = operand(a, g.trans_a, g.m, g.k), B = operand(b, g.trans_b, g.k, g.n);
  const T alpha = T(alpha_of(g));
  if (g.batch == 1) {
    for_blocks_of<T>(g.m, g.n, g.k, g.trans_b,
                     [&](int64_t row, int64_t rows, int64_t column, int64_t columns) {
                       cpu::matmul(c + row * g.n + column, g.n, at(A, row, 0), at(B, 0, column), rows,
                                   columns, g.k, alpha, T(g.beta));
                     });
  } else {
    parallel_tasks(g.batch, [&](int64_t i) {
      cpu::matmul<T>(c + i * g.stride_c, g.n, {a + i * g.stride_a, A.row, A.column},
                     {b + i * g.stride_b, B.row, B.column}, g.m, g.n, g.k, alpha, T(g.beta));
    });
  }
}

template <class T>
void linear(const Cpu&, T* y, const T* x, const T* w, const T* bias, int64_t rows, int64_t n, int64_t k) {
  if (rows == 0 || n == 0) return;
  const auto X = operand(x, false, rows, k), W = operand(w, true, k, n);
  for_blocks_of<T>(rows, n, k, true, [&](int64_t row, int64_t count, int64_t column, int64_t columns) {
    cpu::matmul(y + row * n + column, n, at(X, row, 0), at(W, 0, column), count, columns, k, T(1), T(0),
                bias ? bias + column : nullptr);
  });
}

template <class T>
void linear_grad(const Cpu& cpu, T* dw, double beta, T* db, const T* dy, const T* x, int64_t rows, int64_t n,
                 int64_t k) {
  if (dw) gemm(cpu, dw, dy, x, {.m = n, .n = k, .k = rows, .trans_a = true, .beta = beta});
  if (db && rows == 1) {
    std::copy_n(dy, n, db);  // a sum would make 0 of -0
  } else if (db) {
    sum(cpu, db, dy, 1, rows, n, 1);
  }
}

bool has_bf16(const Cpu&) { return bf16_product() != nullptr; }

void gemm(const Cpu&, float* c, const bfloat16* a, const bfloat16* b, const float* bias, const Gemm& g) {
  if (g.m == 0 || g.n == 0) return;
  if (g.k == 0) {  // beta C + bias
    cpu::matmul<float>(c, g.n, {nullptr, 1, 1}, {nullptr, 1, 1}, g.m, g.n, 0, 0, float(g.beta), bias);
    return;
  }
  const auto alpha = float(alpha_of(g));
  const Padded A(a, g.trans_a, g.m, g.k), B(b, g.trans_b, g.k, g.n);
  for_blocks(g.m, g.n, g.k, bf16_rows, true, [&](int64_t row, int64_t rows, int64_t column, int64_t columns) {
    auto* memory = static_cast<uint32_t*>(packing_memory(cpu::bf16_scratch * sizeof(uint32_t)));
    bf16_product()(c + row * g.n + column, g.n, at(A.operand, row, 0), at(B.operand, 0, column), rows,
                   columns, g.k, alpha, float(g.beta), bias ? bias + column : nullptr, memory);
  });
}

AG_INSTANTIATE_FLOATING(gemm)
AG_INSTANTIATE_FLOATING(linear)
AG_INSTANTIATE_FLOATING(linear_grad)

}  // namespace on_cpu
}  // namespace altgrad::kernels
