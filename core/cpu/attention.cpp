// Causal attention in strips: the scores of `strip` queries against the keys up to theirs are all that is
// ever in memory. Queries, keys and values are read where they lie in the packed qkv.
#include <altgrad/core/cpu/matmul.h>
#include <altgrad/core/cpu/parallel.h>
#include <altgrad/core/internal/instantiate.h>
#include <altgrad/core/internal/kernels/attention.h>
#include <altgrad/core/internal/math.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace altgrad::kernels {
inline namespace on_cpu {
namespace {

constexpr int64_t strip = 32;  // queries handled together, and the unit of keys they are scored against

// The distance from one row of scores to the next is the keys' in whole units and a little more, or long rows would share
// cache sets.
int64_t row_stride(int64_t keys) { return round_up(keys, strip) + 16; }

// Sets the scores of a block of `strip` keys on the diagonal that come after query r's own to x.
template <class T>
void mask_diagonal(T* __restrict block, int64_t r, T x) {
  for (int j = 0; j < int(strip); ++j) block[j] = j <= int(r) ? block[j] : x;
}

// Where the parts of one head lie.
template <class T>
struct Head {
  int64_t length, size, channels;
  const T *q, *k, *v;  // rows 3 * channels apart

  Head(const T* qkv, int64_t pair, int64_t length, int64_t heads, int64_t size)
      : length(length), size(size), channels(heads * size) {
    q = qkv + pair / heads * length * stride() + pair % heads * size;
    k = q + channels;
    v = k + channels;
  }
  int64_t stride() const { return 3 * channels; }
  // Rows of q, k or v as they are, and transposed.
  cpu::MatrixView<T> rows(const T* of, int64_t first = 0) const {
    return {of + first * stride(), stride(), 1};
  }
  cpu::MatrixView<T> columns(const T* of, int64_t first = 0) const {
    return {of + first * stride(), 1, stride()};
  }
  // Elements for any of its matrices as a cpu::PackedB, in whole lines of the cache.
  int64_t packed_size() const {
    return round_up(std::max(cpu::PackedB<T>::size(size, length), cpu::PackedB<T>::size(length, size)), 16);
  }
};

// y (rows, size) = softmax(scores) values for queries `from`, from + 1, ... of the strip that begins with the key `first`:
// a sum over keys runs over the whole strip, whichever of its queries are here, and so to the same bits. lse may be null.
template <class T>
void attend(T* y, int64_t ldy, T* scores, int64_t ld, int64_t first, int64_t from, int64_t rows, int64_t size,
            const cpu::PackedB<T>& values, LogSumExp<T>* lse) {
  T inverse[strip];
  for (int64_t r = 0; r < rows; ++r) {  // exp(s - max), and 1 / its sum
    T* __restrict s = scores + r * ld;
    mask_diagonal(s + first, from + r, -std::numeric_limits<T>::infinity());
    T top = s[0];
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < first + strip; ++j) top = s[j] > top ? s[j] : top;
    T total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < first + strip; ++j) total += s[j] = math::exp_bounded(s[j] - top);
    inverse[r] = T(1) / total;
    if (lse) lse[r] = {top, std::log(total)};
  }
  values.multiply(y, ldy, {scores, ld, 1}, rows, size, first + from + rows, T(1), T(0));
  for (int64_t r = 0; r < rows; ++r) {
    T* __restrict row = y + r * ldy;
    for (int64_t c = 0; c < size; ++c) row[c] *= inverse[r];
  }
}

}  // namespace

// The strips of a head are one task where there are heads for all threads; else they are dealt out to several,
// each of which packs the head for itself.
template <class T>
void attention(const Cpu&, T* y, LogSumExp<T>* lse, const T* qkv, int64_t batch, int64_t length,
               int64_t heads, int64_t head_size) {
  const int64_t pairs = batch * heads, strips = std::max<int64_t>(1, divide_up(length, strip));
  const int64_t parts =
      std::clamp<int64_t>(2 * int64_t(num_threads()) / std::max<int64_t>(pairs, 1), 1, strips);
  const T scale = T(1) / std::sqrt(T(head_size));
  parallel_tasks(pairs * parts, [=](int64_t task) {
    const int64_t pair = task / parts;
    const Head<T> head(qkv, pair, length, heads, head_size);
    const int64_t ld = row_stride(length), space = head.packed_size();
    T* const scores = static_cast<T*>(scratch(size_t(strip * ld + 2 * space) * sizeof(T)));
    T* const out = y + pair / heads * length * head.channels + pair % heads * head_size;
    const cpu::PackedB<T> keys(scores + strip * ld, head.columns(head.k), head_size, length);
    const cpu::PackedB<T> values(scores + strip * ld + space, head.rows(head.v), length, head_size);
    for (int64_t first = task % parts * strip; first < length; first += parts * strip) {
      const int64_t rows = std::min(strip, length - first);
      keys.multiply(scores, ld, head.rows(head.q, first), rows, first + rows, head_size, scale, T(0));
      attend(out + first * head.channels, head.channels, scores, ld, first, 0, rows, head_size, values,
             lse + pair * length + first);
    }
  });
}

template <class T>
void extend_cache(const Cpu&, T* keys, T* values, const T* qkv, const CachedSequence* sequences,
                  int64_t capacity, int64_t batch, int64_t length, int64_t heads, int64_t head_size) {
  static_assert(cache_block == strip);
  parallel_tasks(batch * heads, [=](int64_t pair) {
    const Head<T> head(qkv, pair, length, heads, head_size);
    const CachedSequence& sequence = sequences[pair / heads];
    const int64_t at = (sequence.index * heads + pair % heads) * capacity * head_size;
    for (int64_t t = 0; t < length; ++t) {
      const int64_t position = sequence.length + t;
      const T *const k = head.k + t * head.stride(), *const v = head.v + t * head.stride();
      T* const column = keys + at + position / strip * strip * head_size + position % strip;
      for (int64_t c = 0; c < head_size; ++c) column[c * strip] = k[c];
      std::copy_n(v, head_size, values + at + position * head_size);
    }
  });
}

// The strips are those of the whole sequence, and a task has a strip, or those of its queries that there are.
template <class T>
void cached_attention(const Cpu&, T* y, const T* keys, const T* values, const T* qkv,
                      const CachedSequence* sequences, int64_t capacity, int64_t batch, int64_t length,
                      int64_t heads, int64_t head_size) {
  const int64_t strips = divide_up(length - 1, strip) + 1,
                channels = heads * head_size;  // at most, wherever they begin
  const T scale = T(1) / std::sqrt(T(head_size));
  parallel_tasks(batch * heads * strips, [=](int64_t task) {
    const int64_t pair = task / strips;
    const Head<T> head(qkv, pair, length, heads, head_size);
    const auto [sequence, held] = sequences[pair / heads];
    const int64_t first = (held / strip + task % strips) * strip, query = std::max(first, held),
                  rows = std::min(first + strip, held + length) - query;
    if (rows <= 0) return;
    const int64_t at = (sequence * heads + pair % heads) * capacity * head_size, end = query + rows,
                  ld = row_stride(end);
    const int64_t space =
        std::max(cpu::PackedB<T>::size(head_size, strip), cpu::PackedB<T>::size(end, head_size));
    T* const scores = static_cast<T*>(scratch(size_t(strip * ld + space) * sizeof(T)));
    T* const packed = scores + strip * ld;
    for (int64_t block = 0; block <= first; block += strip) {
      const cpu::PackedB<T> columns(packed, {keys + at + block * head_size, strip, 1}, head_size, strip,
                                    rows);
      columns.multiply(scores + block, ld, head.rows(head.q, query - held), rows, strip, head_size, scale,
                       T(0));
    }
    const cpu::PackedB<T> all(packed, {values + at, head_size, 1}, end, head_size, rows);
    attend(y + (pair / heads * length + query - held) * channels + pair % heads * head_size, channels, scores,
           ld, first, query - first, rows, head_size, all, static_cast<LogSumExp<T>*>(nullptr));
  });
}

// One thread has all strips of a head, so its dk and dv are sums in a fixed order. The last strip comes
// first: it reaches all keys, so it sets dk and dv and the others add to them.
template <class T>
void attention_grad(const Cpu&, T* dqkv, const T* dy, const T* qkv, const T* y, const LogSumExp<T>* lse,
                    int64_t batch, int64_t length, int64_t heads, int64_t head_size) {
  const int64_t strips = divide_up(length, strip);
  const T scale = T(1) / std::sqrt(T(head_size));
  parallel_tasks(batch * heads, [=](int64_t pair) {
    const Head<T> head(qkv, pair, length, heads, head_size);
    const int64_t stride = head.stride(), channels = head.channels;
    T* const dq = dqkv + (head.q - qkv);
    const int64_t at = pair / heads * length * channels + pair % heads * head_size;
    const int64_t ld = row_stride(length), space = head.packed_size();
    T* const probs = static_cast<T*>(scratch(size_t(2 * strip * ld + 4 * space) * sizeof(T)));
    T* const dscores = probs + strip * ld;
    T* const memory = dscores + strip * ld;
    const cpu::PackedB<T> keys(memory, head.columns(head.k), head_size, length);
    const cpu::PackedB<T> values(memory + space, head.columns(head.v), head_size, length);
    const cpu::PackedB<T> key_rows(memory + 2 * space, head.rows(head.k), length, head_size);
    for (int64_t i = strips - 1; i >= 0; --i) {
      const int64_t first = i * strip, rows = std::min(strip, length - first), count = first + rows;
      const cpu::MatrixView<T> queries = head.rows(head.q, first),
                               dout{dy + at + first * channels, channels, 1};
      keys.multiply(probs, ld, queries, rows, count, head_size, scale, T(0));
      values.multiply(dscores, ld, dout, rows, count, head_size, T(1), T(0));
      for (int64_t r = 0; r < rows; ++r) {
        T* __restrict p = probs + r * ld, * __restrict ds = dscores + r * ld;
        const T* __restrict g = dy + at + (first + r) * channels, * __restrict out =
                                                                      y + at + (first + r) * channels;
        const auto [top, log_sum] = lse[pair * length + first + r];
        T delta = 0;
#pragma omp simd reduction(+ : delta)
        for (int64_t c = 0; c < head_size; ++c) delta += g[c] * out[c];
        mask_diagonal(p + first, r, -std::numeric_limits<T>::infinity());
        mask_diagonal(ds + first, r, T(0));
        for (int64_t j = 0; j < first + strip; ++j) {
          p[j] = math::exp_bounded((p[j] - top) - log_sum);
          ds[j] = scale * p[j] * (ds[j] - delta);
        }
      }
      const T add = i == strips - 1 ? 0 : 1;
      key_rows.multiply(dq + first * stride, stride, {dscores, ld, 1}, rows, head_size, count, T(1), T(0));
      const cpu::PackedB<T> query_rows(memory + 3 * space, queries, rows, head_size);
      query_rows.multiply(dq + channels, stride, {dscores, 1, ld}, count, head_size, rows, T(1), add);
      const cpu::PackedB<T> dout_rows(memory + 3 * space, dout, rows, head_size);
      dout_rows.multiply(dq + 2 * channels, stride, {probs, 1, ld}, count, head_size, rows, T(1), add);
    }
  });
}

AG_INSTANTIATE_FLOATING(attention)
AG_INSTANTIATE_FLOATING(extend_cache)
AG_INSTANTIATE_FLOATING(cached_attention)
AG_INSTANTIATE_FLOATING(attention_grad)

}  // namespace on_cpu
}  // namespace altgrad::kernels
