// How many threads kernels use, and what becomes of them in a fork.
#include <altgrad/core/parallel.h>

#include <altgrad/core/cpu/parallel.h>
#include <altgrad/core/error.h>

#include <omp.h>
#include <pthread.h>

// Only clang's OpenMP has it, under GCC's names or its own; it needs no help with fork().
extern "C" [[gnu::weak]] int kmp_get_blocktime();

namespace altgrad {
namespace {

std::atomic<int> threads{0};  // 0: OpenMP's default

// A child of fork() has the calling thread alone, and GCC's OpenMP would wait in it for the threads that it had in the
// parent. So they end before the fork, and parent and child start new ones.
void end_threads_before_fork() {
  if (!kmp_get_blocktime) omp_pause_resource_all(omp_pause_hard);
}
[[maybe_unused]] const int fork_handlers = pthread_atfork(end_threads_before_fork, nullptr, nullptr);

}  // namespace

void set_num_threads(int n) {
  if (n < 1) fail("set_num_threads: ", n, " threads");
  threads = n;
}

int num_threads() {
  const int n = threads.load(std::memory_order_relaxed);
  return n ? n : omp_get_max_threads();
}

void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& f) {
  parallel_for(n, grain, [&](int64_t begin, int64_t end) { f(begin, end); });
}

}  // namespace altgrad
