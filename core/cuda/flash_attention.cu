// Causal attention, forward: a block has some queries and goes through the tiles of keys and values up to them, with
// the softmax made as it goes (Dao, "FlashAttention-2", 2023, algorithm 1). A warp has its queries to itself: scores,
// weights and sums stay in its registers. Of the tile that holds a query's own position the weights of later keys are
// 0, and products with it: Inf and NaN in v reach the rows before them in the same tile.
#include <altgrad/core/cuda/flash_attention.h>

#include <type_traits>

namespace altgrad::cuda {
namespace flash {
namespace {

constexpr int keys = 64;  // of a tile

// Of m rows of scores the largest so far, times scale, and the sum of their weights, 2^(scale s - top): each lane's share
// of it.
struct Softmax {
  float scale, top[m / 8], total[m / 8];

  // No top is -inf, so that the weights of scores of -inf are 0.
  AG_DEVICE explicit Softmax(float factor) : scale(factor) {
    AG_UNROLL for (int r = 0; r < m / 8; ++r) top[r] = -std::numeric_limits<float>::max(), total[r] = 0;
  }
  // Takes in further scores s: y, sums with the weights of those before, is brought to the new top.
  template <int n, int columns>
  AG_DEVICE void raise(Sums<m, n>& s, Sums<m, columns>& y AG_PLACE) {
    float rescale[m / 8];
    AG_UNROLL for (int r = 0; r < m / 8; ++r) rescale[r] = none;
    each_sum([&](int r, int, float x) { rescale[r] = fmaxf(rescale[r], x); }, s);
    bool is_same = true;
    AG_UNROLL for (int r = 0; r < m / 8; ++r) {
      const float now = AG_AT_PLACE(reduce_row, rescale[r], [](float a, float b) { return fmaxf(a, b); });
      const float before = top[r];
      top[r] = fmaxf(before, scale * now);
      rescale[r] = exp2_approx(before - top[r]);
      total[r] *= rescale[r];
      is_same = is_same && before == top[r];
    }
    if (AG_AT_PLACE(__all_sync, all_lanes, is_same)) return;  // mostly
    each_sum([&](int r, int, float& x) { x *= rescale[r]; }, y);
  }
  // The weights of these scores take their place.
  template <int n>
  AG_DEVICE void weigh(Sums<m, n>& s) {
    each_sum([&](int r, int, float& x) { total[r] += x = exp2_approx(scale * x - top[r]); }, s);
  }
};

template <class Math, int columns>
__global__ void __launch_bounds__(threads, blocks_at_once<columns>)
    forward_kernel(typename Math::Value* y, kernels::LogSumExp<float>* lse, const typename Math::Value* qkv,
                   int length, int heads, int size) {
  begin_kernel();
  using Value = typename Math::Value;
  const Piece piece(length, true);  // those that have most to do come first
  const int first = piece.first, end = std::min((piece.index + 1) * warps * m, length),
            own_end = std::min(first + m, end);
  const Head head(piece.pair, length, heads, size);
  const Tiles<Math, keys, columns> tiles = {head.k(qkv).first(end), head.v(qkv).first(end)};
  const float scale = 1 / sqrtf(float(size));

  Value* const own = tiles.end();
  load_rows<Math, warps * m, columns>(own, head.q(qkv), piece.index * warps * m);
  tiles.load_a(0);
  commit_copies();
  tiles.load_a(1);
  tiles.load_b(0);
  commit_copies();
  wait_for_copies<1>();
  __syncthreads();
  const auto q = Math::template left<m, columns>(own + warp() * m * Math::template pitch<columns>);
  Softmax softmax(log2_e * scale);
  Sums<m, columns> sum;
  Sums<m, keys> s;
  const auto multiply = [&](int tile) {
    s = {};
    Math::add_abt(s, q, tiles.of_a(tile));
  };
  // The scores of a tile become weights, and give their place to the next tile's, whose products need not wait for
  // exponentials: both are in one run of instructions, which the compiler mixes.
  const auto add = [&](int tile, auto is_last) {
    softmax.raise(s, sum);
    softmax.weigh(s);
    Math::add_ab(sum, Math::left(s), tiles.of_b(tile));
    if (!is_last) multiply(tile + 1);
  };

  multiply(0);
  for (int tile = 0; tile * keys < end; ++tile) {
    wait_for_copies();
    __syncthreads();  // the tile's values and the next one's keys are there, and nobody needs those before
    if ((tile + 1) * keys < end) {
      tiles.load_a(tile + 2);
      tiles.load_b(tile + 1);
      commit_copies();
    }
    if ((tile + 1) * keys < own_end) {
      add(tile, std::false_type());
    } else if (tile * keys < own_end) {
      const int diagonal = first + lane() / 4 - tile * keys;
      each_sum([&](int r, int key, float& x) { x = key > diagonal + 8 * r ? none : x; }, s);
      add(tile, std::true_type());
    }
  }

  float inverse[m / 8];
  AG_UNROLL for (int r = 0; r < m / 8; ++r) {
    const float total = reduce_row(softmax.total[r], Add());
    const int query = first + 8 * r + lane() / 4;
    inverse[r] = 1 / total;
    if (lane() % 4 == 0 && query < length)
      lse[int64_t(piece.pair) * length + query] = {softmax.top[r] / log2_e, logf(total)};
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
    constexpr size_t bytes = Tiles<Math, keys, columns>::bytes + rows_bytes<Math, warps * m, columns>;
    launch_pieces(device, "attention", forward_kernel<Math, columns>, batch * heads, length, bytes, y, lse,
                  qkv, int(length), int(heads), int(head_size));
  });
}

template decltype(flash_attention<Bf16>) flash_attention<Bf16>;

}  // namespace altgrad::cuda
