// Causal attention, forward: a block has some queries and goes through the tiles of keys and values up to them, with
// the softmax made as it goes (Dao, "FlashAttention-2", 2023, algorithm 1). A warp has its queries to itself: scores,
// weights and sums stay in its registers. Of the tile that holds a query's own position the weights of later keys are
// 0, and products with it: Inf and NaN in v reach the rows before them in the same tile.
#include <altgrad/core/cuda/flash_attention.h>

namespace altgrad::cuda {
namespace flash {
namespace {

constexpr int keys = 64;  // of a tile

// A warp's queries: more of them use a tile's fragments more often, as long as registers hold their sums.
template <int columns>
constexpr int queries = columns <= 64 ? 32 : 16;

// Of m rows of scores the largest so far, and the sum of their weights: each lane's share of it.
template <int m>
struct Softmax {
  float top[m / 8], total[m / 8];

  AG_DEVICE Softmax() { AG_UNROLL for (int r = 0; r < m / 8; ++r) top[r] = none, total[r] = 0; }
  // The weights of further scores s, 2^(scale (s - top)), take their place; y, sums with those before, is brought to
  // the same top.
  template <int n, int columns>
  AG_DEVICE void add(Sums<m, n>& s, Sums<m, columns>& y, float scale AG_PLACE) {
    float now[m / 8], base[m / 8], rescale[m / 8];
    AG_UNROLL for (int r = 0; r < m / 8; ++r) now[r] = top[r];
    each_sum([&](int r, int, float x) { now[r] = fmaxf(now[r], x); }, s);
    AG_UNROLL for (int r = 0; r < m / 8; ++r) {
      now[r] = AG_AT_PLACE(reduce_row, now[r], [](float a, float b) { return fmaxf(a, b); });
      base[r] = now[r] == none ? 0 : scale * now[r];  // else -inf - -inf
      rescale[r] = exp2_approx(scale * top[r] - base[r]);
      top[r] = now[r];
      total[r] *= rescale[r];
    }
    each_sum([&](int r, int, float& x) { total[r] += x = exp2_approx(scale * x - base[r]); }, s);
    each_sum([&](int r, int, float& x) { x *= rescale[r]; }, y);
  }
};

template <class Math, int columns, int m = queries<columns>>
__global__ void __launch_bounds__(threads, 2)
    forward_kernel(typename Math::Value* y, kernels::LogSumExp<float>* lse, const typename Math::Value* qkv,
                   int length, int heads, int size) {
  const Piece<m> piece(length, true);  // those that have most to do come first
  const int first = piece.first, end = std::min((piece.index + 1) * warps * m, length);
  const Head head(piece.pair, length, heads, size);
  const Tiles<Math, keys, columns> tiles = {head.k(qkv), head.v(qkv)};
  const float scale = 1 / sqrtf(float(size));

  tiles.load(0);
  const auto q = Math::template left<m, columns>(head.q(qkv), first);
  Softmax<m> softmax;
  Sums<m, columns> sum;
  for (int tile = 0; tile * keys < end; ++tile) {
    wait_for_copies();
    __syncthreads();  // the tile is there, and nobody needs the one before
    const int first_key = tile * keys;
    if (first_key + keys < end) tiles.load(tile + 1);
    if (first_key >= first + m) continue;
    Sums<m, keys> s;
    Math::add_abt(s, q, tiles.of_a(tile));
    if (first_key + keys > first) {
      const int diagonal = first + lane() / 4 - first_key;
      each_sum([&](int r, int key, float& x) { x = key > diagonal + 8 * r ? none : x; }, s);
    }
    softmax.add(s, sum, log2_e * scale);
    Math::add_ab(sum, Math::left(s), tiles.of_b(tile));
  }

  float inverse[m / 8];
  AG_UNROLL for (int r = 0; r < m / 8; ++r) {
    const float total = reduce_row(softmax.total[r], Add());
    const int query = first + 8 * r + lane() / 4;
    inverse[r] = 1 / total;
    if (lane() % 4 == 0 && query < length)
      lse[int64_t(piece.pair) * length + query] = {scale * softmax.top[r], logf(total)};
  }
  store_rows<Math>(head.y(y), first, sum, inverse);
}

}  // namespace
}  // namespace flash

template <class Math>
void flash_attention(const Cuda& device, typename Math::Value* y, kernels::LogSumExp<float>* lse,
                     const typename Math::Value* qkv, int64_t batch, int64_t length, int64_t heads,
                     int64_t head_size) {
  using namespace flash;
  with_columns(head_size, [&](auto padded) {
    constexpr int columns = padded;
    launch_pieces(device, "attention", forward_kernel<Math, columns>, batch * heads, length, queries<columns>,
                  Tiles<Math, keys, columns>::bytes, y, lse, qkv, int(length), int(heads), int(head_size));
  });
}

template decltype(flash_attention<Bf16>) flash_attention<Bf16>;

}  // namespace altgrad::cuda
