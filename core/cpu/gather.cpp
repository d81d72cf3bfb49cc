// Gathering rows by index, and adding them back.
#include <altgrad/core/cpu/parallel.h>
#include <altgrad/core/internal/instantiate.h>
#include <altgrad/core/internal/kernels/gather.h>

#include <algorithm>

namespace altgrad::kernels {
inline namespace on_cpu {

template <class T>
void gather(const Cpu&, T* y, const T* x, const int64_t* ids, int64_t outer, int64_t n, int64_t count,
            int64_t inner) {
  if (inner == 0) return;  // outer * count may be anything
  parallel_rows(outer * count, inner, 1 << 14, [=](int64_t i) {
    std::copy_n(x + (i / count * n + ids[i % count]) * inner, inner, y + i * inner);
  });
}

// A thread owns a block of columns of one outer index and adds the rows in the order of ids: no two threads
// meet.
template <class T>
void gather_grad(const Cpu&, T* dx, double beta, const T* dy, const int64_t* ids, int64_t outer, int64_t n,
                 int64_t count, int64_t inner) {
  if (n == 0) return;  // outer may be anything
  constexpr int64_t block = 64;
  const int64_t blocks = divide_up(inner, block);
  parallel_tasks(outer * blocks, [=](int64_t task) {
    const int64_t o = task / blocks, first = task % blocks * block, columns = std::min(block, inner - first);
    for (int64_t i = 0; beta == 0 && i < n; ++i) std::fill_n(dx + (o * n + i) * inner + first, columns, T(0));
    for (int64_t i = 0; i < count; ++i) {
      T* __restrict to = dx + (o * n + ids[i]) * inner + first;
      const T* __restrict from = dy + (o * count + i) * inner + first;
      for (int64_t c = 0; c < columns; ++c) to[c] += from[c];
    }
  });
}

void check_ids(const Cpu&, const IdRange& range, const int64_t* ids) {
  const int64_t* const end = ids + range.shape.numel();
  const int64_t* const wrong = std::find_if(ids, end, [&](int64_t id) { return !range.holds(id); });
  if (wrong != end) fail_id(range, wrong - ids, *wrong);
}

AG_INSTANTIATE_FLOATING(gather)
AG_INSTANTIATE_FLOATING(gather_grad)

}  // namespace on_cpu
}  // namespace altgrad::kernels
