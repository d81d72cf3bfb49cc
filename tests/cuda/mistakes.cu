// Kernels that are wrong on purpose, one for each mistake that the simulator or a sanitizer must catch.
// `cuda_mistakes NAME` makes that one and prints what it leads to; test_mistakes*.cpp say what that must be. A
// comment MISTAKE marks the lines that a report has to name.
#include <altgrad/core/cuda/device.h>

#include <simulator/simulator.h>
#include <cstdio>
#include <functional>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "buffer.h"

namespace {

using namespace altgrad;
using namespace altgrad::cuda;

// ---- Races ----

__global__ void race_in_block(float* y, const float* x) {
  begin_kernel();
  AG_SHARED(float, s, 128);
  s[threadIdx.x] = x[threadIdx.x];               // MISTAKE race_in_block, writes
  y[threadIdx.x] = s[(threadIdx.x + 33) % 128];  // MISTAKE race_in_block, reads
}
// The first phase is right; the second has a race of its own.
__global__ void race_after_barrier(float* y, const float* x) {
  begin_kernel();
  AG_SHARED(float, s, 128);
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  const float other = s[(threadIdx.x + 33) % 128];
  __syncthreads();
  s[threadIdx.x] = other;                        // MISTAKE race_after_barrier, writes
  y[threadIdx.x] = s[(threadIdx.x + 33) % 128];  // MISTAKE race_after_barrier, reads
  __syncthreads();
}
__global__ void race_in_warp(float* y, const float* x) {
  begin_kernel();
  AG_SHARED(float, s, 32);
  s[threadIdx.x] = x[threadIdx.x];       // MISTAKE race_in_warp, writes
  y[threadIdx.x] = s[31 - threadIdx.x];  // MISTAKE race_in_warp, reads
}
// Shuffles bring values, and order nothing else.
__global__ void race_after_shuffle(float* y, const float* x) {
  begin_kernel();
  AG_SHARED(float, s, 32);
  s[threadIdx.x] = warp_sum(x[threadIdx.x]);  // MISTAKE race_after_shuffle, writes
  const float same = __shfl_xor_sync(all_lanes, 1.0f, 1);
  y[threadIdx.x] = same * s[31 - threadIdx.x];  // MISTAKE race_after_shuffle, reads
}
__global__ void race_after_syncwarp(float* y, const float* x) {
  begin_kernel();
  AG_SHARED(float, s, 32);
  s[threadIdx.x] = x[threadIdx.x];
  __syncwarp();
  const float other = s[31 - threadIdx.x];
  __syncwarp();
  s[threadIdx.x] = other;                // MISTAKE race_after_syncwarp, writes
  y[threadIdx.x] = s[31 - threadIdx.x];  // MISTAKE race_after_syncwarp, reads
  __syncwarp();
}
__global__ void race_between_blocks(float* y, const float* x) {
  begin_kernel();
  __syncthreads();
  if (threadIdx.x == 0) y[0] += x[blockIdx.x];  // MISTAKE race_between_blocks
}
// Right: all that is shared is ordered.
__global__ void no_race(float* y, const float* x) {
  begin_kernel();
  AG_SHARED(float, s, 64);
  for (int round = 0; round < 3; ++round) {
    s[threadIdx.x] = x[threadIdx.x] * float(round);
    __syncwarp();
    float v = s[threadIdx.x ^ 1];
    __syncthreads();
    s[threadIdx.x] = v;
    __syncthreads();
    v += s[63 - threadIdx.x];
    y[blockIdx.x * 64 + threadIdx.x] = v + block_sum(v);
    __syncthreads();
  }
}

// ---- Memory ----

__global__ void beyond_shared_array(float* y, const float* x) {
  begin_kernel();
  AG_SHARED(float, s, 128);
  s[threadIdx.x + 1] = x[threadIdx.x];  // MISTAKE beyond_shared_array
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
__global__ void beyond_array_by_pointer(float* y, const float* x) {
  begin_kernel();
  AG_SHARED(float, s, 128);
  float* const p = s;
  p[threadIdx.x + 1] = x[threadIdx.x];  // MISTAKE beyond_array_by_pointer
  __syncthreads();
  y[threadIdx.x] = p[threadIdx.x];
}
__global__ void beyond_dynamic_shared(float* y, const float* x) {
  begin_kernel();
  float* const s = shared_memory<float>();
  s[threadIdx.x + 1] = x[threadIdx.x];  // MISTAKE beyond_dynamic_shared
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
__global__ void beyond_device_memory(float* y, const float* x) {
  begin_kernel();
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i <= 128) y[i] = x[i % 128];  // MISTAKE beyond_device_memory
}
__global__ void copies(float* y, const float* x) {
  begin_kernel();
  y[threadIdx.x] = x[threadIdx.x];  // MISTAKE freed_memory
}
__global__ void misaligned_vector(float* y, const float* x) {
  begin_kernel();
  *reinterpret_cast<float4*>(y) = *reinterpret_cast<const float4*>(x + 1);  // MISTAKE misaligned_vector
}
__global__ void uninitialised_shared(float* y, const float* x) {
  begin_kernel();
  AG_SHARED(float, s, 128);
  if (threadIdx.x < 127) s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
__global__ void copy_not_waited_for(float* y, const float* x) {
  begin_kernel();
  AG_SHARED(float, s, 128);
  copy_async(&s[4 * threadIdx.x], &x[4 * threadIdx.x]);
  commit_copies();
  __syncthreads();
  for (unsigned i = threadIdx.x; i < 128; i += 32) y[i] = s[i];
}

// ---- Threads that do not wait, or do not meet ----

__global__ void kernel_not_begun(float* y, const float* x) {
  if (threadIdx.x < 64) begin_kernel();
  y[threadIdx.x] = x[threadIdx.x];
}

__global__ void early_return(float* y, const float* x) {
  begin_kernel();
  if (threadIdx.x >= 64) return;
  __syncthreads();  // MISTAKE early_return
  y[threadIdx.x] = x[threadIdx.x];
}
__global__ void different_barriers(float* y, const float* x) {
  begin_kernel();
  if (threadIdx.x < 64) {
    __syncthreads();  // MISTAKE different_barriers, first
  } else {
    __syncthreads();  // MISTAKE different_barriers, second
  }
  y[threadIdx.x] = x[threadIdx.x];
}
__global__ void divergent_shuffle(float* y, const float* x) {
  begin_kernel();
  y[threadIdx.x] = threadIdx.x < 16 ? warp_sum(x[threadIdx.x]) : 0;  // MISTAKE divergent_shuffle
}
__global__ void different_collectives(float* y, const float* x) {
  begin_kernel();
  float v = x[threadIdx.x];
  if (threadIdx.x < 16) {
    v = warp_sum(v);  // MISTAKE different_collectives, first
  } else {
    v = warp_sum(v);  // MISTAKE different_collectives, second
  }
  y[threadIdx.x] = v;
}
__global__ void part_of_a_warp(float* y, const float* x) {
  begin_kernel();
  y[threadIdx.x] = __shfl_xor_sync(0xffffu, x[threadIdx.x], 1);  // MISTAKE part_of_a_warp
}
__global__ void misaligned_matrices(float* y, const float*) {
  begin_kernel();
  AG_SHARED(uint16_t, s, 512);
  uint32_t fragments[4];
  load_matrices(fragments, s + 9 * threadIdx.x);  // MISTAKE misaligned_matrices
  y[threadIdx.x] = float(fragments[0]);
}
__global__ void large_arrays(float* y, const float* x) {
  begin_kernel();
  AG_SHARED(float, a, 8192);
  AG_SHARED(float, b, 8192);
  a[threadIdx.x] = b[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = a[threadIdx.x] + b[threadIdx.x];
}

using Kernel = void (*)(float*, const float*);

int run(const std::string& name) {
  std::vector<float> numbers(128);
  std::iota(numbers.begin(), numbers.end(), 1.0f);
  const Buffer<float> x(numbers), y(std::vector<float>(128, 0.0f));
  float on_host[128] = {};
  const auto launched = [&](Kernel kernel, const Grid& grid) {
    launch(name.c_str(), kernel, nullptr, grid, +y, +x);
    cudaDeviceSynchronize();
  };
  const auto with = [&](Kernel kernel, const Grid& grid) { return [=] { launched(kernel, grid); }; };
  const std::map<std::string, std::function<void()>> mistakes = {
      {"race_in_block", with(race_in_block, {1, 128})},
      {"race_after_barrier", with(race_after_barrier, {1, 128})},
      {"race_in_warp", with(race_in_warp, {1, 32})},
      {"race_after_shuffle", with(race_after_shuffle, {1, 32})},
      {"race_after_syncwarp", with(race_after_syncwarp, {1, 32})},
      {"race_between_blocks", with(race_between_blocks, {4, 32})},
      {"no_race", with(no_race, {2, 64})},
      {"beyond_shared_array", with(beyond_shared_array, {1, 128})},
      {"beyond_array_by_pointer", with(beyond_array_by_pointer, {1, 128})},
      {"beyond_dynamic_shared", with(beyond_dynamic_shared, {1, 128, 512})},
      {"beyond_device_memory", with(beyond_device_memory, {2, 96})},
      {"misaligned_vector", with(misaligned_vector, {1, 32})},
      {"uninitialised_shared", with(uninitialised_shared, {1, 128})},
      {"copy_not_waited_for", with(copy_not_waited_for, {1, 32})},
      {"kernel_not_begun", with(kernel_not_begun, {1, 128})},
      {"early_return", with(early_return, {1, 128})},
      {"different_barriers", with(different_barriers, {1, 128})},
      {"divergent_shuffle", with(divergent_shuffle, {1, 32})},
      {"different_collectives", with(different_collectives, {1, 32})},
      {"part_of_a_warp", with(part_of_a_warp, {1, 32})},
      {"misaligned_matrices", with(misaligned_matrices, {1, 32})},
      {"large_arrays", with(large_arrays, {1, 32})},
      {"block_of_48", with(copies, {1, 48})},
      {"empty_grid", with(copies, {0, 32})},
      {"dynamic_shared_not_allowed", with(copies, {1, 32, 49153})},
      {"freed_memory",
       [&] {
         float* freed = nullptr;
         cudaMalloc(reinterpret_cast<void**>(&freed), 512);
         cudaFree(freed);
         launch(name.c_str(), copies, nullptr, {1, 32}, +y, +freed);
         cudaDeviceSynchronize();
       }},
      {"pointer_of_the_host",
       [&] {
         launch(name.c_str(), copies, nullptr, {1, 32}, +y, +on_host);
       }},
      {"host_reads_device_memory",
       [&] { std::printf("%g\n", double((+x)[0])); }},  // MISTAKE host_reads_device_memory
  };
  mistakes.at(name)();
  for (const float v : y.host()) std::printf("%g ", double(v));
  return 0;
}

}  // namespace

int main(int, char** argv) {
  try {
    return run(argv[1]);
  } catch (const simulator::Error& e) {
    std::printf("simulator::Error: %s\n", e.what());
    return 1;
  }
}
