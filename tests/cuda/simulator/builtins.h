// What nvcc builds in, for a C++ compiler: threadIdx, barriers, warp collectives, atomics. The threads of a block are
// fibers of one OS thread: each runs until it meets a barrier or a collective, then the next one does. Blocks run one
// after the other.
//
// It is stricter than the hardware, so that what passes is portable: every thread of a block must reach the same
// __syncthreads (none may have returned), collectives take all 32 lanes, a block is whole warps. What is missing here
// (__threadfence, atomics on floats, plain __shared__, parts of a warp) is missing on purpose.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#undef __shared__
#define __shared__ static_assert(false, "AG_SHARED declares shared memory");
#undef __forceinline__
#define __forceinline__ inline
#undef __launch_bounds__
#define __launch_bounds__(...)

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace altgrad::simulator {

// A place in the source, by default that of the call whose default argument it is. (clang 14 has no
// std::source_location.)
struct Location {
  const char* file = "";
  int line = 0;
  static constexpr Location current(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

// ---- Launches ----

struct Launch {
  const char* name;
  const void* kernel;
  dim3 grid, block;
  size_t shared_bytes;
};
// Queues body() for each thread of each block.
cudaError_t launch(const Launch& what, cudaStream_t stream, std::function<void()> body);
// Each thread must have called it when it returns.
void begin_kernel();
// A pointer that a kernel is given must be one that a GPU can follow.
void check_pointer(const char* kernel, const void* p);
template <class T>
void check_argument(const char* kernel, const T& argument) {
  if constexpr (std::is_pointer_v<T>) check_pointer(kernel, argument);
}

// ---- Shared memory of the block that runs ----

void* dynamic_shared();
void* static_shared(const void* key, size_t bytes);
// The block's array of this place in the source. A static variable would not do: nobody could fill it with NaNs for
// each block (GCC leaves the statics of function templates where they are, whatever section is asked for).
template <class T, size_t n, class Place>
auto shared_array(Place) -> T (&)[n] {
  static const char key = 0;
  return *static_cast<T(*)[n]>(static_shared(&key, sizeof(T) * n));
}

// ---- Barriers and warp collectives: each waits until all lanes have come ----

void block_barrier(Location where);
void warp_barrier(unsigned mask, Location where);
// What lane `source` brought; the lane's own value where that is none of the warp's.
uint64_t shuffle_bits(const char* what, unsigned mask, uint64_t value, int source, Location where);
template <class T>
T shuffle(const char* what, unsigned mask, T value, int source, Location where) {
  static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = shuffle_bits(what, mask, bits, source, where);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
unsigned ballot(const char* what, unsigned mask, bool predicate, Location where);
// d += a b, of fragments as mma.sync has them.
void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Location where);
void multiply_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Location where);
// Four 8 x 8 matrices of 16-bit values: lane l brings row l % 8 of matrix l / 8, and gets fragments as ldmatrix has
// them.
void exchange_rows(uint32_t (&fragments)[4], const uint16_t (&row)[8], bool transposed, Location where);
int lane();

// ---- Copies from global to shared memory that run when the thread waits for them, as late as they may ----

struct AsyncCopy {
  void* to;
  const void* from;
};
void begin_copy(AsyncCopy copy);
void commit_copies();
// Takes the next copy of all groups but the last `pending` ones; false where there is none.
bool take_copy(int pending, AsyncCopy& copy);

// Throws an Error where p is not aligned.
[[noreturn]] void fail_alignment(const char* what, size_t bytes, Location where);
inline void check_alignment(const char* what, const void* p, size_t bytes, Location where) {
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0) fail_alignment(what, bytes, where);
}

template <class T>
concept Atomic = std::integral<T>;  // sums of floats would depend on who comes first

}  // namespace altgrad::simulator

#define AG_WHERE altgrad::simulator::Location where = altgrad::simulator::Location::current()

inline void __syncthreads(AG_WHERE) { altgrad::simulator::block_barrier(where); }
inline void __syncwarp(unsigned mask = ~0u, AG_WHERE) { altgrad::simulator::warp_barrier(mask, where); }

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, AG_WHERE) {
  return altgrad::simulator::shuffle("__shfl_sync", mask, value, lane & 31, where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, AG_WHERE) {
  const int source = altgrad::simulator::lane() ^ bits;
  return altgrad::simulator::shuffle("__shfl_xor_sync", mask, value, source, where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, AG_WHERE) {
  const int source = altgrad::simulator::lane() - int(by);
  return altgrad::simulator::shuffle("__shfl_up_sync", mask, value, source, where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, AG_WHERE) {
  const int source = altgrad::simulator::lane() + int(by);
  return altgrad::simulator::shuffle("__shfl_down_sync", mask, value, source, where);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, AG_WHERE) {
  return altgrad::simulator::ballot("__ballot_sync", mask, predicate != 0, where);
}
inline int __any_sync(unsigned mask, int predicate, AG_WHERE) {
  return altgrad::simulator::ballot("__any_sync", mask, predicate != 0, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, AG_WHERE) {
  return altgrad::simulator::ballot("__all_sync", mask, predicate != 0, where) == ~0u;
}
#undef AG_WHERE

// As on the device, atomics order no other access.
template <altgrad::simulator::Atomic T>
T atomicAdd(T* p, std::type_identity_t<T> x) {
  return std::atomic_ref<T>(*p).fetch_add(x, std::memory_order_relaxed);
}
template <altgrad::simulator::Atomic T>
T atomicExch(T* p, std::type_identity_t<T> x) {
  return std::atomic_ref<T>(*p).exchange(x, std::memory_order_relaxed);
}
template <altgrad::simulator::Atomic T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> desired) {
  std::atomic_ref<T>(*p).compare_exchange_strong(expected, desired, std::memory_order_relaxed);
  return expected;
}
template <altgrad::simulator::Atomic T>
T atomicMax(T* p, std::type_identity_t<T> x) {
  const std::atomic_ref<T> at(*p);
  T old = at.load(std::memory_order_relaxed);
  while (old < x && !at.compare_exchange_weak(old, x, std::memory_order_relaxed)) continue;
  return old;
}
