// Sharing loops among threads. Results never depend on how a loop was cut: each index is computed by itself,
// and reductions go through a number of chunks that depends on the size alone.
#pragma once

#include <altgrad/core/cpu/clones.h>
#include <altgrad/core/float_environment.h>
#include <altgrad/core/internal/strict_math.h>
#include <altgrad/core/memory.h>
#include <altgrad/core/parallel.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <new>
#include <utility>

namespace altgrad {

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t n, int64_t unit) { return divide_up(n, unit) * unit; }

// No exception may leave an OpenMP region: one of those that threads throw is thrown again behind it.
class FirstError {
 public:
  template <class F>
  void guard(F&& f) noexcept {
    try {
      f();
    } catch (...) {
      if (!taken_.test_and_set()) error_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::atomic_flag taken_ = ATOMIC_FLAG_INIT;
  std::exception_ptr error_;
};

// f(begin, end) on pieces of [0, n), on at most one thread for every `grain` indices; pieces begin at
// multiples of 64, or of a grain that is smaller.
template <class F>
void parallel_for(int64_t n, int64_t grain, F&& f) {
  const int64_t threads = std::min<int64_t>(num_threads(), n / std::max<int64_t>(grain, 1));
  const auto run = [&](int64_t begin, int64_t end) { cpu::call_best([&] { f(begin, end); }); };
  if (threads <= 1) {
    if (n > 0) run(0, n);
    return;
  }
  const int64_t unit = std::clamp<int64_t>(grain, 1, 64);
  const int64_t piece = round_up(divide_up(n, threads), unit);
  FirstError error;
#pragma omp parallel for num_threads(int(threads)) schedule(static, 1)
  for (int64_t t = 0; t < threads; ++t) {
    if (t * piece >= n) continue;
    const DefaultFloatEnvironment environment;  // threads inherit that of the one that started them
    error.guard([&] { run(t * piece, std::min(n, (t + 1) * piece)); });
  }
  error.rethrow();
}

// f(r) for each of `rows` rows of n elements, on at most one thread for every `grain` elements.
template <class F>
void parallel_rows(int64_t rows, int64_t n, int64_t grain, F&& f) {
  parallel_for(rows, std::max<int64_t>(1, grain / std::max<int64_t>(1, n)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) f(r);
  });
}

// f(i) for each task: for tasks that are few or large. Each thread has a run of neighbours, the same each time, whose
// memory so stays in its cache.
template <class F>
void parallel_tasks(int64_t tasks, F&& f) {
  const int threads = int(std::min<int64_t>(num_threads(), std::max<int64_t>(tasks, 1)));
  FirstError error;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t i = 0; i < tasks; ++i) {
    const DefaultFloatEnvironment environment;
    error.guard([&] { cpu::call_best([&] { f(i); }); });
  }
  error.rethrow();
}

// The sum over [0, n) as doubles: partial(begin, end) gives each of at most 64 chunks, added up in order.
template <class F>
double chunked_sum(int64_t n, F&& partial) {
  constexpr int64_t max_chunks = 64, min_chunk = 4096;
  const int64_t chunk = std::max(divide_up(n, max_chunks), min_chunk), chunks = divide_up(n, chunk);
  double sums[max_chunks];
  parallel_tasks(chunks, [&](int64_t i) { sums[i] = partial(i * chunk, std::min(n, (i + 1) * chunk)); });
  double total = 0;
  for (int64_t i = 0; i < chunks; ++i) total += sums[i];
  return total;
}

// Memory of the calling thread, kept from call to call. The next call with the same Tag may move it. Static destructors
// may still ask for some when the thread has given its own back.
template <class Tag>
void* thread_memory(size_t bytes) {
  struct Buffer {
    void* data;
    size_t bytes;
  };
  static thread_local constinit Buffer buffer{};
  struct AtEnd {
    ~AtEnd() { std::free(std::exchange(buffer, {}).data); }
  };
  static thread_local const AtEnd at_end;
  if (buffer.bytes < bytes) {
    std::free(std::exchange(buffer, {}).data);
    const size_t pages = size_t(round_up(int64_t(bytes), 4096));
    void* const data = detail::host_allocate(pages);
    if (!data) throw std::bad_alloc();
    buffer = {data, pages};
  }
  return buffer.data;
}
// What a kernel works in, and what a matrix product inside it packs its operands into.
inline void* scratch(size_t bytes) { return thread_memory<struct Scratch>(bytes); }
inline void* packing_memory(size_t bytes) { return thread_memory<struct Packing>(bytes); }

}  // namespace altgrad
