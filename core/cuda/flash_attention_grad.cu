// Causal attention, backward (Dao, "FlashAttention-2", 2023, algorithm 2), in two kernels, so that each gradient is
// summed by one warp in a fixed order: a block has some queries and goes through the keys up to them, for dq; then a
// block has some keys and goes through the queries from them on, for dk and dv. Both make the weights again:
//   p = exp(scale q k^T - lse), dp = dy v^T, ds = p (dp - delta), delta = sum(dy y),
//   dq = scale ds k, dk = scale ds^T q, dv = p^T dy.
// The second makes p^T and ds^T, of its keys' rows, which as they lie in registers are left operands. Products with
// weights of 0 are made in the tile of a row's own position: Inf and NaN in q, k, v and dy reach its other rows there.
#include <altgrad/core/cuda/flash_attention.h>
#include <altgrad/core/cuda/packs.h>

#include <type_traits>

namespace altgrad::cuda {
namespace flash {
namespace {

constexpr int n = 32;  // rows of a tile, whose products with the warp's are in registers, beside its sums
// Products are made of two tiles, while others are on their way.
template <int columns>
constexpr int stages = columns <= 96 ? 4 : 3;

// What the weights and their gradients of a query are made of: p = 2^(log2(e) scale q k^T - base), base = log2(e) lse.
struct alignas(16) Query {
  float base, delta, unused, unused_too;  // 16 bytes are copied, of which none may be without a value
  AG_DEVICE float p(float score, float scale) const { return exp2_approx(scale * score - base); }
};

// Works out the queries of a warp, which begin at `first`, for itself, in shared memory, and for the other kernel.
template <int columns, class Value>
AG_DEVICE void find_queries(Query* own, Query* of_head, const Matrix<const Value>& dy,
                            const Matrix<const Value>& y, const kernels::LogSumExp<float>* lse,
                            int first AG_PLACE) {
  const bool has_query = lane() < m && first + lane() < y.rows;
  const kernels::LogSumExp<float> of_query = has_query ? lse[first + lane()] : kernels::LogSumExp<float>{};
  // Eight lanes share a row of dy and y. All that they read is on its way before one waits for it.
  constexpr int high = 4, wide = (columns + 63) / 64;
  Pack<Value, 8> of_dy[m / high][wide], of_y[m / high][wide];
  AG_UNROLL for (int i = 0; i < m / high; ++i) {
    AG_UNROLL for (int c = 0; c < wide; ++c) {
      const int row = first + i * high + lane() / 8, column = 64 * c + lane() % 8 * 8;
      const int count = row < y.rows && column < y.columns ? 8 : 0;
      of_dy[i][c] = load<8>(dy.row(row) + column, count > 0, count);
      of_y[i][c] = load<8>(y.row(row) + column, count > 0, count);
    }
  }
  if (lane() < m) own[lane()] = {log2_e * (of_query.top + of_query.log_sum), 0, 0, 0};
  AG_AT_PLACE(__syncwarp, all_lanes);
  AG_UNROLL for (int i = 0; i < m / high; ++i) {
    float delta = 0;
    AG_UNROLL for (int c = 0; c < wide; ++c) {
      AG_UNROLL for (int k = 0; k < 8; ++k) delta += float(of_dy[i][c].at[k]) * float(of_y[i][c].at[k]);
    }
    AG_UNROLL for (int bits = 4; bits > 0; bits /= 2) delta +=
        AG_AT_PLACE(__shfl_xor_sync, all_lanes, delta, bits);
    if (lane() % 8 == 0) own[i * high + lane() / 8].delta = delta;
  }
  AG_AT_PLACE(__syncwarp, all_lanes);
  if (has_query) of_head[first + lane()] = own[lane()];
}

template <class Math, int columns>
__global__ void __launch_bounds__(threads, blocks_at_once<columns>)
    dq_kernel(typename Math::Value* dqkv, Query* of_queries, const typename Math::Value* dy,
              const typename Math::Value* qkv, const typename Math::Value* y,
              const kernels::LogSumExp<float>* lse, int length, int heads, int size) {
  begin_kernel();
  using Value = typename Math::Value;
  AG_SHARED(Query, own_queries, warps * m);
  const Piece piece(length, true);  // those that have most to do come first
  const int first = piece.first, end = std::min((piece.index + 1) * warps * m, length),
            own_end = std::min(first + m, end);
  const Head head(piece.pair, length, heads, size);
  const Tiles<Math, n, columns, stages<columns>> tiles = {head.k(qkv).first(end), head.v(qkv).first(end)};
  const float scale = 1 / sqrtf(float(size));

  constexpr int own_size = m * Math::template pitch<columns>;
  Value *const of_q = tiles.end(), *const of_g = of_q + warps * own_size;
  load_rows<Math, warps * m, columns>(of_q, head.q(qkv), piece.index * warps * m);
  load_rows<Math, warps * m, columns>(of_g, head.y(dy), piece.index * warps * m);
  for (int tile = 0; tile < stages<columns> - 1; ++tile) tiles.load(tile);

  const int64_t of_pair = int64_t(piece.pair) * length;
  Query* const own = own_queries + warp() * m;
  find_queries<columns>(own, of_queries + of_pair, head.y(dy), head.y(y), lse + of_pair, first);
  float base[m / 8], delta[m / 8];
  AG_UNROLL for (int r = 0; r < m / 8; ++r) {
    base[r] = own[8 * r + lane() / 4].base, delta[r] = own[8 * r + lane() / 4].delta;
  }

  wait_for_copies<stages<columns> - 2>();
  __syncthreads();
  const auto q = Math::template left<m, columns>(of_q + warp() * own_size);
  const auto g = Math::template left<m, columns>(of_g + warp() * own_size);
  Sums<m, columns> dq;
  Sums<m, n> s, dp;
  const auto multiply = [&](int tile) {
    s = {}, dp = {};
    Math::add_abt(s, q, tiles.of_a(tile));
    Math::add_abt(dp, g, tiles.of_b(tile));
  };
  // What is made of a tile gives its place to the next, whose products need not wait, as in the forward kernel.
  const auto add = [&](int tile, auto is_last) {
    each_sum([&](int r, int, float& x,
                 float d) { x = exp2_approx(log2_e * scale * x - base[r]) * (d - delta[r]); },
             s, dp);
    Math::add_ab(dq, Math::left(s), tiles.of_a(tile));
    if (!is_last) multiply(tile + 1);
  };

  multiply(0);
  for (int tile = 0; tile * n < end; ++tile) {
    wait_for_copies<stages<columns> - 3>();
    __syncthreads();  // the next tile is there, and nobody needs the one before
    tiles.load(tile + stages<columns> - 1);
    if ((tile + 1) * n < own_end) {
      add(tile, std::false_type());
    } else if (tile * n < own_end) {
      const int diagonal = first + lane() / 4 - tile * n;
      each_sum([&](int r, int key, float& x) { x = key > diagonal + 8 * r ? none : x; }, s);
      add(tile, std::true_type());
    }
  }
  wait_for_copies();  // none is left behind, though nobody needs the last
  store_rows<Math>(head.q(dqkv), first, dq, scale);
}

template <class Math, int columns>
__global__ void __launch_bounds__(threads, blocks_at_once<columns>)
    dkv_kernel(typename Math::Value* dqkv, const Query* of_queries, const typename Math::Value* dy,
               const typename Math::Value* qkv, int length, int heads, int size) {
  begin_kernel();
  using Value = typename Math::Value;
  AG_SHARED(Query, of_tiles, stages<columns> * n);
  const Piece piece(length, false);
  const int first = piece.first, first_tile = piece.index * warps * m / n, own_tile = first / n,
            tiles_to_do = (length + n - 1) / n;
  const Head head(piece.pair, length, heads, size);
  const Tiles<Math, n, columns, stages<columns>> tiles = {head.q(qkv), head.y(dy)};
  const float scale = 1 / sqrtf(float(size));

  const auto load = [&](int tile) {
    load_queries<n, stages<columns>>(of_tiles, of_queries + int64_t(piece.pair) * length, tile, length);
    tiles.load(tile);
  };
  constexpr int pitch = Math::template pitch<columns>, own_size = m * pitch;
  Value *const of_k = tiles.end(), *const of_v = of_k + warps * own_size;
  load_rows<Math, warps * m, columns>(of_k, head.k(qkv), piece.index * warps * m);
  load_rows<Math, warps * m, columns>(of_v, head.v(qkv), piece.index * warps * m);
  for (int tile = first_tile; tile < first_tile + stages<columns> - 1; ++tile) load(tile);
  wait_for_copies<stages<columns> - 2>();
  __syncthreads();
  const auto k = Math::template left<m, columns>(of_k + warp() * own_size);
  const auto v = Math::template left<m, columns>(of_v + warp() * own_size);
  Sums<m, columns> dk, dv;
  Sums<m, n> s;
  const auto multiply = [&](int tile) {
    s = {};
    Math::add_abt(s, k, tiles.of_a(tile));
  };
  const auto add = [&](int tile) {
    const Query* const of_tile = of_tiles + tile % stages<columns> * n;
    Sums<m, n> dp;
    Math::add_abt(dp, v, tiles.of_b(tile));
    each_sum([&](int, int query, float& x) { x = of_tile[query].p(x, log2_e * scale); }, s);
    Math::add_ab(dv, Math::left(s), tiles.of_b(tile));
    each_sum([&](int, int query, float& x, float d) { x *= d - of_tile[query].delta; }, s, dp);
    Math::add_ab(dk, Math::left(s), tiles.of_a(tile));
    multiply(tile + 1);
  };

  for (int tile = first_tile; tile < tiles_to_do; ++tile) {
    wait_for_copies<stages<columns> - 3>();
    __syncthreads();  // the next tile is there, and nobody needs the one before
    load(tile + stages<columns> - 1);
    if (tile < own_tile) continue;
    if (tile == own_tile) {
      multiply(tile);
      const int diagonal = first + lane() / 4 - tile * n;
      each_sum([&](int r, int query, float& x) { x = query < diagonal + 8 * r ? none : x; }, s);
    }
    add(tile);
  }
  wait_for_copies();
  store_rows<Math>(head.k(dqkv), first, dk, scale);
  store_rows<Math>(head.v(dqkv), first, dv, 1);
}

}  // namespace
}  // namespace flash

template <class Math>
void flash_attention_grad(const Cuda& device, typename Math::Value* dqkv, const typename Math::Value* dy,
                          const typename Math::Value* qkv, const typename Math::Value* y,
                          const kernels::LogSumExp<float>* lse, int64_t batch, int64_t length, int64_t heads,
                          int64_t head_size) {
  using namespace flash;
  const Scratch<Query> of_queries(device, batch * heads * length);
  with_columns(head_size, [&](auto padded) {
    constexpr int columns = padded;
    constexpr size_t bytes =
        Tiles<Math, n, columns, stages<columns>>::bytes + 2 * rows_bytes<Math, warps * m, columns>;
    const int64_t pairs = batch * heads;
    launch_pieces(device, "attention_grad", dq_kernel<Math, columns>, pairs, length, bytes, dqkv,
                  of_queries.data(), dy, qkv, y, lse, int(length), int(heads), int(head_size));
    launch_pieces(device, "attention_grad", dkv_kernel<Math, columns>, pairs, length, bytes, dqkv,
                  of_queries.data(), dy, qkv, int(length), int(heads), int(head_size));
  });
}

template decltype(flash_attention_grad<Bf16>) flash_attention_grad<Bf16>;

}  // namespace altgrad::cuda
