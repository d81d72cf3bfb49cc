#include "kernels.h"

#include <altgrad/core/cuda/device.h>

namespace altgrad::cuda {
namespace {

unsigned blocks_for(int64_t n, int threads) { return unsigned((n + threads - 1) / threads); }

__global__ void __launch_bounds__(128) axpy_kernel(float* y, const float* x, float a, int64_t n) {
  begin_kernel();
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) y[i] += a * x[i];
}

// Over a grid that may be smaller than n.
template <class F>
__global__ void each_kernel(F f, int64_t n) {
  begin_kernel();
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += int64_t(gridDim.x) * blockDim.x)
    f(i);
}

template <class T>
__global__ void row_sums_kernel(T* y, const T* x, int64_t n) {
  begin_kernel();
  T sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += x[int64_t(blockIdx.x) * n + i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) y[blockIdx.x] = sum;
}

__global__ void turn_kernel(float* y, const float* x) {
  begin_kernel();
  AG_SHARED(float, s, 128);
  s[threadIdx.x] = x[blockIdx.x * 128 + threadIdx.x];
  __syncthreads();
  y[blockIdx.x * 128 + threadIdx.x] = s[(threadIdx.x + 1) % 128];
}
__global__ void turn_dynamic_kernel(float* y, const float* x) {
  begin_kernel();
  float* const s = shared_memory<float>();
  s[threadIdx.x] = x[blockIdx.x * 128 + threadIdx.x];
  __syncthreads();
  y[blockIdx.x * 128 + threadIdx.x] = s[(threadIdx.x + 1) % 128];
}

__global__ void scan_by_memory_kernel(int* y, const int* x) {
  begin_kernel();
  AG_SHARED(int, s, 32);
  int sum = x[threadIdx.x];
  for (unsigned by = 1; by < 32; by *= 2) {
    s[threadIdx.x] = sum;
    __syncwarp();
    if (threadIdx.x >= by) sum += s[threadIdx.x - by];
    __syncwarp();
  }
  y[threadIdx.x] = sum;
}
__global__ void scan_by_shuffles_kernel(int* y, const int* x) {
  begin_kernel();
  int sum = x[threadIdx.x];
  for (unsigned by = 1; by < 32; by *= 2) {
    const int other = __shfl_up_sync(all_lanes, sum, by);
    if (threadIdx.x >= by) sum += other;
  }
  y[threadIdx.x] = sum;
}

__global__ void votes_kernel(int* y, const int* x) {
  begin_kernel();
  const int lane = int(threadIdx.x), own = x[lane];
  y[lane] = __shfl_sync(all_lanes, own, lane + 1);
  y[32 + lane] = __shfl_xor_sync(all_lanes, own, 5);
  y[64 + lane] = __shfl_down_sync(all_lanes, own, 3);
  y[96 + lane] = int(__ballot_sync(all_lanes, own > 0));
  y[128 + lane] = __any_sync(all_lanes, own > 0);
  y[160 + lane] = __all_sync(all_lanes, own > 0);
}

__global__ void count_kernel(unsigned* counts, const unsigned* x, int n) {
  begin_kernel();
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  atomicAdd(&counts[0], x[i]);
  atomicMax(&counts[1], x[i]);
  atomicExch(&counts[2], 7u);
  unsigned ticket = 0;
  while (atomicCAS(&counts[3], ticket, ticket + 1) != ticket) ++ticket;
}

template <bool waits>
__global__ void copy_kernel(float* y, const float* x) {
  begin_kernel();
  AG_SHARED(float, s, 256);
  copy_async(&s[4 * threadIdx.x], &x[4 * threadIdx.x]);
  commit_copies();
  copy_async(&s[128 + 4 * threadIdx.x], &x[128 + 4 * threadIdx.x]);
  commit_copies();
  wait_for_copies<1>();
  __syncthreads();
  for (unsigned i = threadIdx.x; i < 128; i += 32) y[i] = s[i];
  if (waits) wait_for_copies();
  __syncthreads();
  for (unsigned i = threadIdx.x; i < 128; i += 32) y[128 + i] = s[128 + i];
}

__global__ void number_kernel(int64_t* y) {
  begin_kernel();
  const int64_t block = (int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int64_t thread = (int64_t(threadIdx.z) * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const int64_t i = block * (blockDim.x * blockDim.y * blockDim.z) + thread;
  y[i] = i;
}

__global__ void ticket_kernel(unsigned* y, unsigned* counter) {
  begin_kernel();
  y[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(counter, 1u);
}

__global__ void warp_ticket_kernel(unsigned* y, unsigned* counter) {
  begin_kernel();
  __syncwarp();
  for (int i = 0; i < 8; ++i) {
    if (threadIdx.x % 32 == 0) y[atomicAdd(counter, 1u)] = threadIdx.x / 32;
    __syncwarp();
  }
}

template <bool tf32>
__global__ void fragments_kernel(float* d, const uint32_t* a, const uint32_t* b) {
  begin_kernel();
  float sums[4];
  uint32_t of_a[4], of_b[2];
  for (unsigned i = 0; i < 4; ++i) sums[i] = d[threadIdx.x * 4 + i];
  for (unsigned i = 0; i < 4; ++i) of_a[i] = a[threadIdx.x * 4 + i];
  for (unsigned i = 0; i < 2; ++i) of_b[i] = b[threadIdx.x * 2 + i];
  if (tf32) {
    mma_tf32(sums, of_a, of_b);
  } else {
    mma_bf16(sums, of_a, of_b);
  }
  for (unsigned i = 0; i < 4; ++i) d[threadIdx.x * 4 + i] = sums[i];
}

template <bool transposed>
__global__ void load_kernel(uint32_t* fragments, const uint16_t* x) {
  begin_kernel();
  AG_SHARED(uint16_t, s, 256);
  for (unsigned i = threadIdx.x; i < 256; i += 32) s[i] = x[i];
  __syncwarp();
  uint32_t own[4];
  load_matrices<transposed>(own, &s[8 * threadIdx.x]);
  for (unsigned i = 0; i < 4; ++i) fragments[threadIdx.x * 4 + i] = own[i];
}

// A block of four warps has 32 x 32 of c, a warp 16 x 16. Rows in shared memory are 24 apart, so that ldmatrix meets
// no bank twice.
__global__ void __launch_bounds__(128)
    matmul_kernel(float* c, const uint16_t* a, const uint16_t* b, int n, int k) {
  begin_kernel();
  constexpr int pitch = 24;
  AG_SHARED(uint16_t, as, 32 * pitch);
  AG_SHARED(uint16_t, bs, 32 * pitch);
  const int thread = int(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int row = warp / 2 * 16, column = warp % 2 * 16;
  const int64_t first_row = int64_t(blockIdx.y) * 32, first_column = int64_t(blockIdx.x) * 32;
  float left[4] = {}, right[4] = {};  // columns 0 to 7 and 8 to 15
  for (int k0 = 0; k0 < k; k0 += 16) {
    const int r = thread % 64 / 2, at = thread % 2 * 8;
    const uint16_t* const from = thread < 64 ? a + (first_row + r) * k : b + (first_column + r) * k;
    copy_async((thread < 64 ? as : bs) + r * pitch + at, from + k0 + at);
    commit_copies();
    wait_for_copies();
    __syncthreads();
    uint32_t of_a[4], of_b[4];
    load_matrices(of_a, as + (row + lane % 16) * pitch + lane / 16 * 8);
    load_matrices(of_b, bs + (column + lane % 8 + lane / 16 * 8) * pitch + lane / 8 % 2 * 8);
    const uint32_t of_left[2] = {of_b[0], of_b[1]}, of_right[2] = {of_b[2], of_b[3]};
    mma_bf16(left, of_a, of_left);
    mma_bf16(right, of_a, of_right);
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i) {
    float* const to =
        c + (first_row + row + lane / 4 + i / 2 * 8) * n + first_column + column + lane % 4 * 2 + i % 2;
    to[0] = left[i];
    to[8] = right[i];
  }
}

__global__ void empty_kernel() { begin_kernel(); }

}  // namespace

void axpy(float* y, const float* x, float a, int64_t n, cudaStream_t stream) {
  launch("axpy", axpy_kernel, stream, {blocks_for(n, 128), 128}, y, x, a, n);
}
void axpy_by_lambda(float* y, const float* x, float a, int64_t n, cudaStream_t stream) {
  const auto f = [=] AG_LAMBDA(int64_t i) { y[i] += a * x[i]; };
  launch("axpy", each_kernel<decltype(f)>, stream, {2, 64}, f, n);
}
template <class T>
void row_sums(T* y, const T* x, int64_t rows, int64_t n, int threads, cudaStream_t stream) {
  launch("row_sums", row_sums_kernel<T>, stream, {unsigned(rows), unsigned(threads)}, y, x, n);
}
template void row_sums(float*, const float*, int64_t, int64_t, int, cudaStream_t);
template void row_sums(double*, const double*, int64_t, int64_t, int, cudaStream_t);
void turn(float* y, const float* x, int64_t blocks, bool dynamic, cudaStream_t stream) {
  if (dynamic) {
    launch("turn", turn_dynamic_kernel, stream, {unsigned(blocks), 128, 128 * sizeof(float)}, y, x);
  } else {
    launch("turn", turn_kernel, stream, {unsigned(blocks), 128}, y, x);
  }
}
void scan_by_memory(int* y, const int* x, cudaStream_t stream) {
  launch("scan_by_memory", scan_by_memory_kernel, stream, {1, 32}, y, x);
}
void scan_by_shuffles(int* y, const int* x, cudaStream_t stream) {
  launch("scan_by_shuffles", scan_by_shuffles_kernel, stream, {1, 32}, y, x);
}
void votes(int* y, const int* x, cudaStream_t stream) {
  launch("votes", votes_kernel, stream, {1, 32}, y, x);
}
void count(unsigned* counts, const unsigned* x, int n, cudaStream_t stream) {
  launch("count", count_kernel, stream, {blocks_for(n, 64), 64}, counts, x, n);
}
void copy_through_shared(float* y, const float* x, bool waits, cudaStream_t stream) {
  launch("copy", waits ? copy_kernel<true> : copy_kernel<false>, stream, {1, 32}, y, x);
}
void number_threads(int64_t* y, dim3 grid, dim3 block, cudaStream_t stream) {
  launch("number_threads", number_kernel, stream, {grid, block}, y);
}
void take_tickets(unsigned* y, unsigned* counter, int blocks, int threads, cudaStream_t stream) {
  launch("take_tickets", ticket_kernel, stream, {unsigned(blocks), unsigned(threads)}, y, counter);
}
void take_warp_tickets(unsigned* y, unsigned* counter, int warps, cudaStream_t stream) {
  launch("take_warp_tickets", warp_ticket_kernel, stream, {1, 32 * unsigned(warps)}, y, counter);
}
void multiply_fragments(float* d, const uint32_t* a, const uint32_t* b, bool tf32, cudaStream_t stream) {
  launch("fragments", tf32 ? fragments_kernel<true> : fragments_kernel<false>, stream, {1, 32}, d, a, b);
}
void load_fragments(uint32_t* fragments, const uint16_t* x, bool transposed, cudaStream_t stream) {
  launch("load", transposed ? load_kernel<true> : load_kernel<false>, stream, {1, 32}, fragments, x);
}
void matmul_bf16(float* c, const uint16_t* a, const uint16_t* b, int m, int n, int k, cudaStream_t stream) {
  launch("matmul_bf16", matmul_kernel, stream, {{unsigned(n / 32), unsigned(m / 32)}, 128}, c, a, b, n, k);
}
void launch_empty(dim3 grid, dim3 block, size_t shared_bytes) {
  launch("empty", empty_kernel, nullptr, {grid, block, shared_bytes});
}
cudaError_t allow_shared(int bytes) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(empty_kernel),
                              cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

}  // namespace altgrad::cuda
