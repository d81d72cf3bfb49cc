// Tensor memory: 64-byte aligned blocks from a cache of free lists, one list a size class (multiples of 64
// bytes, eight classes to each doubling, so that a block is at most an eighth larger than what was asked for).
// A freed block goes back to its list and the system is asked only when a list is empty, so a training step
// that repeats allocates nothing. On the CPU, memory is asked for in huge pages: blocks of up to 1 MiB are cut from
// slabs of 32 MiB, larger ones from regions (core/internal/regions.h), where memory serves blocks of any size in turn.
#pragma once

#include <altgrad/core/device.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

ALTGRAD_API_BEGIN
namespace altgrad {

/// All are in bytes but the last one. Sizes are those of the size classes, not of the requests.
struct MemoryStats {
  int64_t in_use = 0;              ///< held by living tensors and captured steps
  int64_t peak = 0;                ///< the highest in_use since reset_peak_memory
  int64_t cached = 0;              ///< free, kept for reuse
  int64_t system_allocations = 0;  ///< blocks made so far, no free one being there
};
MemoryStats memory_stats(Device device = Device::cpu());
void reset_peak_memory(Device device = Device::cpu());
/// Gives cached memory back to the system: all but what lies in a slab, of blocks of up to 1 MiB, with a living tensor.
void empty_cache(Device device = Device::cpu());

namespace detail {

/// Allocates memory of the CPU, aligned to 64 bytes, for std::free: from 512 KiB on in huge pages where the system has
/// them. Gives null where there is none left.
void* host_allocate(size_t bytes);

/// One block of memory, shared by the tensors that alias it.
struct Storage {
  std::atomic<int> refs{0};
  void* data = nullptr;
  size_t bytes = 0;                   ///< of the size class
  std::atomic<uint64_t> contents{0};  ///< see contents_of (core/tensor.h); 0 where nobody has asked
  Device device;

  /// Throws std::runtime_error where the system has no memory or the device is not there.
  Storage(size_t bytes, Device device);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  static void* operator new(size_t size);
  static void operator delete(void* p);
};

/// Small objects (tensor bodies, storages) come from per-thread free lists, not from the heap.
void* pool_allocate(size_t size);
void pool_free(void* p, size_t size);

/// Intrusive shared pointer to a T with an atomic `refs`.
template <class T>
class Ref {
 public:
  Ref() = default;
  explicit Ref(T* p) : p_(p) { acquire(); }
  Ref(const Ref& other) : p_(other.p_) { acquire(); }
  Ref(Ref&& other) noexcept : p_(std::exchange(other.p_, nullptr)) {}
  Ref& operator=(Ref other) noexcept {
    std::swap(p_, other.p_);
    return *this;
  }
  ~Ref() {
    if (p_ && p_->refs.fetch_sub(1, std::memory_order_acq_rel) == 1) delete p_;
  }
  T* get() const { return p_; }
  T* operator->() const { return p_; }
  T& operator*() const { return *p_; }
  explicit operator bool() const { return p_ != nullptr; }
  bool unique() const { return p_ && p_->refs.load(std::memory_order_acquire) == 1; }

 private:
  void acquire() {
    if (p_) p_->refs.fetch_add(1, std::memory_order_relaxed);
  }
  T* p_ = nullptr;
};

}  // namespace detail
}  // namespace altgrad
ALTGRAD_API_END
