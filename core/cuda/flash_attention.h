// Causal attention by tiles: on tensor cores (core/cuda/flash_attention.cu, flash_attention_grad.cu) or, of floats, in
// f32 (f32_attention.cu); what they share.
#pragma once

#include <altgrad/core/cuda/launch.h>
#include <altgrad/core/cuda/tiles.h>
#include <altgrad/core/internal/log_sum_exp.h>

#include <cmath>
#include <limits>

namespace altgrad::cuda {

// The kernels of core/internal/kernels/attention.h. Math says in what numbers to multiply, and what is stored.
template <class Math>
void flash_attention(const Cuda&, typename Math::Value* y, kernels::LogSumExp<float>* lse,
                     const typename Math::Value* qkv, int64_t batch, int64_t length, int64_t heads,
                     int64_t head_size);
template <class Math>
void flash_attention_grad(const Cuda&, typename Math::Value* dqkv, const typename Math::Value* dy,
                          const typename Math::Value* qkv, const typename Math::Value* y,
                          const kernels::LogSumExp<float>* lse, int64_t batch, int64_t length, int64_t heads,
                          int64_t head_size);

// Floats, in which f32_attention.cu computes all. Rows in shared memory are 16 bytes modulo 128 bytes apart, so that a
// piece of each of eight of them is read at once.
struct F32 {
  using Value = float;
  template <int columns>
  static constexpr int pitch = columns + 4;
};
template <>
void flash_attention<F32>(const Cuda&, float* y, kernels::LogSumExp<float>* lse, const float* qkv,
                          int64_t batch, int64_t length, int64_t heads, int64_t head_size);
template <>
void flash_attention_grad<F32>(const Cuda&, float* dqkv, const float* dy, const float* qkv, const float* y,
                               const kernels::LogSumExp<float>* lse, int64_t batch, int64_t length,
                               int64_t heads, int64_t head_size);

// Are rows of such heads whole pieces of 16 bytes, which is what copies to shared memory move?
constexpr int64_t largest_flash_head = 128;
template <class Math>
constexpr bool is_tiled(int64_t head_size) {
  return head_size <= largest_flash_head && head_size * sizeof(typename Math::Value) % 16 == 0;
}
// Is attention of such heads done by tiles on this device?
template <class Math>
bool has_flash_attention(const Cuda&, int64_t head_size) {
  return is_tiled<Math>(head_size);
}
template <>  // where its blocks may have the shared memory that tiles of floats take, which they may not on sm_86 and sm_89
bool has_flash_attention<F32>(const Cuda&, int64_t head_size);

namespace flash {

constexpr int warps = 4, threads = 32 * warps;
constexpr int m = 16;  // rows of a warp, queries or keys, whose sums its registers hold
// How many blocks a multiprocessor of sm_90 shall have registers for, and has shared memory for: what one waits for,
// others hide.
template <int columns>
constexpr int blocks_at_once = columns <= 64 ? 3 : 2;
constexpr float none = -std::numeric_limits<float>::infinity();  // a score that is left out

// The matrices of one head, in qkv and in what all heads give.
struct Head {
  int64_t position;                    // of its batch entry's first row
  int column, channels, length, size;  // its first channel, and how many all heads have

  AG_DEVICE Head(int pair, int length, int heads, int size)
      : position(int64_t(pair / heads) * length),
        column(pair % heads * size),
        channels(heads * size),
        length(length),
        size(size) {}
  template <class T>
  AG_DEVICE Matrix<T> q(T* qkv) const {
    return {qkv + position * 3 * channels + column, 3 * channels, length, size};
  }
  template <class T>
  AG_DEVICE Matrix<T> k(T* qkv) const {
    return q(qkv + channels);
  }
  template <class T>
  AG_DEVICE Matrix<T> v(T* qkv) const {
    return q(qkv + 2 * channels);
  }
  template <class T>
  AG_DEVICE Matrix<T> y(T* of_heads) const {
    return {of_heads + position * channels + column, channels, length, size};
  }
};

// A block's piece of a head: a warp has m positions of it, from `first` on. Blocks that follow one another share a
// head, which the cache then holds; the first of them has the head's first piece, or its last where it is descending.
struct Piece {
  int pair, index, first;

  AG_DEVICE Piece(int length, bool descending) {
    const int pieces = (length + warps * m - 1) / (warps * m), i = int(blockIdx.x % unsigned(pieces));
    pair = int(blockIdx.x / unsigned(pieces));
    index = descending ? pieces - 1 - i : i;
    first = (index * warps + warp()) * m;
  }
};

// What rows take of shared memory.
template <class Math, int count, int columns>
constexpr size_t rows_bytes = count* Math::template pitch<columns> * sizeof(typename Math::Value);

// `count` rows of a matrix from `first` on go to shared memory, by all threads of the block. They are there when these
// have waited for their copies and for each other.
template <class Math, int count, int columns>
AG_DEVICE void load_rows(typename Math::Value* to, const Matrix<const typename Math::Value>& from,
                         int first AG_PLACE) {
  constexpr int pitch = Math::template pitch<columns>, chunk = 16 / sizeof(typename Math::Value),
                chunks = columns / chunk,
                wide = chunks & -chunks,  // chunks of a row that threads copy side by side
      high = threads / wide;
  static_assert(count % high == 0);
  const int row = int(threadIdx.x) / wide, column = int(threadIdx.x) % wide * chunk;
  const auto* const source = from.row(first + row) + column;
  auto* const target = to + row * pitch + column;
  AG_UNROLL for (int r = 0; r < count; r += high) {
    AG_UNROLL for (int c = 0; c < columns; c += wide * chunk) {
      const bool is_there = first + row + r < from.rows && column + c < from.columns;
      AG_AT_PLACE(copy_async, target + r * pitch + c, source + r * from.stride + c, is_there);
    }
  }
}

// Tiles of the same rows of two matrices in shared memory, as many as there are stages: those that products are made
// of, and those that are on their way.
template <class Math, int rows, int columns, int stages = 2>
struct Tiles {
  using Value = typename Math::Value;
  static constexpr int size = rows * Math::template pitch<columns>;
  static constexpr size_t bytes = 2 * stages * size * sizeof(Value);

  Matrix<const Value> a, b;

  AG_DEVICE Value* of_a(int tile) const { return shared_memory<Value>() + tile % stages * 2 * size; }
  AG_DEVICE Value* of_b(int tile) const { return of_a(tile) + size; }
  AG_DEVICE Value* end() const { return shared_memory<Value>() + 2 * stages * size; }
  AG_DEVICE void load_a(int tile AG_PLACE) const {
    AG_AT_PLACE((load_rows<Math, rows, columns>), of_a(tile), a, tile * rows);
  }
  AG_DEVICE void load_b(int tile AG_PLACE) const {
    AG_AT_PLACE((load_rows<Math, rows, columns>), of_b(tile), b, tile * rows);
  }
  AG_DEVICE void load(int tile AG_PLACE) const {
    AG_AT_PLACE(load_a, tile);
    AG_AT_PLACE(load_b, tile);
    commit_copies();
  }
};

// Copies what is known of a tile's n queries to its place in shared memory; the tile's matrices, loaded after it, tell
// when it is there. Queries after the last have weights of 0.
template <int n, int stages = 2, class Query>
AG_DEVICE void load_queries(Query* of_tiles, const Query* of_head, int tile, int length) {
  if (const int i = int(threadIdx.x), query = tile * n + i; i < n) {
    Query* const to = of_tiles + tile % stages * n + i;
    if (query < length) {
      copy_async(to, of_head + query);
    } else {
      *to = {-none, 0, 0, 0};
    }
  }
}

// Calls f with the number of columns that heads of this size are padded to.
template <class F>
void with_columns(int64_t head_size, F f) {
  if (head_size <= 32) return f(std::integral_constant<int, 32>());
  if (head_size <= 64) return f(std::integral_constant<int, 64>());
  if (head_size <= 96) return f(std::integral_constant<int, 96>());
  f(std::integral_constant<int, 128>());
}

// A block for each piece of each head, whose warps have m positions.
template <class... P, class... A>
void launch_pieces(const Cuda& device, const char* name, void (*kernel)(P...), int64_t pairs, int64_t length,
                   size_t shared_bytes, const A&... arguments) {
  check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)),
        name);
  const int64_t pieces = (length + warps * m - 1) / (warps * m);
  launch(name, kernel, device.stream, {unsigned(pairs * pieces), threads, shared_bytes}, arguments...);
}

}  // namespace flash
}  // namespace altgrad::cuda
