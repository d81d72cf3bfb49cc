// What kernels are written against, by two compilers: nvcc, for a GPU, and any C++ compiler, for the simulated device
// of the tests, which has what nvcc builds in (<simulator/builtins.h>). Shared memory, launches, sums of warps and
// blocks, products on tensor cores; all else in a kernel is CUDA C++ as it stands.
#pragma once

#include <altgrad/core/cuda/check.h>

#include <cstddef>
#include <cstdint>
#include <tuple>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define AG_DEVICE __device__ __forceinline__
#define AG_UNROLL _Pragma("unroll")          // what is indexed in a loop that is not unrolled is no register
#define AG_UNROLL_TWICE _Pragma("unroll 2")  // for long bodies
#define AG_LAMBDA __device__                 // [=] AG_LAMBDA (int64_t i) { ... }, for kernels that take one
#define AG_SHARED(T, name, n) __shared__ __align__(16) T name[n]
#define AG_PLACE
#define AG_AT_PLACE(f, ...) f(__VA_ARGS__)
#else
#include <simulator/builtins.h>
#define AG_DEVICE inline
#define AG_UNROLL
#define AG_UNROLL_TWICE
#define AG_LAMBDA
#define AG_SHARED(T, name, n) T(&name)[n] = altgrad::simulator::shared_array<T, n>([] {})
// Hands the place of a call in a kernel on to a barrier or collective, so that errors name it, and not a line of this
// header.
#define AG_PLACE , altgrad::simulator::Location place = altgrad::simulator::Location::current()
#define AG_AT_PLACE(f, ...) f(__VA_ARGS__ __VA_OPT__(, ) place)
#endif

namespace altgrad::cuda {

// The first statement of each kernel, in all threads. What the stream runs next may come to the multiprocessors from here on;
// the kernel itself goes on when the one before it is done, and what that has written is to be seen. So are those before:
// each has waited here as well. A kernel without it would run beside several others.
AG_DEVICE void begin_kernel() {
#if !defined(__CUDACC__)
  simulator::begin_kernel();
#elif __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" : : : "memory");
  asm volatile("griddepcontrol.wait;" : : : "memory");
#endif
}

struct Grid {
  dim3 blocks, threads;  // of whole warps
  size_t shared_bytes = 0;
};

#if defined(__CUDACC__)
template <class = void>
__global__ void probe_kernel() {
  begin_kernel();
}
// Were kernels compiled so that begin_kernel waits, for the device that is current? Its driver must know graphs of such
// launches as well: the first are CUDA 12.3's.
inline bool begin_kernel_waits() {
  thread_local int known = -1;
  thread_local bool waits;
  int device, driver;
  check(cudaGetDevice(&device), "the current device");
  if (device == known) return waits;
  check(cudaDriverGetVersion(&driver), "the driver");
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, probe_kernel<void>), "a kernel");
  known = device;
  return waits = attributes.ptxVersion >= 90 && driver >= 12030;  // ptxVersion is __CUDA_ARCH__ / 10
}
#endif

// kernel<<<grid.blocks, grid.threads, grid.shared_bytes, stream>>>(arguments...), whose blocks may come to a multiprocessor
// while the stream's last kernel is still running (CUDA C++ Programming Guide, "Programmatic Dependent Launch").
template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), cudaStream_t stream, const Grid& grid,
            const A&... arguments) {
#if defined(__CUDACC__)
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t how{};
  how.gridDim = grid.blocks, how.blockDim = grid.threads, how.dynamicSmemBytes = grid.shared_bytes;
  how.stream = stream;
  how.attrs = &early, how.numAttrs = begin_kernel_waits();
  check(cudaLaunchKernelEx(&how, kernel, static_cast<P>(arguments)...), name);
#else
  const std::tuple<P...> values(static_cast<P>(arguments)...);
  std::apply([&](const P&... value) { (simulator::check_argument(name, value), ...); }, values);
  check(simulator::launch(
            {name, reinterpret_cast<const void*>(kernel), grid.blocks, grid.threads, grid.shared_bytes},
            stream, [=] { std::apply(kernel, values); }),
        name);
#endif
}

// The block's dynamic shared memory.
template <class T>
AG_DEVICE T* shared_memory() {
#if defined(__CUDACC__)
  extern __shared__ __align__(128) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
#else
  return static_cast<T*>(simulator::dynamic_shared());
#endif
}

// ---- Sums: every lane, or thread, gets the result, of additions in an order that does not change ----

constexpr unsigned all_lanes = 0xffffffffu;

template <class T, class F>
AG_DEVICE T warp_reduce(T x, F combine AG_PLACE) {
  for (int bits = 16; bits > 0; bits /= 2) x = combine(x, AG_AT_PLACE(__shfl_xor_sync, all_lanes, x, bits));
  return x;
}
// All threads of the block call it. It may be called again at once.
template <class T, class F>
AG_DEVICE T block_reduce(T x, T neutral, F combine AG_PLACE) {
  AG_SHARED(T, of_warps, 32);
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  x = AG_AT_PLACE(warp_reduce, x, combine);
  if (lane == 0) of_warps[warp] = x;
  AG_AT_PLACE(__syncthreads);
  x = lane < warps ? of_warps[lane] : neutral;
  AG_AT_PLACE(__syncthreads);
  return AG_AT_PLACE(warp_reduce, x, combine);
}

struct Add {
  template <class T>
  AG_DEVICE T operator()(T a, T b) const {
    return a + b;
  }
};
struct Larger {  // NaN, where b is one, does not count
  template <class T>
  AG_DEVICE T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};
template <class T>
AG_DEVICE T warp_sum(T x AG_PLACE) {
  return AG_AT_PLACE(warp_reduce, x, Add());
}
template <class T>
AG_DEVICE T block_sum(T x AG_PLACE) {
  return AG_AT_PLACE(block_reduce, x, T(0), Add());
}

// ---- Blocks of one launch ----

// *p + 1 becomes *p; returns what it was. Who finds a larger number there sees what the others' blocks had written before.
AG_DEVICE unsigned arrive(unsigned* p) {
#if defined(__CUDACC__)
  unsigned before;
  asm volatile("atom.global.acq_rel.gpu.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(p) : "memory");
  return before;
#else
  return std::atomic_ref<unsigned>(*p).fetch_add(1, std::memory_order_acq_rel);
#endif
}

// ---- Tensor cores (PTX ISA, "Matrix fragments for mma.m16n8k16" and "mma.m16n8k8"): d += a b ----
// With g = lane / 4 and t = lane % 4, d (16, 8) is columns 2 t and 2 t + 1 of row g, then of row g + 8.

// a (16, 16), b (16, 8), as pairs of bf16: of a rows g, g + 8, g, g + 8 of columns 2 t and 2 t + 1, the last two of
// columns 2 t + 8 and 2 t + 9; of b rows 2 t and 2 t + 1, then 2 t + 8 and 2 t + 9, of column g.
AG_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] AG_PLACE) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  simulator::multiply_bf16(d, a, b, place);
#endif
}

// a (16, 8), b (8, 8), bits of floats whose low 13 count for nothing: of a (g, t), (g + 8, t), (g, t + 4),
// (g + 8, t + 4); of b (t, g), (t + 4, g).
AG_DEVICE void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] AG_PLACE) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  simulator::multiply_tf32(d, a, b, place);
#endif
}

// Four 8 x 8 matrices of 16-bit values in shared memory, lane l giving the address, aligned to 16 bytes, of row l % 8
// of matrix l / 8. Lane l gets columns 2 (l % 4) and 2 (l % 4) + 1 of row l / 4 of each matrix, or of its transpose.
template <bool transposed = false>
AG_DEVICE void load_matrices(uint32_t (&fragments)[4], const uint16_t* row AG_PLACE) {
#if defined(__CUDACC__)
  const unsigned address = unsigned(__cvta_generic_to_shared(row));
  if constexpr (transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(fragments[0]), "=r"(fragments[1]), "=r"(fragments[2]), "=r"(fragments[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(fragments[0]), "=r"(fragments[1]), "=r"(fragments[2]), "=r"(fragments[3])
                 : "r"(address)
                 : "memory");
  }
#else
  simulator::check_alignment("ldmatrix", row, 16, place);
  uint16_t own[8];
  for (int i = 0; i < 8; ++i) own[i] = row[i];  // here, where sanitizers see which thread reads
  simulator::exchange_rows(fragments, own, transposed, place);
#endif
}

// ---- cp.async: 16 bytes from global to shared memory, there when the thread has waited, to others after a barrier ----

// Zeros, and nothing is read, where there is nothing to copy.
AG_DEVICE void copy_async(void* shared, const void* global, bool is_there = true AG_PLACE) {
#if defined(__CUDACC__)
  const unsigned address = unsigned(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(address), "l"(global), "r"(is_there ? 16 : 0)
               : "memory");
#else
  static constexpr uint4 zeros{};
  simulator::check_alignment("cp.async", shared, 16, place);
  simulator::check_alignment("cp.async", global, 16, place);
  simulator::begin_copy({shared, is_there ? global : &zeros});
#endif
}
AG_DEVICE void commit_copies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" : : : "memory");
#else
  simulator::commit_copies();
#endif
}
// For all groups that were committed but the last `pending` ones.
template <int pending = 0>
AG_DEVICE void wait_for_copies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" : : "n"(pending) : "memory");
#else
  simulator::AsyncCopy copy;
  while (simulator::take_copy(pending, copy))
    *static_cast<uint4*>(copy.to) = *static_cast<const uint4*>(copy.from);
#endif
}

}  // namespace altgrad::cuda
