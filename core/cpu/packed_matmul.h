// A matrix product for f32, written in vectors of `lanes` floats and compiled once for each instruction set, by
// matmul_avx512.cpp and matmul_avx2.cpp. The scheme is Goto & van de Geijn's ("Anatomy of high-performance
// matrix multiplication", 2008):
//
//                    B, a block of k rows        panel: 2 vectors wide, its k rows one after the other in memory,
//                    +------+------+------+      read again for each strip from the L2 cache, or from L3
//                    |panel |      |      |
//                    +------+------+------+
//     +-----------+  +------+------+------+
//     | strip of A|  | tile | ->   |      |      tile: max_rows x 2 vectors of C, whose sums stay in registers
//     +-----------+  +------+------+------+
//     |           |  |      |      |      |      strip: max_rows rows of A, read again for each panel from L1
//     A            C
//
// A row-major A is read where it lies, as a broadcast does not mind strides, and a transposed one is packed into strips.
// Whether B is packed is for reads_in_place() in matmul.cpp to say.
//
// The CPU that runs this program may lack these instructions, and the linker keeps one copy of an inline
// function: so nothing here has external linkage but the entry, and no header with inline functions is used but the
// compiler's intrinsics. fma() is one of these, as compilers break up what they take for a chain of additions that is too
// slow: then a product of one row would have other bits than one of many.
#pragma once

#include <altgrad/core/cpu/matmul.h>
#if defined(__FMA__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC bug 105593: both set off by its own intrinsics
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#else
#include <xmmintrin.h>
#endif

namespace altgrad::cpu {
namespace {

constexpr int64_t panel = 2 * lanes;                // columns of a packed panel of B
constexpr int64_t max_rows = lanes == 16 ? 14 : 6;  // of a tile, which has 28 of 32 registers, 12 of 16
constexpr int k_unrolled = lanes == 16 ? 1 : 4;
constexpr int64_t strip_rows = lanes;  // floats for each k in a packed strip of A, of which max_rows are used
constexpr int64_t strip_size(int64_t k) { return (k + 1) * strip_rows; }  // odd, or strips share cache sets
static_assert(packed_max_strips * strip_size(packed_max_k) <= packed_a_size);

typedef float Vector __attribute__((vector_size(lanes * sizeof(float))));

// a b + c, rounded once.
#if defined(__FMA__)
inline __m128 fma(__m128 a, __m128 b, __m128 c) { return _mm_fmadd_ps(a, b, c); }
inline __m256 fma(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
#if defined(__AVX512F__)
inline __m512 fma(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
#endif
#else  // a test compiles this for any x86-64, and rounds twice
template <class V>
V fma(V a, V b, V c) {
  return a * b + c;
}
#endif

Vector load(const float* p) {
  Vector x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
Vector broadcast(float x) { return x - Vector{}; }
void store(float* p, Vector x) { __builtin_memcpy(p, &x, sizeof x); }

// Prefetches `rows` rows of `columns` floats to the L2 cache, which waits for memory in many places at once, L1 in few.
void prefetch(const float* from, int64_t row, int64_t columns, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; c += 16) __builtin_prefetch(from + r * row + c, 0, 2);
  }
}

int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// C (R, columns) = alpha A B + beta C + bias: element k of A's row r is a[r * a_row + k * a_k], B's rows are b_row
// apart, bias may be null.
template <int R, int V>
[[gnu::always_inline]] inline void multiply_tile(float* c, int64_t ldc, const float* a, int64_t a_row,
                                                 int64_t a_k, const float* b, int64_t b_row, int64_t k,
                                                 int64_t columns, float alpha, float beta,
                                                 const float* bias) {
  Vector sum[R][V] = {};
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {  // C is on its way while the sums are made
    __builtin_prefetch(c + r * ldc, 1);
    if (V == 2) __builtin_prefetch(c + r * ldc + lanes, 1);
  }
  const float *a5 = a + 5 * a_row, *a10 = a + 10 * a_row;  // few enough addresses to stay in registers
#pragma GCC unroll k_unrolled
  for (int64_t i = 0; i < k; ++i, a += a_k, a5 += a_k, a10 += a_k, b += b_row) {
    Vector row[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      row[v] = load(b + v * lanes);
      if (v * lanes % 16 == 0) __builtin_prefetch(b + 12 * b_row + v * lanes);  // once a cache line
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      // Chosen first and subscripted then: in one expression GCC 12 under UBSan evaluates the subscript wrongly.
      const float* const first = r < 5 ? a : r < 10 ? a5 : a10;
      const float x = first[r % 5 * a_row];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[r][v] = fma(broadcast(x), row[v], sum[r][v]);
    }
  }
  if (columns == V * lanes) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      const Vector first = bias ? load(bias + v * lanes) : Vector{};
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        float* y = c + r * ldc + v * lanes;
        const Vector value = alpha * sum[r][v] + first;
        store(y, beta == 0 ? value : value + beta * load(y));
      }
    }
    return;
  }
  float rest[R][V * lanes];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) store(rest[r] + v * lanes, sum[r][v]);
  }
  for (int r = 0; r < R; ++r) {
    for (int64_t j = 0; j < columns; ++j) {
      float& y = c[r * ldc + j];
      const float value = alpha * rest[r][j] + (bias ? bias[j] : 0);
      y = beta == 0 ? value : value + beta * y;
    }
  }
}

// Strides of A that the compiler knows become constants in loads: computing addresses would be a fifth of AVX2's loop.
template <int R, int V>
void tile(float* c, int64_t ldc, const float* a, int64_t a_row, int64_t a_k, const float* b, int64_t b_row,
          int64_t k, int64_t columns, float alpha, float beta, const float* bias) {
  if (lanes == 16 || (a_k != 1 && a_k != strip_rows)) {
    multiply_tile<R, V>(c, ldc, a, a_row, a_k, b, b_row, k, columns, alpha, beta, bias);
  } else if (a_k == 1) {
    multiply_tile<R, V>(c, ldc, a, a_row, 1, b, b_row, k, columns, alpha, beta, bias);
  } else {
    multiply_tile<R, V>(c, ldc, a, 1, strip_rows, b, b_row, k, columns, alpha, beta, bias);
  }
}

// tile<R, V> for a number of rows known at run time: of[R - 1].
template <int V, int... R>
struct Tiles {
  static constexpr decltype(&tile<1, V>) of[] = {tile<R, V>...};
};
template <int V, int64_t = lanes>
struct TilesOf : Tiles<V, 1, 2, 3, 4, 5, 6> {};
template <int V>
struct TilesOf<V, 16> : Tiles<V, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14> {};

// `count` panels, whole and side by side, of a row-major B: few enough for a cache set to hold a line of each, and in each
// row a run of lines that the CPU fetches in one go.
void pack_rows(float* out, const float* from, int64_t row, int64_t k, int64_t count) {
  for (int64_t i = 0; i < k; ++i, from += row, out += panel) {
    for (int64_t q = 0; q < count; ++q) {
      __builtin_prefetch(from + 8 * row + q * panel);
      for (int64_t c = 0; c < panel; c += lanes) store(out + q * k * panel + c, load(from + q * panel + c));
    }
  }
}

// B (k, n) into panels of rows of `panel` floats, the last panel filled up with zeros.
void pack_b(float* out, MatrixView<float> b, int64_t k, int64_t n) {
  if (b.column == 1) {
    while (n >= panel) {
      const int64_t count = min(4, n / panel);
      pack_rows(out, b.data, b.row, k, count);
      out += count * panel * k, b.data += count * panel, n -= count * panel;
    }
  }
  for (int64_t j = 0; j < n; j += panel, out += k * panel) {
    const float* from = b.data + j * b.column;
    if (n - j < panel) {
      for (int64_t i = 0; i < k; ++i) {
        for (int64_t c = 0; c < panel; ++c) {
          out[i * panel + c] = c < n - j ? from[i * b.row + c * b.column] : 0;
        }
      }
    } else {  // transposed, in squares of 4 x 4
      const int64_t squares = k / 4 * 4;
      for (int64_t i = 0; i < squares; i += 4) {
        if (i % 16 == 0) prefetch(from + i + panel * b.column, b.column, 16, panel);  // the next panel
        for (int64_t c = 0; c < panel; c += 4) {
          const float* corner = from + i + c * b.column;
          __m128 r0 = _mm_loadu_ps(corner), r1 = _mm_loadu_ps(corner + b.column),
                 r2 = _mm_loadu_ps(corner + 2 * b.column), r3 = _mm_loadu_ps(corner + 3 * b.column);
          _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
          float* to = out + i * panel + c;
          _mm_store_ps(to, r0);
          _mm_store_ps(to + panel, r1);
          _mm_store_ps(to + 2 * panel, r2);
          _mm_store_ps(to + 3 * panel, r3);
        }
      }
      for (int64_t i = squares; i < k; ++i) {
        for (int64_t c = 0; c < panel; ++c) out[i * panel + c] = from[i + c * b.column];
      }
    }
  }
}

// The rows of A that tiles [begin, end) of m_tiles read, in strips of their own: rows first[0], first[1], ...
struct Strips {
  int64_t first[packed_max_strips + 1];
  Strips(int64_t m, int64_t m_tiles, int64_t begin, int64_t end) {
    for (int64_t t = begin; t <= end; ++t) first[t - begin] = m * t / m_tiles;
  }
};

// `count` strips of a column-major A of m rows, each k's rows side by side. All strips of a k are read together:
// they are neighbours in memory, which is read in streams or slowly.
void pack_a(float* out, MatrixView<float> a, int64_t m, const Strips& strips, int64_t count, int64_t k) {
  int64_t whole = count;  // strips that can be read strip_rows wide
  while (whole > 0 && strips.first[whole - 1] + strip_rows > m) --whole;
  for (int64_t i = 0; i < k; ++i) {
    const float* column = a.data + i * a.column;
    for (int64_t r = strips.first[0]; lanes == 8 && r < strips.first[count]; r += 16) {
      __builtin_prefetch(column + 8 * a.column + r);  // measured with AVX2 alone
    }
    float* to = out + i * strip_rows;
    for (int64_t s = 0; s < whole; ++s, to += strip_size(k)) {
      for (int64_t r = 0; r < strip_rows; r += lanes) store(to + r, load(column + strips.first[s] + r));
    }
    for (int64_t s = whole; s < count; ++s, to += strip_size(k)) {
      for (int64_t r = strips.first[s]; r < strips.first[s + 1]; ++r) to[r - strips.first[s]] = column[r];
    }
  }
}

// A row-major strip of A, copied so that its rows no longer share cache sets.
MatrixView<float> copied(float* out, MatrixView<float> strip, int64_t rows, int64_t k) {
  const int64_t stride = divide_up(k, 2 * lanes) * 2 * lanes + lanes;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < k; ++i) out[r * stride + i] = strip.data[r * strip.row + i];
  }
  return {out, stride, 1};
}

// PackedKernels::multiply.
void multiply(float* c, int64_t ldc, MatrixView<float> a, Panels b, int64_t m, int64_t n, int64_t k,
              float alpha, float beta, const float* bias, float* packed_a, int64_t max_strips) {
  const bool packs = a.column != 1 && n > 2 * panel;         // else A is read twice at most
  const bool collides = a.column == 1 && a.row % 1024 == 0;  // rows of A share cache sets
  const int64_t m_tiles = divide_up(m, max_rows);
  for (int64_t t = 0; t < m_tiles; t += max_strips) {
    const int64_t count = min(max_strips, m_tiles - t);
    const Strips strips(m, m_tiles, t, t + count);
    if (packs) pack_a(packed_a, a, m, strips, count, k);
    for (int64_t s = 0; s < count; ++s) {
      const int64_t i = strips.first[s], rows = strips.first[s + 1] - i;
      MatrixView<float> strip{a.data + i * a.row, a.row, a.column};
      if (packs) strip = {packed_a + s * strip_size(k), 1, strip_rows};
      if (collides) strip = copied(packed_a, strip, rows, k);
      for (int64_t q = 0; q < n; q += panel) {
        const int64_t columns = min(panel, n - q);
        const auto run = (columns > lanes ? TilesOf<2>::of : TilesOf<1>::of)[rows - 1];
        run(c + i * ldc + q, ldc, strip.data, strip.row, strip.column, b.data + q / panel * b.panel, b.row, k,
            columns, alpha, beta, bias ? bias + q : nullptr);
      }
    }
  }
}

// Columns of a B that is stored transposed, as R rows of A multiply them: two squares of 4 x 4 at a time are transposed in
// registers. The sums are those of multiply_tile, one after the other.
constexpr int64_t few_columns = 8;

template <int R>
void few_rows_tile(float* c, int64_t ldc, const float* a, int64_t a_row, const float* b, int64_t b_row,
                   int64_t k, int64_t columns, float alpha, float beta, const float* bias) {
  __m128 sum[R][2] = {};
  const auto add = [&](int64_t i, int half, __m128 column) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) sum[r][half] = fma(_mm_set1_ps(a[r * a_row + i]), column, sum[r][half]);
  };
  const int64_t squares = k / 4 * 4;
  for (int64_t i = 0; i < squares; i += 4) {
    if (i % 16 == 0) prefetch(b + i + few_columns * b_row, b_row, 1, few_columns);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const float* const corner = b + 4 * half * b_row + i;
      __m128 r0 = _mm_loadu_ps(corner), r1 = _mm_loadu_ps(corner + b_row),
             r2 = _mm_loadu_ps(corner + 2 * b_row), r3 = _mm_loadu_ps(corner + 3 * b_row);
      _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
      add(i, half, r0), add(i + 1, half, r1), add(i + 2, half, r2), add(i + 3, half, r3);
    }
  }
  for (int64_t i = squares; i < k; ++i) {
    for (int half = 0; half < 2; ++half) {
      const float* const x = b + 4 * half * b_row + i;
      add(i, half, __m128{x[0], x[b_row], x[2 * b_row], x[3 * b_row]});
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int64_t j = 0; j < columns; ++j) {
      float& y = c[r * ldc + j];
      const float value = alpha * sum[r][j / 4][j % 4] + (bias ? bias[j] : 0);
      y = beta == 0 ? value : value + beta * y;
    }
  }
}

// PackedKernels::multiply_few.
void multiply_few(float* c, int64_t ldc, MatrixView<float> a, MatrixView<float> b, int64_t m, int64_t n,
                  int64_t k, int64_t k_step, float alpha, float beta, const float* bias) {
  constexpr decltype(&few_rows_tile<1>) tiles[] = {few_rows_tile<1>, few_rows_tile<2>, few_rows_tile<3>,
                                                   few_rows_tile<4>};
  static_assert(sizeof tiles / sizeof *tiles == packed_few_rows);
  float last[few_columns * packed_max_k];
  for (int64_t j = 0; j < n; j += few_columns) {
    const int64_t columns = min(few_columns, n - j);
    for (int64_t p = 0; p < k; p += k_step) {
      const int64_t depth = min(k_step, k - p);
      const float* rows = b.data + j * b.column + p;
      int64_t row = b.column;
      if (columns < few_columns) {  // filled up with the last one
        for (int64_t r = 0; r < few_columns; ++r)
          __builtin_memcpy(last + r * depth, rows + min(r, columns - 1) * row, size_t(depth) * sizeof(float));
        rows = last, row = depth;
      }
      tiles[m - 1](c + j, ldc, a.data + p, a.row, rows, row, depth, columns, alpha, p == 0 ? beta : 1,
                   bias && p == 0 ? bias + j : nullptr);
    }
  }
}

}  // namespace
}  // namespace altgrad::cpu
