// Rounding on a GPU: the Rounder of the CPU, element by element, so that both give the same bits.
#include <altgrad/fp8/internal/kernels.h>

#include <altgrad/core/cuda/amax.h>
#include <altgrad/core/cuda/columns.h>
#include <altgrad/core/cuda/fp8_code.h>
#include <altgrad/core/cuda/packs.h>
#include <altgrad/core/cuda/runtime.h>
#include <altgrad/core/internal/divide.h>
#include <altgrad/core/internal/instantiate.h>

#include <algorithm>

namespace altgrad::kernels {
inline namespace on_cuda {
namespace {

// Element i of x on the grid of the format.
template <class T>
AG_DEVICE T rounded(T x, T scale, const ElementRounder<T>& how, int64_t i) {
  return how.rounder(quotient(x, scale), how.random ? how.random->on_device().word(uint64_t(i)) : 0);
}
// The same in few operations, for what suits it.
template <class T>
struct Nearest {
  T scale, inverse;
  const fp8::NearestRounder<T>& rounder;

  AG_DEVICE T quotient(T x) const {
    if constexpr (std::is_same_v<T, float>) return divided(x, scale, inverse);
    return x / scale;
  }
  AG_DEVICE T operator()(T x) const {  // there is no NaN that fmin and fmax would lose
    const T kept = std::fmin(std::fmax(quotient(x), -rounder.max), rounder.max);
    return rounder.template operator()<false>(kept, x);
  }
};

template <class Out, class T>
AG_DEVICE Out dequantized(T rounded, T scale) {
  if constexpr (std::is_same_v<Out, bfloat16>) {
    return std::bit_cast<bfloat16>(uint16_t(std::bit_cast<uint32_t>(rounded) >> 16));
  } else {
    return rounded * scale;
  }
}

// What a thread rounds at once, all of which is on its way before any of it is looked at.
template <class T, int size, int count>
struct Numbers {
  cuda::Pack<T, size> packs[count];

  AG_DEVICE unsigned largest() const {
    unsigned top = 0;
    AG_UNROLL for (int j = 0; j < count; ++j) {
      AG_UNROLL for (int k = 0; k < size; ++k) top =
          cuda::Larger()(top, cuda::magnitude_bits(Compute<T>(packs[j].at[k])));
    }
    return top;
  }
};

// Rounds a tensor of T's, part by part; a block has one at a time. A warp takes the long way where one of its numbers needs
// it: in a loop, for whose many instructions there is one copy, and in which lanes read again what lies side by side.
template <class T>
struct Round {
  using C = Compute<T>;
  const T* x;
  ElementRounder<C> how;
  fp8::NearestRounder<C> nearest;

  Round(const T* from, const ElementRounder<C>& rounding) : x(from), how(rounding), nearest(how.rounder) {}
  // May `nearest` round all of the warp's numbers, this thread's being no larger than `top`?
  AG_DEVICE bool is_short(C scale, unsigned top) const {
    return __all_sync(cuda::all_lanes, top <= cuda::magnitude_bits(nearest_reach)) && !how.random &&
           has_nearest(how.rounder, scale);
  }
};

// y = x rounded, a piece of it by a block.
template <class Out, class T>
struct RoundPiece : Round<T> {
  using C = Compute<T>;
  static constexpr int resident = sizeof(C) == 8 ? 2 : 5;
  static constexpr bool reads_ahead = false;
  static constexpr int size = cuda::pack_size<Out, T>, step = cuda::most_threads * size,
                       packs = cuda::piece / step;
  Out* y;
  int64_t n;
  bool aligned;

  RoundPiece(Out* to, const T* from, const ElementRounder<C>& rounding, int64_t count)
      : Round<T>(from, rounding), y(to), n(count), aligned(cuda::aligned<size>(to, from)) {}
  int64_t parts() const { return cuda::pieces_for(n); }

  // The first of the thread's packs, which are a step apart, how many of its numbers are there from that on, and whether
  // all packs of the piece are whole.
  AG_DEVICE int64_t first(int64_t piece) const { return piece * cuda::piece + int(threadIdx.x) * size; }
  AG_DEVICE bool whole(int64_t piece) const { return aligned && (piece + 1) * cuda::piece <= n; }

  AG_DEVICE Numbers<T, size, packs> read(int64_t piece) const {
    const int64_t i = first(piece);
    const bool at_once = whole(piece);
    Numbers<T, size, packs> in;
    AG_UNROLL for (int j = 0; j < packs; ++j) in.packs[j] =
        cuda::load<size>(this->x + i + j * step, at_once, n - i - j * step);
    return in;
  }

  AG_DEVICE void operator()(const Numbers<T, size, packs>& in, unsigned top, int64_t piece,
                            float scale) const {
    const C s = C(scale);
    if (this->is_short(s, top)) {
      const int64_t i = first(piece);
      const bool at_once = whole(piece);
      const Nearest<C> nearest{s, 1 / s, this->nearest};
      AG_UNROLL for (int j = 0; j < packs; ++j) {
        cuda::Pack<Out, size> out;
        AG_UNROLL for (int k = 0; k < size; ++k) out.at[k] =
            dequantized<Out>(nearest(C(in.packs[j].at[k])), s);
        cuda::store(out, y + i + j * step, at_once, n - i - j * step);
      }
      return;
    }
    const int lane = int(threadIdx.x) % 32;
    for (int e = lane; e < 32 * size * packs; e += 32) {
      const int64_t i = first(piece) - lane * size + e / (32 * size) * step + e % (32 * size);
      if (i < n) y[i] = dequantized<Out>(rounded(C(this->x[i]), s, this->how, i), s);
    }
  }
};

constexpr int tile_height = 128;
int64_t rows_of_tiles(const Codes& codes) { return (codes.rows + tile_height - 1) / tile_height; }

// The same in codes, a tile of 128 by 64 by a block. A thread has eight numbers of each of four rows; turned, their codes
// are words, each of four rows in one column.
template <class T>
struct RoundTile : Round<T> {
  static constexpr int resident = 2;
  static constexpr bool reads_ahead = true;
  static constexpr int height = tile_height, width = 64, lines = 4, run = 8, run_t = 16;
  static_assert(height * width == cuda::most_threads * lines * run);
  Codes to;
  double* sums;     // (rows of tiles, columns), of the tiles' columns, or null
  unsigned across;  // tiles: to divide by 64 bits takes long
  bool aligned, aligned_t;

  RoundTile(const Codes& codes, const T* from, const ElementRounder<float>& rounding, double* sums_of_tiles)
      : Round<T>(from, rounding),
        to(codes),
        sums(sums_of_tiles),
        across(std::max(1u, unsigned((codes.columns + width - 1) / width))),
        aligned(codes.columns % run == 0 && cuda::aligned<run>(from, static_cast<const uint8_t*>(codes.y))),
        aligned_t(codes.rows % run_t == 0 && cuda::aligned<run_t>(codes.y_t)) {}
  int64_t parts() const { return rows_of_tiles(to) * across; }
  // The first row and column of a tile, and the place of the thread's word and columns in it.
  AG_DEVICE int64_t above(int64_t tile) const { return int64_t(unsigned(tile) / across) * height; }
  AG_DEVICE int64_t left(int64_t tile) const { return int64_t(unsigned(tile) % across) * width; }
  AG_DEVICE static int word() { return int(threadIdx.x) / (width / run); }
  AG_DEVICE static int column() { return int(threadIdx.x) % (width / run) * run; }
  // Where word i of a tile's column lies, so that neither those who write words wait for each other nor those who read.
  AG_DEVICE static int place(int column, int i) {
    return column * (height / lines) + (i ^ column / run * (run_t / lines));
  }

  // Is all of the tile there? Of others every warp takes the long way.
  AG_DEVICE bool whole(int64_t tile) const {
    return aligned && above(tile) + height <= to.rows && left(tile) + width <= to.columns;
  }
  // The first number of the thread in its first line.
  AG_DEVICE int64_t first(int64_t tile) const {
    return (above(tile) + word() * lines) * to.columns + left(tile) + column();
  }

  AG_DEVICE Numbers<T, run, lines> read(int64_t tile) const {
    const int64_t across_left = to.columns - left(tile) - column(),
                  down_left = to.rows - above(tile) - word() * lines;
    const bool at_once = whole(tile);
    Numbers<T, run, lines> in;
    AG_UNROLL for (int r = 0; r < lines; ++r) in.packs[r] =
        cuda::load<run>(this->x + first(tile) + r * to.columns, at_once, r < down_left ? across_left : 0);
    return in;
  }

  AG_DEVICE void operator()(const Numbers<T, run, lines>& in, unsigned top, int64_t tile, float scale) const {
    AG_SHARED(uint32_t, words, height / lines * width);
    if (sums) sum_columns(in, tile);
    if (whole(tile) && this->is_short(scale, top)) {
      const Nearest<float> nearest{scale, 1 / scale, this->nearest};
      if (to.format == Fp8::e4m3) {
        round_lines<Fp8::e4m3>(words, in, tile, nearest);
      } else {
        round_lines<Fp8::e5m2>(words, in, tile, nearest);
      }
    } else {
      round_long(words, tile, scale);
    }
    __syncthreads();

    AG_UNROLL for (int first = 0; first < width; first += cuda::most_threads / (height / run_t)) {
      const int column = first + int(threadIdx.x) / (height / run_t),
                row = int(threadIdx.x) % (height / run_t) * run_t;
      const auto down = std::bit_cast<cuda::Pack<uint8_t, run_t>>(
          cuda::load<run_t / lines>(words + place(column, row / lines), true));
      const int64_t q = left(tile) + column, i = above(tile) + row, count = q < to.columns ? to.rows - i : 0;
      cuda::store(down, to.y_t + q * to.rows + i, aligned_t && count >= run_t, count);
    }
    __syncthreads();  // before another tile is written
  }

 private:
  // What a warp has of a column is added up in f32, all else in f64. Barriers follow before another tile's are written.
  AG_DEVICE void sum_columns(const Numbers<T, run, lines>& in, int64_t tile) const {
    constexpr int warps = cuda::most_threads / 32;
    AG_SHARED(float, of_warps, warps* width);
    const int thread = int(threadIdx.x);
    AG_UNROLL for (int k = 0; k < run; ++k) {
      float sum = 0;
      AG_UNROLL for (int r = 0; r < lines; ++r) sum += float(in.packs[r].at[k]);
      AG_UNROLL for (int lanes = width / run; lanes < 32; lanes *= 2) sum +=
          __shfl_xor_sync(cuda::all_lanes, sum, lanes);
      if (thread % 32 < width / run) of_warps[thread / 32 * width + column() + k] = sum;
    }
    __syncthreads();
    if (thread < width && left(tile) + thread < to.columns) {
      double total = 0;
      AG_UNROLL for (int w = 0; w < warps; ++w) total += double(of_warps[w * width + thread]);
      sums[unsigned(tile) / across * to.columns + left(tile) + thread] = total;
    }
  }

  template <Fp8 format>
  AG_DEVICE void round_lines(uint32_t* words, const Numbers<T, run, lines>& in, int64_t tile,
                             const Nearest<float>& nearest) const {
    uint32_t codes[run / 4][lines];
    AG_UNROLL for (int r = 0; r < lines; ++r) {
      AG_UNROLL for (int k = 0; k < run; k += 4) {
        const auto pair = [&](int j) {
          return cuda::nearest_fp8_codes(nearest.quotient(float(in.packs[r].at[j])),
                                         nearest.quotient(float(in.packs[r].at[j + 1])), format);
        };
        codes[k / 4][r] = pair(k) | pair(k + 2) << 16;
      }
      const cuda::Pack<uint32_t, run / 4> out{{codes[0][r], codes[1][r]}};
      cuda::store(std::bit_cast<cuda::Pack<uint8_t, run>>(out), to.y + first(tile) + r * to.columns, true);
    }
    AG_UNROLL for (int k = 0; k < run; k += 4) {
      cuda::transpose_bytes(codes[k / 4]);
      AG_UNROLL for (int c = 0; c < 4; ++c) words[place(column() + k + c, word())] = codes[k / 4][c];
    }
  }

  AG_DEVICE void round_long(uint32_t* words, int64_t tile, float scale) const {
    const int lane = int(threadIdx.x) % 32, top = (word() - lane / (width / run)) * lines;
    auto* const codes = reinterpret_cast<uint8_t*>(words);
    for (int e = lane; e < 32 * run * lines; e += 32) {
      const int line = top + e / width, column = e % width;
      const int64_t row = above(tile) + line, q = left(tile) + column;
      if (row >= to.rows || q >= to.columns) continue;
      const int64_t i = row * to.columns + q;
      const uint8_t code = cuda::fp8_code(rounded(float(this->x[i]), scale, this->how, i), to.format);
      to.y[i] = code;
      codes[place(column, line / lines) * lines + line % lines] = code;
    }
  }
};

// A multiprocessor has room for so many blocks: what they have on its way together is more than the registers of one. Tiles,
// whose blocks wait for one another's words, are read one ahead as well (measured on an H100: a fifth less time; pieces
// are slower so).
template <int resident, class F>
__global__ void __launch_bounds__(cuda::most_threads, resident) round_kernel(F f) {
  cuda::begin_kernel();
  f(int64_t(blockIdx.x));
}
template <class Round, class F>
void launch_blocks(const Cuda& device, int64_t blocks, F f) {
  if (blocks > 0)
    cuda::launch("quantize", round_kernel<Round::resident, F>, device.stream,
                 {unsigned(blocks), cuda::most_threads}, f);
}

// About as many blocks as a GPU holds, each with a part after the other: each reads the history, and leaves its amax.
template <class Round>
int64_t blocks_of(const Round& round) {
  constexpr int64_t most = std::min<int64_t>(1 << 9, cuda::most_blocks);
  return std::min(round.parts(), most);
}

// A block's parts are rounded, of which the thread has its `first` numbers, or, where the scale is NaN, only looked at.
// Returns the bits of the thread's largest |x|.
template <class Round, class Numbers>
AG_DEVICE unsigned round_parts(const Round& round, const Numbers& first, int64_t parts, int64_t block,
                               int64_t blocks, float scale) {
  unsigned amax = 0;
  Numbers in = first;
  for (int64_t part = block; part < parts; part += blocks) {
    const Numbers next = Round::reads_ahead ? round.read(part + blocks) : Numbers();
    const unsigned top = in.largest();
    amax = cuda::Larger()(amax, top);
    if (scale == scale) round(in, top, part, scale);
    in = Round::reads_ahead ? next : round.read(part + blocks);
  }
  return amax;
}

// All of it with *scale; none where it has been rounded with that already.
template <class Round>
void round_all(const Cuda& device, const Round& round, const float* scale,
               const float* rounded_with = nullptr) {
  const int64_t parts = round.parts(), blocks = blocks_of(round);
  launch_blocks<Round>(device, blocks, [=] AG_LAMBDA(int64_t block) {
    if (rounded_with && *rounded_with == *scale) return;
    round_parts(round, round.read(block), parts, block, blocks, *scale);
  });
}

AG_DEVICE fp8::detail::Held held_by_block(const fp8::detail::History& history) {
  fp8::detail::Held held;
  const int64_t next = history.place(history.recorded());
  cuda::each_of_row(history.size(), [&](int64_t i) { held.see(history.values[i], i == next); });
  return {cuda::block_reduce(held.amax, 0.f, cuda::Larger()),
          cuda::block_reduce(held.beside, 0.f, cuda::Larger())};
}

// In one launch x is rounded with the predicted scale, its amax found, and, by the block that comes last, the scale made
// of it; another one rounds again where that is not the predicted one.
template <class Round>
void round_by_rule(const Cuda& device, const Round& round, float* scale, const fp8::detail::History& history,
                   const fp8::detail::ScaleRule& rule) {
  const cuda::Scratch<float> predicted(device, 1);
  const int64_t parts = round.parts(), blocks = std::max<int64_t>(blocks_of(round), 1);
  launch_blocks<Round>(
      device, blocks,
      [=, predicted = predicted.data(), tally = cuda::tally(device.index)] AG_LAMBDA(int64_t block) {
        const auto first = round.read(block);  // comes while the history is read
        const fp8::detail::Held held = held_by_block(history);
        const float s = fp8::detail::predicted_scale(history, held, rule);
        const unsigned own = round_parts(round, first, parts, block, blocks, s);
        unsigned amax;
        if (!cuda::take_largest(*tally, own, blocks, amax)) return;
        *predicted = s;
        *scale = fp8::detail::update_scale(history, held, std::bit_cast<float>(amax), rule);
      });
  round_all(device, round, scale, predicted.data());
}

// The sums of x's columns, by way of those of tiles, where they are wanted.
class ColumnSums {
 public:
  ColumnSums(const Cuda& device, const Codes& y)
      : device_(device), y_(y), of_tiles_(device, y.sums ? rows_of_tiles(y) * y.columns : 0) {}

  double* of_tiles() const { return y_.sums ? of_tiles_.data() : nullptr; }
  void add_up() const {
    if (!y_.sums || y_.columns == 0) return;
    cuda::sum_chunks<1>(
        device_, "sum", 1, rows_of_tiles(y_), y_.columns,
        [to = y_.sums] AG_LAMBDA(int64_t, int, int64_t column, double total) { to[column] = float(total); },
        of_tiles());
  }

 private:
  const Cuda& device_;
  const Codes& y_;
  cuda::Scratch<double> of_tiles_;
};

}  // namespace

template <class Out, class T>
void quantize(const Cuda& device, Out* y, const T* x, const float* scale,
              const ElementRounder<Compute<T>>& rounding, int64_t n) {
  round_all(device, RoundPiece<Out, T>(y, x, rounding, n), scale);
}
template <class Out, class T>
void quantize(const Cuda& device, Out* y, const T* x, float* scale, const fp8::detail::History& history,
              const fp8::detail::ScaleRule& rule, const ElementRounder<Compute<T>>& rounding, int64_t n) {
  round_by_rule(device, RoundPiece<Out, T>(y, x, rounding, n), scale, history, rule);
}
template <class T>
void quantize(const Cuda& device, const Codes& y, const T* x, const float* scale,
              const ElementRounder<float>& rounding, int64_t) {
  const ColumnSums sums(device, y);
  round_all(device, RoundTile<T>(y, x, rounding, sums.of_tiles()), scale);
  sums.add_up();
}
template <class T>
void quantize(const Cuda& device, const Codes& y, const T* x, float* scale,
              const fp8::detail::History& history, const fp8::detail::ScaleRule& rule,
              const ElementRounder<float>& rounding, int64_t) {
  const ColumnSums sums(device, y);
  round_by_rule(device, RoundTile<T>(y, x, rounding, sums.of_tiles()), scale, history, rule);
  sums.add_up();
}

void dequantize(const Cuda& device, float* y, const bfloat16* x, const float* scale, int64_t n) {
  cuda::each(device, "dequantize", n, [=] AG_LAMBDA(int64_t i) { y[i] = float(x[i]) * *scale; });
}

template <class T>
void encode(const Cuda& device, uint8_t* codes, const T* x, const float* scale,
            const ElementRounder<T>& rounding, int64_t n) {
  cuda::each(device, "encode", n, [=] AG_LAMBDA(int64_t i) {
    codes[i] = uint8_t(rounding.rounder.code(rounded(x[i], T(*scale), rounding, i)));
  });
}

void decode(const Cuda& device, float* y, const uint8_t* codes, const std::array<float, 256>& table,
            int64_t n, const float* scale) {
  cuda::each(device, "decode", n,
             [=] AG_LAMBDA(int64_t i) { y[i] = scale ? table[codes[i]] * *scale : table[codes[i]]; });
}

template <class T>
void clipped_ste_grad(const Cuda& device, T* dx, const T* dy, const T* x, const float* scale, Compute<T> max,
                      int64_t n) {
  using C = Compute<T>;
  cuda::each(device, "clipped_ste_grad", n, [=] AG_LAMBDA(int64_t i) {
    dx[i] = std::abs(quotient(C(x[i]), C(*scale))) > max ? T(0) : dy[i];
  });
}

void record_amax(const Cuda& device, const fp8::detail::History& history, const float* amax) {
  cuda::each(device, "record_amax", 1, [=] AG_LAMBDA(int64_t) { history.record(*amax); });
}

#define AG_INSTANTIATE_QUANTIZE(Out, T)                                                               \
  template void quantize(const Cuda&, Out, const T*, const float*, const ElementRounder<Compute<T>>&, \
                         int64_t);                                                                    \
  template void quantize(const Cuda&, Out, const T*, float*, const fp8::detail::History&,             \
                         const fp8::detail::ScaleRule&, const ElementRounder<Compute<T>>&, int64_t);
AG_INSTANTIATE_QUANTIZE(bfloat16*, bfloat16)
AG_INSTANTIATE_QUANTIZE(float*, bfloat16)
AG_INSTANTIATE_QUANTIZE(bfloat16*, float)
AG_INSTANTIATE_QUANTIZE(float*, float)
AG_INSTANTIATE_QUANTIZE(double*, double)
AG_INSTANTIATE_QUANTIZE(const Codes&, bfloat16)
AG_INSTANTIATE_QUANTIZE(const Codes&, float)
AG_INSTANTIATE_FLOATING(encode)
AG_INSTANTIATE_STORED(clipped_ste_grad)

}  // namespace on_cuda
}  // namespace altgrad::kernels
