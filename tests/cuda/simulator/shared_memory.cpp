// Shared memory of the block that runs: dynamic memory, then each array when a thread first asks for it, all filled
// with NaNs, with gaps that AddressSanitizer lets nobody touch.
#include <sys/mman.h>

#include <new>

#include "block.h"
#include "sanitizers.h"

namespace altgrad::simulator {
namespace {

// What barriers' addresses take (two for the block, two for each of its warps), then what kernels get.
constexpr size_t address_bytes = 4096, gap = 64, granule = 128;
// Gaps and rounding of many small arrays come on top of what is counted.
constexpr size_t space = address_bytes + 2 * largest_shared_limit;

struct Array {
  const void* key;
  char* memory;
};

// At `place`, or anywhere where it is null.
char* map(char* place, size_t bytes) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | (place ? MAP_FIXED : 0);
  void* const p = mmap(place, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  return static_cast<char*>(p);
}
char* memory() {
  static char* const all = [] {
    char* const p = map(nullptr, space);
    ASAN_POISON_MEMORY_REGION(p, space);
    return p;
  }();
  return all;
}
size_t used = address_bytes, counted = 0;
std::vector<Array> arrays;

char* take(size_t bytes) {
  char* const p = memory() + used;
  used += (bytes + gap + granule - 1) / granule * granule;
  ASAN_UNPOISON_MEMORY_REGION(p, bytes);
  // Not by memset, which ThreadSanitizer would take for an access by the thread that asks.
  auto* const words = reinterpret_cast<volatile uint64_t*>(p);
  for (size_t i = 0; i < bytes / 8; ++i) words[i] = ~uint64_t(0);
  auto* const each = reinterpret_cast<volatile unsigned char*>(p);
  for (size_t i = bytes / 8 * 8; i < bytes; ++i) each[i] = 0xff;
  return p;
}

}  // namespace

void reset_shared(size_t dynamic_bytes) {
#if SIMULATOR_TSAN
  // To ThreadSanitizer memory that is unmapped and mapped is new: blocks share neither it nor their barriers.
  munmap(memory(), used);
  map(memory(), used);
#endif
  ASAN_POISON_MEMORY_REGION(memory(), used);
  used = address_bytes;
  counted = 0;
  arrays.clear();
  take(dynamic_bytes);
}

void* barrier_address() { return memory() + 8 * (block.barrier.number % 2); }
void* warp_address() {
  return memory() + 16 * (1 + thread_number() / warp_size) + 8 * (own_warp().number % 2);
}

void* dynamic_shared() { return memory() + address_bytes; }

void* static_shared(const void* key, size_t bytes) {
  for (const Array& a : arrays) {
    if (a.key == key) return a.memory;
  }
  counted += bytes;
  const size_t dynamic = block.launch->shared_bytes;
  const bool opted_in = allowed_dynamic_shared(block.launch->kernel) > default_shared_limit;
  const size_t allowed = opted_in ? shared_limit() : default_shared_limit;
  if (counted > default_shared_limit || counted + dynamic > allowed) {
    throw Error(std::string(block.launch->name) + ": " + std::to_string(counted) +
                " bytes of shared arrays (at most " + std::to_string(default_shared_limit) + ") and " +
                std::to_string(dynamic) + " of dynamic memory (with it " + std::to_string(allowed) + ")");
  }
  arrays.push_back({key, take(bytes)});
  return arrays.back().memory;
}

}  // namespace altgrad::simulator
