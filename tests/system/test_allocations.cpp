// The counting operator new, and the proof that it counts.
#include "allocations.h"

#include "catch.h"

#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"  // new is malloc here, so delete is free
#endif

namespace {
std::atomic<int64_t> allocations{0}, held{0}, most{0}, watched_from{0};

void hold(int64_t bytes) {
  const int64_t now = held.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  int64_t seen = most.load(std::memory_order_relaxed);
  while (now > seen && !most.compare_exchange_weak(seen, now, std::memory_order_relaxed)) {
  }
}

void* counted(size_t size, size_t align) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* p = align <= alignof(std::max_align_t)
                ? std::malloc(size ? size : 1)
                : std::aligned_alloc(align, (size + align - 1) / align * align);
  if (!p) throw std::bad_alloc();
  hold(int64_t(::malloc_usable_size(p)));
  return p;
}
void uncounted(void* p) {
  hold(-int64_t(::malloc_usable_size(p)));  // 0 for null
  std::free(p);
}
}  // namespace

int64_t heap_allocations() { return allocations.load(std::memory_order_relaxed); }
void heap_watch() {
  watched_from = held.load();
  most = held.load();
}
int64_t heap_peak() { return most - watched_from; }

void* operator new(size_t size) { return counted(size, 1); }
void* operator new[](size_t size) { return counted(size, 1); }
void* operator new(size_t size, std::align_val_t align) { return counted(size, size_t(align)); }
void* operator new[](size_t size, std::align_val_t align) { return counted(size, size_t(align)); }
// The standard library's calls the one above; AddressSanitizer's does not, and would not match these deletes.
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  try {
    return counted(size, 1);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void operator delete(void* p) noexcept { uncounted(p); }
void operator delete[](void* p) noexcept { uncounted(p); }
void operator delete(void* p, size_t) noexcept { uncounted(p); }
void operator delete[](void* p, size_t) noexcept { uncounted(p); }
void operator delete(void* p, std::align_val_t) noexcept { uncounted(p); }
void operator delete[](void* p, std::align_val_t) noexcept { uncounted(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { uncounted(p); }
void operator delete[](void* p, size_t, std::align_val_t) noexcept { uncounted(p); }

TEST_CASE("the counter of heap allocations counts", "[core]") {
  const int64_t before = heap_allocations();
  const auto p = std::make_unique<int>(3);
  CHECK(*p == 3);
  CHECK(heap_allocations() == before + 1);
}

TEST_CASE("the watch over the heap sees what was held in between", "[core]") {
  heap_watch();
  { const std::vector<char> bytes(1 << 20); }
  CHECK(heap_peak() >= 1 << 20);
  CHECK(heap_peak() < 1 << 21);
  heap_watch();
  CHECK(heap_peak() < 1 << 10);
}
