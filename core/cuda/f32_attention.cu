// Causal attention of floats by tiles: what flash_attention.cu and flash_attention_grad.cu compute, with scores,
// weights and sums in f32; products are in f32, too, or in tf32 by tensor cores (f32_tiles.h). A warp has 16 rows,
// queries or keys. The weights of a tile go through shared memory, where only their own warp sees them. Inf and NaN
// reach other rows of the same tile there as well.
#include <altgrad/core/cuda/f32_tiles.h>
#include <altgrad/core/internal/math.h>
#include <altgrad/core/matmul_precision.h>

namespace altgrad::cuda {
namespace flash {
namespace {

// The rows of a tile: as many as leave a multiprocessor of sm_90 shared memory for two blocks, where heads are not wider
// than 64.
template <int columns>
constexpr int forward_tile = columns <= 64 ? 64 : 32;
constexpr int grad_tile = 32;

template <int rows, int columns>
constexpr int size_of = Tiles<F32, rows, columns>::size;

template <class Lanes, int columns, int n = forward_tile<columns>>
__global__ void __launch_bounds__(threads, 2)
    forward_kernel(float* y, kernels::LogSumExp<float>* lse, const float* qkv, int length, int heads,
                   int size) {
  begin_kernel();
  const Piece piece(length, true);  // those that have most to do come first
  const int first = piece.first, end = std::min((piece.index + 1) * warps * m, length);
  const Head head(piece.pair, length, heads, size);
  const Tiles<F32, n, columns> tiles = {head.k(qkv), head.v(qkv)};
  const float scale = 1 / sqrtf(float(size));

  float* const of_q = tiles.end();
  float* const weights = of_q + size_of<warps * m, columns> + warp() * size_of<m, n>;
  load_rows<F32, warps * m, columns>(of_q, head.q(qkv), piece.index * warps * m);
  tiles.load(0);
  constexpr int height = Lanes::height;
  float top[height], total[height];
  AG_UNROLL for (int i = 0; i < height; ++i) top[i] = none, total[i] = 0;
  Part<Lanes, columns> sums;
  for (int tile = 0; tile * n < end; ++tile) {
    wait_for_copies();
    __syncthreads();  // the tile is there, and nobody needs the one before
    const int first_key = tile * n;
    if (first_key + n < end) tiles.load(tile + 1);
    if (first_key >= first + m) continue;
    Part<Lanes, n> s;
    Lanes::template add_abt<n, columns>(s, of_q + warp() * size_of<m, columns>, tiles.of_a(tile));
    each_score(
        [&](int i, int key, float& x) { x = first_key + key > first + row_of<Lanes>(i) ? none : scale * x; },
        s);
    AG_UNROLL for (int i = 0; i < height; ++i) {
      float now = top[i];
      AG_UNROLL for (int j = 0; j < n / (2 * height); ++j) now = fmaxf(now, s.at[i][j]);
      now = reduce_lanes<Lanes>(now, [](float a, float b) { return fmaxf(a, b); });
      const float base = now == none ? 0 : now;  // else -inf - -inf
      const float rescale = math::exp_bounded(top[i] - base);
      top[i] = now;
      total[i] *= rescale;
      AG_UNROLL for (int j = 0; j < n / (2 * height); ++j) {
        s.at[i][j] = math::exp_bounded(s.at[i][j] - base);
        total[i] += s.at[i][j];
      }
      AG_UNROLL for (int j = 0; j < columns / (2 * height); ++j) sums.at[i][j] *= rescale;
    }
    share(weights, s);
    Lanes::template add_ab<columns, n>(sums, weights, tiles.of_b(tile));
  }

  float inverse[height];
  AG_UNROLL for (int i = 0; i < height; ++i) {
    total[i] = reduce_lanes<Lanes>(total[i], Add());
    inverse[i] = 1 / total[i];
    const int query = first + row_of<Lanes>(i);
    if (lane() % (2 * height) == 0 && query < length)
      lse[int64_t(piece.pair) * length + query] = {top[i], logf(total[i])};
  }
  store_sums(head.y(y), first, sums, inverse);
}

// What the weights and their gradients of a query are made of.
struct alignas(16) Query {
  float top, log_sum, delta, unused;  // 16 bytes are copied, of which none may be without a value
  AG_DEVICE float p(float score) const { return math::exp_bounded((score - top) - log_sum); }
};

template <class Lanes, int columns, int n = grad_tile>
__global__ void __launch_bounds__(threads, 2)
    dq_kernel(float* dqkv, Query* of_queries, const float* dy, const float* qkv, const float* y,
              const kernels::LogSumExp<float>* lse, int length, int heads, int size) {
  begin_kernel();
  const Piece piece(length, true);  // those that have most to do come first
  const int first = piece.first, end = std::min((piece.index + 1) * warps * m, length);
  const Head head(piece.pair, length, heads, size);
  const Tiles<F32, n, columns> tiles = {head.k(qkv), head.v(qkv)};
  const auto of_dy = head.y(dy), of_y = head.y(y);
  const float scale = 1 / sqrtf(float(size));

  constexpr int own_size = size_of<m, columns>;
  float *const of_q = tiles.end(), *const of_g = of_q + warps * own_size;
  float* const weights = of_g + warps * own_size + warp() * size_of<m, n>;
  load_rows<F32, warps * m, columns>(of_q, head.q(qkv), piece.index * warps * m);
  load_rows<F32, warps * m, columns>(of_g, of_dy, piece.index * warps * m);
  tiles.load(0);
  constexpr int height = Lanes::height;
  Query query[height];
  AG_UNROLL for (int i = 0; i < height; ++i) {
    const int row = first + row_of<Lanes>(i);
    const int64_t at = int64_t(piece.pair) * length + row;
    query[i] = {0, 0, 0, 0};
    if (row < length) {
      query[i] = {lse[at].top, lse[at].log_sum, 0, 0};
      for (int c = lane() % (2 * height); c < size; c += 2 * height)
        query[i].delta += of_dy.row(row)[c] * of_y.row(row)[c];
    }
    query[i].delta = reduce_lanes<Lanes>(query[i].delta, Add());
    if (row < length && lane() % (2 * height) == 0) of_queries[at] = query[i];
  }
  Part<Lanes, columns> dq;
  for (int tile = 0; tile * n < end; ++tile) {
    wait_for_copies();
    __syncthreads();  // the tile is there, and nobody needs the one before
    const int first_key = tile * n;
    if (first_key + n < end) tiles.load(tile + 1);
    if (first_key >= first + m) continue;
    Part<Lanes, n> s, dp;
    Lanes::template add_abt<n, columns>(s, of_q + warp() * own_size, tiles.of_a(tile));
    Lanes::template add_abt<n, columns>(dp, of_g + warp() * own_size, tiles.of_b(tile));
    each_score(
        [&](int i, int key, float& x, float d) {
          const bool later = first_key + key > first + row_of<Lanes>(i);
          x = later ? 0 : query[i].p(scale * x) * (d - query[i].delta);
        },
        s, dp);
    share(weights, s);
    Lanes::template add_ab<columns, n>(dq, weights, tiles.of_a(tile));
  }
  float scales[height];
  AG_UNROLL for (int i = 0; i < height; ++i) scales[i] = scale;
  store_sums(head.q(dqkv), first, dq, scales);
}

template <class Lanes, int columns, int n = grad_tile>
__global__ void __launch_bounds__(threads, 2)
    dkv_kernel(float* dqkv, const Query* of_queries, const float* dy, const float* qkv, int length, int heads,
               int size) {
  begin_kernel();
  AG_SHARED(Query, of_tiles, 2 * n);
  const Piece piece(length, false);
  const int first = piece.first;
  const Head head(piece.pair, length, heads, size);
  const Tiles<F32, n, columns> tiles = {head.q(qkv), head.y(dy)};
  const float scale = 1 / sqrtf(float(size));

  const auto load_tile = [&](int tile) {
    load_queries<n>(of_tiles, of_queries + int64_t(piece.pair) * length, tile, length);
    tiles.load(tile);
  };
  constexpr int own_size = size_of<m, columns>;
  float *const of_k = tiles.end(), *const of_v = of_k + warps * own_size;
  float* const weights = of_v + warps * own_size + warp() * size_of<m, n>;
  load_rows<F32, warps * m, columns>(of_k, head.k(qkv), piece.index * warps * m);
  load_rows<F32, warps * m, columns>(of_v, head.v(qkv), piece.index * warps * m);
  const int first_tile = piece.index * warps * m / n;
  load_tile(first_tile);
  Part<Lanes, columns> dk, dv;
  for (int tile = first_tile; tile * n < length; ++tile) {
    wait_for_copies();
    __syncthreads();  // the tile is there, and nobody needs the one before
    const int first_query = tile * n;
    if (first_query + n < length) load_tile(tile + 1);
    if (first_query + n <= first) continue;
    const Query* const of_tile = of_tiles + tile % 2 * n;
    Part<Lanes, n> p, dp;
    const auto earlier = [&](int i, int query) { return first_query + query < first + row_of<Lanes>(i); };
    Lanes::template add_abt<n, columns>(p, of_k + warp() * own_size, tiles.of_a(tile));
    each_score([&](int i, int query, float& x) { x = earlier(i, query) ? 0 : of_tile[query].p(scale * x); },
               p);
    share(weights, p);
    Lanes::template add_ab<columns, n>(dv, weights, tiles.of_b(tile));
    Lanes::template add_abt<n, columns>(dp, of_v + warp() * own_size, tiles.of_b(tile));
    each_score([&](int i, int query, float& d,
                   float x) { d = earlier(i, query) ? 0 : x * (d - of_tile[query].delta); },
               dp, p);
    share(weights, dp);
    Lanes::template add_ab<columns, n>(dk, weights, tiles.of_a(tile));
  }
  float scales[Lanes::height], ones[Lanes::height];
  AG_UNROLL for (int i = 0; i < Lanes::height; ++i) scales[i] = scale, ones[i] = 1;
  store_sums(head.k(dqkv), first, dk, scales);
  store_sums(head.v(dqkv), first, dv, ones);
}

// Calls f with how products are to be made, and with_columns's number.
template <class F>
void with_lanes(int64_t head_size, F f) {
  with_columns(head_size, [&](auto columns) {
    if (matmul_precision() == MatmulPrecision::f32) return f(InF32(), columns);
    f(InTf32(), columns);
  });
}

// Tiles of n rows, `wide` matrices of a block's own rows, and its weights.
template <int columns, int n, int wide>
constexpr size_t shared_bytes = Tiles<F32, n, columns>::bytes +
                                size_t(wide* size_of<warps * m, columns> + size_of<warps * m, n>) *
                                    sizeof(float);
template <int columns>
constexpr size_t forward_bytes = shared_bytes<columns, forward_tile<columns>, 1>;
template <int columns>
constexpr size_t grad_bytes = shared_bytes<columns, grad_tile, 2>;

}  // namespace
}  // namespace flash

template <>
bool has_flash_attention<F32>(const Cuda& device, int64_t head_size) {
  using namespace flash;
  if (!is_tiled<F32>(head_size)) return false;
  int most = 0;
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device.index), "attention");
  bool fits = false;
  with_columns(head_size, [&](auto padded) {
    constexpr size_t beside = 2 * grad_tile * sizeof(Query);
    fits = std::max(forward_bytes<padded>, grad_bytes<padded> + beside) <= size_t(most);
  });
  return fits;
}

template <>
void flash_attention<F32>(const Cuda& device, float* y, kernels::LogSumExp<float>* lse, const float* qkv,
                          int64_t batch, int64_t length, int64_t heads, int64_t head_size) {
  using namespace flash;
  with_lanes(head_size, [&]<class Lanes>(Lanes, auto padded) {
    constexpr int columns = padded;
    launch_pieces(device, "attention", forward_kernel<Lanes, columns>, batch * heads, length,
                  forward_bytes<columns>, y, lse, qkv, int(length), int(heads), int(head_size));
  });
}

template <>
void flash_attention_grad<F32>(const Cuda& device, float* dqkv, const float* dy, const float* qkv,
                               const float* y, const kernels::LogSumExp<float>* lse, int64_t batch,
                               int64_t length, int64_t heads, int64_t head_size) {
  using namespace flash;
  const Scratch<Query> of_queries(device, batch * heads * length);
  with_lanes(head_size, [&]<class Lanes>(Lanes, auto padded) {
    constexpr int columns = padded;
    launch_pieces(device, "attention_grad", dq_kernel<Lanes, columns>, batch * heads, length,
                  grad_bytes<columns>, dqkv, of_queries.data(), dy, qkv, y, lse, int(length), int(heads),
                  int(head_size));
    launch_pieces(device, "attention_grad", dkv_kernel<Lanes, columns>, batch * heads, length,
                  grad_bytes<columns>, dqkv, of_queries.data(), dy, qkv, int(length), int(heads),
                  int(head_size));
  });
}

}  // namespace altgrad::cuda
