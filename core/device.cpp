#include <altgrad/core/device.h>

#include <altgrad/core/dtype.h>
#include <altgrad/core/error.h>

#include <omp.h>

#include <atomic>
#include <ostream>

namespace altgrad {
namespace {
std::atomic<int> threads{0};  // 0: OpenMP's default
}

void set_num_threads(int n) {
  if (n < 1) fail("set_num_threads: ", n, " threads");
  threads = n;
}

int num_threads() {
  const int n = threads.load(std::memory_order_relaxed);
  return n ? n : omp_get_max_threads();
}

std::ostream& operator<<(std::ostream& out, const Device& device) {
  return device.is_cpu() ? out << "cpu" : out << "cuda:" << device.index;
}
std::ostream& operator<<(std::ostream& out, DType t) { return out << name_of(t); }

}  // namespace altgrad
