// The caching allocator. One mutex guards a device's lists and slabs.
#include <altgrad/core/memory.h>

#include <altgrad/core/cuda/cuda.h>
#include <altgrad/core/error.h>
#include <altgrad/core/internal/graph.h>
#include <altgrad/core/internal/regions.h>

#include <pthread.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace altgrad {
namespace {

constexpr size_t alignment = 64;

constexpr size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

// Rounds up to a size class: eight to each doubling, at least 64 bytes.
size_t size_class(size_t bytes) {
  if (bytes <= alignment) return alignment;
  return round_up(bytes, std::max(std::bit_floor(bytes - 1) / 8, alignment));
}

// Kernels that walk a matrix by columns touch a page with every row.
constexpr size_t huge_page = size_t(2) << 20;
void ask_for_huge_pages([[maybe_unused]] void* p, [[maybe_unused]] size_t bytes) {
#if defined(MADV_HUGEPAGE)
  madvise(p, bytes, MADV_HUGEPAGE);
#endif
}

void* system_allocate(size_t bytes, Device device) {
  switch (device.type) {
    case DeviceType::cpu: return detail::host_allocate(bytes);
    case DeviceType::cuda: return cuda::allocate(bytes, device.index);
  }
  fail_runtime("a device of type ", int(device.type), " is not there");
}
void system_free(void* p, Device device) {
  switch (device.type) {
    case DeviceType::cpu: return std::free(p);
    case DeviceType::cuda: return cuda::free(p, device.index);
  }
}

// A sanitizer sees the bounds of blocks that come from the system one by one.
#if !defined(__has_feature)
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
constexpr bool sanitizing = true;
#else
constexpr bool sanitizing = false;
#endif

// Where the CPU's smaller blocks are cut from, one after the other: huge pages serve them too. Aligned to its own
// size, so that a block's address gives its slab.
struct Slab {
  static constexpr size_t size = size_t(32) << 20, largest_block = size_t(1) << 20;
  size_t used = alignment;  // this struct comes first
  int64_t living = 0;       // blocks that tensors hold

  static Slab& of(void* p) { return *reinterpret_cast<Slab*>(reinterpret_cast<uintptr_t>(p) & ~(size - 1)); }
  void* cut(size_t bytes) { return reinterpret_cast<char*>(this) + std::exchange(used, used + bytes); }
};
static_assert(sizeof(Slab) <= alignment);

class Cache {
 public:
  explicit Cache(Device device) : device_(device) {}

  void* allocate(size_t bytes) {
    if (void* p = reuse(bytes)) return p;
    if (void* p = make(bytes)) return p;
    release();
    if (void* p = make(bytes)) return p;
    fail_runtime("out of memory on ", device_, ": asked for ", bytes, " bytes, ", stats().in_use, " in use");
  }

  void free(void* p, size_t bytes) noexcept {
    std::lock_guard lock(mutex_);
    if (detail::GraphMemory* const graph = graph_of(p)) return keep(*graph, p, bytes);
    stats_.in_use -= int64_t(bytes);
    const Source source = source_of(bytes);
    if (source == Source::slab) --Slab::of(p).living;
    try {
      if (source == Source::region) return regions_.give(p, bytes);
      free_[bytes].push_back(p);
      stats_.cached += int64_t(bytes);
    } catch (const std::bad_alloc&) {  // no room to remember it
      if (source == Source::system) system_free(p, device_);
    }
  }

  void release() {
    std::vector<void*> unused;
    {
      std::lock_guard lock(mutex_);
      if (recording_) return;  // to give back is to wait
      for (auto& [bytes, list] : free_) {
        const bool in_slabs = source_of(bytes) == Source::slab;
        const auto stays = [=](void* p) { return in_slabs && Slab::of(p).living > 0; };
        const auto first_unused = std::partition(list.begin(), list.end(), stays);
        if (!in_slabs) unused.insert(unused.end(), first_unused, list.end());
        stats_.cached -= int64_t(bytes) * (list.end() - first_unused);
        list.erase(first_unused, list.end());
      }
      const auto first_unused =
          std::partition(slabs_.begin(), slabs_.end(), [](Slab* s) { return s->living > 0; });
      unused.insert(unused.end(), first_unused, slabs_.end());
      slabs_.erase(first_unused, slabs_.end());
      regions_.release_pages();
    }
    for (void* p : unused) system_free(p, device_);
  }

  MemoryStats stats() {
    std::lock_guard lock(mutex_);
    MemoryStats stats = stats_;
    stats.cached += int64_t(regions_.free_bytes());
    return stats;
  }
  void reset_peak() {
    std::lock_guard lock(mutex_);
    stats_.peak = stats_.in_use;
  }
  std::mutex& mutex() { return mutex_; }

  // From now on blocks are taken and given back for this graph, or, null, for none.
  void record(detail::GraphMemory* graph) {
    std::lock_guard lock(mutex_);
    recording_ = graph;
  }
  void disown(detail::GraphMemory& graph) {
    std::lock_guard lock(mutex_);
    std::erase_if(graphs_, [&](const auto& block) { return block.second == &graph; });
    for (const auto& [bytes, list] : graph.free) {
      stats_.in_use -= int64_t(bytes * list.size());
      stats_.cached += int64_t(bytes * list.size());
      free_[bytes].insert(free_[bytes].end(), list.begin(), list.end());
    }
  }

 private:
  // Where blocks of a size class come from.
  enum class Source { system, slab, region };
  Source source_of(size_t bytes) const {
    if (sanitizing || !device_.is_cpu()) return Source::system;
    return bytes <= Slab::largest_block ? Source::slab : Source::region;
  }

  // A free block, null where there is none.
  void* reuse(size_t bytes) {
    std::lock_guard lock(mutex_);
    if (recording_) {
      if (void* p = pop(recording_->free[bytes])) return p;  // it has been in use all the time
    }
    const bool in_region = source_of(bytes) == Source::region;
    void* p = in_region ? regions_.take(bytes) : pop(free_[bytes]);
    if (!p) return nullptr;
    if (!in_region) stats_.cached -= int64_t(bytes);
    use(p, bytes);
    return p;
  }

  // A new block, null where the system has no memory.
  void* make(size_t bytes) {
    const Source source = source_of(bytes);
    void* p = source == Source::system ? system_allocate(bytes, device_) : nullptr;
    std::lock_guard lock(mutex_);
    if (source == Source::slab) p = cut(bytes);
    if (source == Source::region) p = regions_.extend(bytes);
    if (!p) return nullptr;
    ++stats_.system_allocations;
    use(p, bytes);
    return p;
  }

  static void* pop(std::vector<void*>& list) {
    if (list.empty()) return nullptr;
    void* p = list.back();
    list.pop_back();
    return p;
  }

  void* cut(size_t bytes) {
    auto fits = std::find_if(slabs_.begin(), slabs_.end(),
                             [&](const Slab* slab) { return Slab::size - slab->used >= bytes; });
    if (fits == slabs_.end()) {
      slabs_.reserve(slabs_.size() + 1);
      void* memory = std::aligned_alloc(Slab::size, Slab::size);
      if (!memory) return nullptr;
      ask_for_huge_pages(memory, Slab::size);
      fits = slabs_.insert(slabs_.end(), new (memory) Slab);
    }
    return (*fits)->cut(bytes);
  }

  void use(void* p, size_t bytes) {
    if (source_of(bytes) == Source::slab) ++Slab::of(p).living;
    stats_.in_use += int64_t(bytes);
    stats_.peak = std::max(stats_.peak, stats_.in_use);
    if (recording_) graphs_[p] = recording_;
  }

  // The graph that a block is kept for when it is given back, null where there is none.
  detail::GraphMemory* graph_of(void* p) const {
    const auto found = graphs_.find(p);
    return found == graphs_.end() ? recording_ : found->second;
  }
  void keep(detail::GraphMemory& graph, void* p, size_t bytes) noexcept {
    try {
      graphs_[p] = &graph;
      graph.free[bytes].push_back(p);
    } catch (const std::bad_alloc&) {  // no room to remember it, and the graph may write to it
    }
  }

  Device device_;
  std::mutex mutex_;
  std::map<size_t, std::vector<void*>> free_;
  std::vector<Slab*> slabs_;
  detail::Regions regions_;
  MemoryStats stats_;                                       // cached: but for the regions'
  detail::GraphMemory* recording_ = nullptr;                // whose recording is under way
  std::unordered_map<void*, detail::GraphMemory*> graphs_;  // whose memory a block is
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

// A child of fork() has the calling thread alone, so no other thread may be in the CPU's cache then.
void lock_for_fork() { cache(Device::cpu()).mutex().lock(); }
void unlock_after_fork() { cache(Device::cpu()).mutex().unlock(); }
[[maybe_unused]] const int fork_handlers =
    pthread_atfork(lock_for_fork, unlock_after_fork, unlock_after_fork);

}  // namespace

MemoryStats memory_stats(Device device) { return cache(device).stats(); }
void reset_peak_memory(Device device) { cache(device).reset_peak(); }
void empty_cache(Device device) { cache(device).release(); }

namespace detail {

void* host_allocate(size_t bytes) {
  if (bytes < huge_page / 4) return std::aligned_alloc(alignment, round_up(bytes, alignment));
  const size_t pages = round_up(bytes, huge_page);
  void* p = std::aligned_alloc(huge_page, pages);
  if (p) ask_for_huge_pages(p, pages);
  return p;
}

GraphMemory::~GraphMemory() { cache(device_).disown(*this); }
void GraphMemory::begin() { cache(device_).record(this); }
void GraphMemory::end() { cache(device_).record(nullptr); }

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
  static constexpr size_t most = 1 << 16;  // of a list: one thread may free what another one makes
  Free* lists[pool_classes] = {};
  size_t lengths[pool_classes] = {};
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
    --pool.lengths[index];
    return std::exchange(pool.lists[index], pool.lists[index]->next);
  }
  void* p = std::aligned_alloc(pool_step, (index + 1) * pool_step);
  if (!p) throw std::bad_alloc();
  return p;
}

void pool_free(void* p, size_t size) {
  const size_t index = (size - 1) / pool_step;
  if (index < pool_classes && Pool::alive && pool.lengths[index] < Pool::most) {
    ++pool.lengths[index];
    pool.lists[index] = new (p) Pool::Free{pool.lists[index]};
  } else {
    std::free(p);
  }
}

}  // namespace detail
}  // namespace altgrad
