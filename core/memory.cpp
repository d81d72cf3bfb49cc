// The caching allocator. One mutex guards a device's lists: it is held for a few instructions and never while
// the system is asked.
#include <altgrad/core/memory.h>

#include <altgrad/core/cuda/cuda.h>
#include <altgrad/core/error.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace altgrad {
namespace {

constexpr size_t alignment = 64;

// Rounds up to a size class: four to each doubling, at least 64 bytes.
size_t size_class(size_t bytes) {
  if (bytes <= alignment) return alignment;
  const size_t step = std::max(std::bit_floor(bytes - 1) / 4, alignment);
  return (bytes + step - 1) / step * step;
}

// Large blocks ask for huge pages: kernels that walk a matrix by columns touch a page with every row.
void* system_allocate(size_t bytes, Device device) {
  if (!device.is_cpu()) return cuda::allocate(bytes, device.index);
#if defined(MADV_HUGEPAGE)
  constexpr size_t huge_page = size_t(2) << 20;
  if (bytes >= huge_page) {
    void* p = std::aligned_alloc(huge_page, (bytes + huge_page - 1) / huge_page * huge_page);
    if (p) madvise(p, bytes, MADV_HUGEPAGE);
    return p;
  }
#endif
  return std::aligned_alloc(alignment, bytes);
}
void system_free(void* p, Device device) { device.is_cpu() ? std::free(p) : cuda::free(p, device.index); }

class Cache {
 public:
  explicit Cache(Device device) : device_(device) {}

  void* allocate(size_t bytes) {
    {
      std::lock_guard lock(mutex_);
      auto& list = free_[bytes];
      if (!list.empty()) {
        void* p = list.back();
        list.pop_back();
        stats_.cached -= int64_t(bytes);
        use(bytes);
        return p;
      }
    }
    void* p = system_allocate(bytes, device_);
    if (!p) {
      release();
      p = system_allocate(bytes, device_);
    }
    std::lock_guard lock(mutex_);
    if (!p) {
      fail_runtime("out of memory on ", device_, ": asked for ", bytes, " bytes, ", stats_.in_use, " in use");
    }
    ++stats_.system_allocations;
    use(bytes);
    return p;
  }

  void free(void* p, size_t bytes) noexcept {
    std::lock_guard lock(mutex_);
    stats_.in_use -= int64_t(bytes);
    try {
      free_[bytes].push_back(p);
      stats_.cached += int64_t(bytes);
    } catch (const std::bad_alloc&) {  // no room to remember it
      system_free(p, device_);
    }
  }

  void release() {
    std::map<size_t, std::vector<void*>> taken;
    {
      std::lock_guard lock(mutex_);
      taken.swap(free_);
      stats_.cached = 0;
    }
    for (auto& [bytes, list] : taken) {
      for (void* p : list) system_free(p, device_);
    }
  }

  MemoryStats stats() {
    std::lock_guard lock(mutex_);
    return stats_;
  }
  void reset_peak() {
    std::lock_guard lock(mutex_);
    stats_.peak = stats_.in_use;
  }

 private:
  void use(size_t bytes) {
    stats_.in_use += int64_t(bytes);
    stats_.peak = std::max(stats_.peak, stats_.in_use);
  }

  Device device_;
  std::mutex mutex_;
  std::map<size_t, std::vector<void*>> free_;
  MemoryStats stats_;
};

// Caches live as long as the process: tensors in static variables may outlive any destructor order.
Cache& cache(Device device) {
  if (device.is_cpu()) {
    static Cache& cpu = *new Cache(Device::cpu());
    return cpu;
  }
  static std::mutex& mutex = *new std::mutex;
  static auto& caches = *new std::map<int, Cache>;
  std::lock_guard lock(mutex);
  return caches.try_emplace(device.index, device).first->second;
}

}  // namespace

MemoryStats memory_stats(Device device) { return cache(device).stats(); }
void reset_peak_memory(Device device) { cache(device).reset_peak(); }
void empty_cache(Device device) { cache(device).release(); }

namespace detail {

Storage::Storage(size_t bytes_, Device device_) : bytes(size_class(bytes_)), device(device_) {
  data = cache(device).allocate(bytes);
}
Storage::~Storage() { cache(device).free(data, bytes); }
void* Storage::operator new(size_t size) { return pool_allocate(size); }
void Storage::operator delete(void* p) { pool_free(p, sizeof(Storage)); }

namespace {
constexpr size_t pool_step = 64, pool_classes = 8;

// The thread's free objects, one list a multiple of 64 bytes; given back when the thread ends.
struct Pool {
  struct Free {
    Free* next;
  };
  Free* lists[pool_classes] = {};
  ~Pool() {
    for (Free*& list : lists) {
      while (list) std::free(std::exchange(list, list->next));
    }
    alive = false;
  }
  static thread_local bool alive;
};
thread_local bool Pool::alive = true;
thread_local Pool pool;
}  // namespace

void* pool_allocate(size_t size) {
  const size_t index = (size - 1) / pool_step;
  if (index < pool_classes && Pool::alive && pool.lists[index]) {
    return std::exchange(pool.lists[index], pool.lists[index]->next);
  }
  void* p = std::aligned_alloc(pool_step, (index + 1) * pool_step);
  if (!p) throw std::bad_alloc();
  return p;
}

void pool_free(void* p, size_t size) {
  const size_t index = (size - 1) / pool_step;
  if (index < pool_classes && Pool::alive) {
    pool.lists[index] = new (p) Pool::Free{pool.lists[index]};
  } else {
    std::free(p);
  }
}

}  // namespace detail
}  // namespace altgrad
