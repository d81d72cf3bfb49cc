// The runtime's memory: the device's lies in one range that can be touched only while queued work or a copy runs, so
// host code that touches it dies as it would with a GPU. Fresh memory is NaN; behind each allocation is a gap that
// AddressSanitizer watches.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <new>

#include "runtime.h"
#include "sanitizers.h"
#include "simulator.h"

namespace altgrad::simulator {
namespace {

constexpr size_t range_bytes = size_t(1) << 36, granule = 256, page = 2 << 20;

struct Allocation {
  int device;
  size_t bytes;
  size_t taken() const { return (bytes + granule - 1) / granule * granule + granule; }
};

struct Memory {
  char* begin;
  size_t touched = 0;  // bytes from the beginning that were ever in use
  int accesses = 0;
  std::map<const char*, Allocation> allocations;
  std::map<const char*, size_t> pinned;

  Memory() {
    void* const p = mmap(nullptr, range_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    begin = static_cast<char*>(p);
    madvise(begin, range_bytes, MADV_HUGEPAGE);  // small pages would take long to open and to protect
  }
  void protect() {
    if (touched > 0) mprotect(begin, touched, accesses > 0 ? PROT_READ | PROT_WRITE : PROT_NONE);
  }
  size_t in_use(int device) const {
    size_t sum = 0;
    for (const auto& [p, a] : allocations) sum += a.device == device ? a.bytes : 0;
    return sum;
  }
  // The first gap between allocations that is large enough.
  char* place(size_t taken) const {
    const char* p = begin;
    for (const auto& [at, a] : allocations) {
      if (size_t(at - p) >= taken) break;
      p = at + a.taken();
    }
    return p + taken <= begin + range_bytes ? const_cast<char*>(p) : nullptr;
  }
};
Memory& memory() {
  static Memory& all = *new Memory;
  return all;
}

bool holds(const std::map<const char*, size_t>& blocks, const char* p) {
  const auto next = blocks.upper_bound(p);
  return next != blocks.begin() && p < std::prev(next)->first + std::prev(next)->second;
}

// May `bytes` at p be the device's, or the host's, as the copy says?
bool fits(const void* p, size_t bytes, bool on_device) {
  return on_device ? is_device(p, bytes) : p != nullptr && !is_device(p);
}
bool is_valid(const void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (kind == cudaMemcpyDefault) return fits(to, bytes, is_device(to)) && fits(from, bytes, is_device(from));
  return fits(to, bytes, kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice) &&
         fits(from, bytes, kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice);
}

}  // namespace

Access::Access() {
  if (memory().accesses++ == 0) memory().protect();
}
Access::~Access() {
  if (--memory().accesses == 0) memory().protect();
}
bool is_device(const void* p) { return p >= memory().begin && p < memory().begin + range_bytes; }
bool is_device(const void* p, size_t bytes) {
  const auto next = memory().allocations.upper_bound(static_cast<const char*>(p));
  if (next == memory().allocations.begin()) return false;
  const auto& [begin, allocation] = *std::prev(next);
  return static_cast<const char*>(p) + bytes <= begin + allocation.bytes;
}
bool is_pinned(const void* p) { return holds(memory().pinned, static_cast<const char*>(p)); }

}  // namespace altgrad::simulator

using namespace altgrad::simulator;

extern "C" {

cudaError_t cudaMalloc(void** p, size_t bytes) {
  const Lock lock;
  if (capture_forbids()) return error(cudaErrorStreamCaptureUnsupported);
  if (current_device() >= settings().devices) return error(cudaErrorNoDevice);
  *p = nullptr;
  if (bytes == 0) return cudaSuccess;
  Memory& m = memory();
  const Allocation allocation{current_device(), bytes};
  const size_t taken = allocation.taken(), used = m.in_use(allocation.device);
  if (used > settings().memory || bytes > settings().memory - used) return error(cudaErrorMemoryAllocation);
  char* const begin = m.place(taken);
  if (!begin) return error(cudaErrorMemoryAllocation);
  m.allocations[begin] = allocation;
  m.touched = std::max(m.touched, (size_t(begin + taken - m.begin) + page - 1) / page * page);
  const Access access;
  m.protect();
  ASAN_UNPOISON_MEMORY_REGION(begin, bytes);
  std::memset(begin, 0xff, bytes);
  ASAN_POISON_MEMORY_REGION(begin + bytes, taken - bytes);
  *p = begin;
  return cudaSuccess;
}

cudaError_t cudaFree(void* p) {
  const Lock lock;
  if (!p) return cudaSuccess;
  if (capture_forbids()) return error(cudaErrorStreamCaptureUnsupported);
  count_wait();
  drain_all();
  Memory& m = memory();
  const auto found = m.allocations.find(static_cast<char*>(p));
  if (found == m.allocations.end()) return error(cudaErrorInvalidValue);
  // The system takes back whole pages that this allocation had for itself.
  char* const begin = static_cast<char*>(p);
  char* const first = m.begin + (size_t(begin - m.begin) + page - 1) / page * page;
  char* const last = m.begin + size_t(begin + found->second.bytes - m.begin) / page * page;
  if (first < last) madvise(first, size_t(last - first), MADV_DONTNEED);
  ASAN_POISON_MEMORY_REGION(p, found->second.bytes);
  m.allocations.erase(found);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const Lock lock;
  *total = settings().memory;
  *free = *total - std::min(*total, memory().in_use(current_device()));
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  const Lock lock;
  if (capture_forbids()) return error(cudaErrorStreamCaptureUnsupported);
  if (posix_memalign(p, granule, bytes) != 0) return error(cudaErrorMemoryAllocation);
  memory().pinned[static_cast<char*>(*p)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** p, size_t bytes) { return cudaHostAlloc(p, bytes, 0); }

cudaError_t cudaFreeHost(void* p) {
  const Lock lock;
  if (!p) return cudaSuccess;
  if (capture_forbids()) return error(cudaErrorStreamCaptureUnsupported);
  count_wait();
  drain_all();
  if (memory().pinned.erase(static_cast<char*>(p)) == 0) return error(cudaErrorInvalidValue);
  std::free(p);
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* p) {
  const Lock lock;
  *attributes = {};
  attributes->type = cudaMemoryTypeUnregistered;
  attributes->device = -1;
  if (is_device(p, 1)) {
    attributes->type = cudaMemoryTypeDevice;
    attributes->device =
        std::prev(memory().allocations.upper_bound(static_cast<const char*>(p)))->second.device;
    attributes->devicePointer = const_cast<void*>(p);
  } else if (is_pinned(p)) {
    attributes->type = cudaMemoryTypeHost;
    attributes->device = 0;
    attributes->devicePointer = attributes->hostPointer = const_cast<void*>(p);
  } else {
    attributes->hostPointer = const_cast<void*>(p);
  }
  return cudaSuccess;
}

// Waits for the null stream alone, as CUDA does where all others are non-blocking.
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const Lock lock;
  if (capture_forbids()) return error(cudaErrorStreamCaptureUnsupported);
  if (bytes == 0) return cudaSuccess;
  if (!is_valid(to, from, bytes, kind)) return error(cudaErrorInvalidValue);
  count_wait();
  drain(nullptr);
  const Access access;
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

// Pinned memory is read or written when the copy runs. Pageable memory: what the host gives is taken aside at once,
// what the device gives is waited for.
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const Lock lock;
  if (bytes == 0) return cudaSuccess;
  if (!is_valid(to, from, bytes, kind)) return error(cudaErrorInvalidValue);
  const bool takes_aside = !is_device(from) && !is_pinned(from), waits = !is_device(to) && !is_pinned(to);
  if ((takes_aside || waits) && capture_forbids(stream)) return error(cudaErrorStreamCaptureUnsupported);
  if (takes_aside) {
    const std::shared_ptr<char[]> aside(new char[bytes]);
    std::memcpy(aside.get(), from, bytes);
    return error(enqueue(stream, {"copy", [=] { std::memcpy(to, aside.get(), bytes); }}));
  }
  const cudaError_t status = enqueue(stream, {"copy", [=] { std::memcpy(to, from, bytes); }});
  if (waits && status == cudaSuccess) {
    count_wait();
    drain(stream);
  }
  return error(status);
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  const Lock lock;
  if (bytes == 0) return cudaSuccess;
  if (!is_device(to, bytes)) return error(cudaErrorInvalidValue);
  return error(enqueue(stream, {"memset", [=] { std::memset(to, value, bytes); }}));
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  return cudaMemsetAsync(to, value, bytes, nullptr);
}

}  // extern "C"
