// Causal attention, backward (Dao, "FlashAttention-2", 2023, algorithm 2), in two kernels, so that each gradient is
// summed by one warp in a fixed order: a block has some queries and goes through the keys up to them, for dq; then a
// block has some keys and goes through the queries from them on, for dk and dv. Both make the weights again:
//   p = exp(scale q k^T - lse), dp = dy v^T, ds = p (dp - delta), delta = sum(dy y),
//   dq = scale ds k, dk = scale ds^T q, dv = p^T dy.
// The second makes p^T and ds^T, of its keys' rows, which as they lie in registers are left operands.
#include <altgrad/core/cuda/flash_attention.h>

namespace altgrad::cuda {
namespace flash {
namespace {

// A warp's rows, queries or keys: more of them use a tile's fragments more often, as long as registers hold their sums.
template <int columns>
constexpr int own = columns <= 64 ? 32 : 16;

constexpr int n = 32;  // rows of a tile, whose products with the warp's are in registers, beside its sums

// What the weights and their gradients of a query are made of: p = 2^(log2(e) scale q k^T - top - log2_sum).
struct alignas(16) Query {
  float top, log2_sum, delta, unused;  // 16 bytes are copied, of which none may be without a value
  AG_DEVICE float p(float score, float scale) const { return exp2_approx(scale * score - top - log2_sum); }
};

template <class Math, int columns, int m = own<columns>>
__global__ void __launch_bounds__(threads, 2)
    dq_kernel(typename Math::Value* dqkv, Query* of_queries, const typename Math::Value* dy,
              const typename Math::Value* qkv, const typename Math::Value* y,
              const kernels::LogSumExp<float>* lse, int length, int heads, int size) {
  const Piece<m> piece(length, true);  // those that have most to do come first
  const int first = piece.first, end = std::min((piece.index + 1) * warps * m, length);
  const Head head(piece.pair, length, heads, size);
  const Tiles<Math, n, columns> tiles = {head.k(qkv), head.v(qkv)};
  const auto of_dy = head.y(dy), of_y = head.y(y);
  const float scale = 1 / sqrtf(float(size));

  tiles.load(0);
  const auto q = Math::template left<m, columns>(head.q(qkv), first);
  const auto g = Math::template left<m, columns>(of_dy, first);
  Query query[m / 8];
  AG_UNROLL for (int r = 0; r < m / 8; ++r) {
    const int row = first + 8 * r + lane() / 4;
    query[r] = {0, 0, 0, 0};
    if (row < length) {
      const kernels::LogSumExp<float> at = lse[int64_t(piece.pair) * length + row];
      query[r] = {log2_e * at.top, log2_e * at.log_sum, 0, 0};
      for (int c = lane() % 4; c < size; c += 4)
        query[r].delta += float(of_dy.row(row)[c]) * float(of_y.row(row)[c]);
    }
    query[r].delta = reduce_row(query[r].delta, Add());
    if (row < length && lane() % 4 == 0) of_queries[int64_t(piece.pair) * length + row] = query[r];
  }
  Sums<m, columns> dq;
  for (int tile = 0; tile * n < end; ++tile) {
    wait_for_copies();
    __syncthreads();  // the tile is there, and nobody needs the one before
    const int first_key = tile * n;
    if (first_key + n < end) tiles.load(tile + 1);
    if (first_key >= first + m) continue;
    Sums<m, n> s, dp;
    Math::add_abt(s, q, tiles.of_a(tile));
    Math::add_abt(dp, g, tiles.of_b(tile));
    if (first_key + n > first) {
      const int diagonal = first + lane() / 4 - first_key;
      each_sum([&](int r, int key, float& x) { x = key > diagonal + 8 * r ? none : x; }, s);
    }
    each_sum([&](int r, int, float& x, float d) { x = query[r].p(x, log2_e * scale) * (d - query[r].delta); },
             s, dp);
    Math::add_ab(dq, Math::left(s), tiles.of_a(tile));
  }
  store_rows<Math>(head.q(dqkv), first, dq, scale);
}

template <class Math, int columns, int m = own<columns>>
__global__ void __launch_bounds__(threads, 2)
    dkv_kernel(typename Math::Value* dqkv, const Query* of_queries, const typename Math::Value* dy,
               const typename Math::Value* qkv, int length, int heads, int size) {
  using Value = typename Math::Value;
  AG_SHARED(Query, of_tiles, 2 * n);
  const Piece<m> piece(length, false);
  const int first = piece.first;
  const Head head(piece.pair, length, heads, size);
  const Tiles<Math, n, columns> tiles = {head.q(qkv), head.y(dy)};
  const float scale = 1 / sqrtf(float(size));

  const auto load = [&](int tile) {
    load_queries<n>(of_tiles, of_queries + int64_t(piece.pair) * length, tile, length);
    tiles.load(tile);
  };
  // The block's keys and values stay in shared memory: registers are full of sums.
  constexpr int own_size = m * Math::template pitch<columns>;
  Value *const of_k = tiles.end(), *const of_v = of_k + warps * own_size;
  load_rows<Math, warps * m, columns>(of_k, head.k(qkv), piece.index * warps * m);
  load_rows<Math, warps * m, columns>(of_v, head.v(qkv), piece.index * warps * m);
  const int first_tile = piece.index * warps * m / n;
  load(first_tile);
  const auto left = [](const Value* of) { return Math::template left<m, columns>(of + warp() * own_size); };
  Sums<m, columns> dk, dv;
  for (int tile = first_tile; tile * n < length; ++tile) {
    wait_for_copies();
    __syncthreads();  // the tile is there, and nobody needs the one before
    const int first_query = tile * n;
    if (first_query + n < length) load(tile + 1);
    if (first_query + n <= first) continue;
    const Query* const of_tile = of_tiles + tile % 2 * n;
    Sums<m, n> s, dp;
    Math::add_abt(s, left(of_k), tiles.of_a(tile));
    if (first_query < first + m) {
      const int diagonal = first + lane() / 4 - first_query;
      each_sum([&](int r, int query, float& x) { x = query < diagonal + 8 * r ? none : x; }, s);
    }
    each_sum([&](int, int query, float& x) { x = of_tile[query].p(x, log2_e * scale); }, s);
    Math::add_ab(dv, Math::left(s), tiles.of_b(tile));
    Math::add_abt(dp, left(of_v), tiles.of_b(tile));
    each_sum([&](int, int query, float& x, float d) { x *= d - of_tile[query].delta; }, s, dp);
    Math::add_ab(dk, Math::left(s), tiles.of_a(tile));
  }
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
    constexpr int m = own<columns>;
    constexpr size_t tiles = Tiles<Math, n, columns>::bytes,
                     keys = Tiles<Math, warps * m, columns>::bytes / 2;
    const int64_t pairs = batch * heads;
    launch_pieces(device, "attention_grad", dq_kernel<Math, columns>, pairs, length, m, tiles, dqkv,
                  of_queries.data(), dy, qkv, y, lse, int(length), int(heads), int(head_size));
    launch_pieces(device, "attention_grad", dkv_kernel<Math, columns>, pairs, length, m, tiles + keys, dqkv,
                  of_queries.data(), dy, qkv, int(length), int(heads), int(head_size));
  });
}

template decltype(flash_attention_grad<Bf16>) flash_attention_grad<Bf16>;

}  // namespace altgrad::cuda
