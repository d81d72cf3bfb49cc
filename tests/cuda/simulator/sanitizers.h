// Which sanitizers watch the kernels. ThreadSanitizer's builds compile the simulator itself without it, so that its own
// bookkeeping is not taken for what kernels do, and say so by SIMULATOR_TSAN.
#pragma once

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMULATOR_ASAN 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define SIMULATOR_ASAN 1
#endif
#if !defined(SIMULATOR_ASAN)
#define SIMULATOR_ASAN 0
#endif
#if !defined(SIMULATOR_TSAN)
#define SIMULATOR_TSAN 0
#endif

#if SIMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) (static_cast<void>(p), static_cast<void>(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) (static_cast<void>(p), static_cast<void>(n))
#endif
#if SIMULATOR_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace altgrad::simulator {

// All the ordering between threads that ThreadSanitizer is told of: what was released at an address, for who acquires
// there.
#if SIMULATOR_TSAN
inline void release(void* address) { __tsan_release(address); }
inline void acquire(void* address) { __tsan_acquire(address); }
#else
inline void release(void*) {}
inline void acquire(void*) {}
#endif

}  // namespace altgrad::simulator
