// Kernels that are right, for the tests of the simulator: each uses what it should run as a GPU would.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace altgrad::cuda {

// y = a x + y
void axpy(float* y, const float* x, float a, int64_t n, cudaStream_t stream = nullptr);
// The same by a lambda in a kernel that takes one.
void axpy_by_lambda(float* y, const float* x, float a, int64_t n, cudaStream_t stream = nullptr);
// y (rows) = the sums of the rows of x (rows, n), a block each
template <class T>
void row_sums(T* y, const T* x, int64_t rows, int64_t n, int threads, cudaStream_t stream = nullptr);
// y = x turned by one place within each block of 128, through shared memory, arrays or dynamic
void turn(float* y, const float* x, int64_t blocks, bool dynamic, cudaStream_t stream = nullptr);
// Inclusive sums of 32 numbers by a warp: through memory with __syncwarp, and by __shfl_up_sync
void scan_by_memory(int* y, const int* x, cudaStream_t stream = nullptr);
void scan_by_shuffles(int* y, const int* x, cudaStream_t stream = nullptr);
// y (6 x 32): for each lane, of x its next lane's by __shfl_sync, by xor 5, down by 3, then ballot, any and all of
// x > 0
void votes(int* y, const int* x, cudaStream_t stream = nullptr);
// counts (4): a sum, the largest, the last that was exchanged, and compare-and-swap's ticket, over n threads
void count(unsigned* counts, const unsigned* x, int n, cudaStream_t stream = nullptr);
// y = x by cp.async in two groups; with `waits` false the last group is read without waiting for it
void copy_through_shared(float* y, const float* x, bool waits, cudaStream_t stream = nullptr);
// Where each thread says that it is: its number within the grid
void number_threads(int64_t* y, dim3 grid, dim3 block, cudaStream_t stream = nullptr);
// The order in which threads took a ticket
void take_tickets(unsigned* y, unsigned* counter, int blocks, int threads, cudaStream_t stream = nullptr);
// Which warp took each ticket; a warp takes eight, each between two __syncwarp
void take_warp_tickets(unsigned* y, unsigned* counter, int warps, cudaStream_t stream = nullptr);

// One warp: d (32 lanes x 4) += product of fragments a (32 x 4), b (32 x 2)
void multiply_fragments(float* d, const uint32_t* a, const uint32_t* b, bool tf32,
                        cudaStream_t stream = nullptr);
// One warp: fragments (32 x 4) of four 8 x 8 matrices x, stored one after the other
void load_fragments(uint32_t* fragments, const uint16_t* x, bool transposed, cudaStream_t stream = nullptr);
// c (m, n) = a (m, k) b (n, k)^T in bf16, sums in f32; m and n multiples of 32, k of 16
void matmul_bf16(float* c, const uint16_t* a, const uint16_t* b, int m, int n, int k,
                 cudaStream_t stream = nullptr);

// Launches of a kernel that does nothing, as they are asked for
void launch_empty(dim3 grid, dim3 block, size_t shared_bytes);
// Its dynamic shared memory may have so many bytes.
cudaError_t allow_shared(int bytes);

}  // namespace altgrad::cuda
