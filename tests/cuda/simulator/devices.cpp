// The runtime's devices, what they say of themselves, and errors.
#include <cstring>
#include <utility>

#include "block.h"
#include "runtime.h"
#include "simulator.h"

namespace altgrad::simulator {
namespace {

thread_local int device = 0;
thread_local cudaError_t last_error = cudaSuccess;

// Few, so that small grids have more blocks than a device runs at once.
constexpr int multiprocessors = 4;

}  // namespace

int current_device() { return device; }
cudaError_t error(cudaError_t e) {
  if (e != cudaSuccess) last_error = e;
  return e;
}
namespace {
// What a kernel has done wrong earlier: on a GPU nearly every function returns it from then on.
cudaError_t earlier() { return settings().is_lost ? error(cudaErrorIllegalAddress) : cudaSuccess; }
}  // namespace

}  // namespace altgrad::simulator

using namespace altgrad::simulator;

extern "C" {

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = settings().devices;
  return *count > 0 ? cudaSuccess : error(cudaErrorNoDevice);
}
cudaError_t cudaGetDevice(int* ordinal) {
  *ordinal = device;
  return earlier();
}
cudaError_t cudaSetDevice(int ordinal) {
  if (ordinal < 0 || ordinal >= settings().devices) return error(cudaErrorInvalidDevice);
  device = ordinal;
  return earlier();
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int ordinal) {
  if (ordinal < 0 || ordinal >= settings().devices) return error(cudaErrorInvalidDevice);
  *p = {};
  std::strncpy(p->name, "simulated device", sizeof p->name);
  p->totalGlobalMem = settings().memory;
  p->major = settings().capability / 10;
  p->minor = settings().capability % 10;
  p->multiProcessorCount = multiprocessors;
  p->warpSize = warp_size;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsPerMultiProcessor = 2048;
  p->sharedMemPerBlock = default_shared_limit;
  p->sharedMemPerBlockOptin = shared_limit();
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->concurrentKernels = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int ordinal) {
  cudaDeviceProp p;
  const cudaError_t status = cudaGetDeviceProperties(&p, ordinal);
  if (status != cudaSuccess) return status;
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrWarpSize: *value = p.warpSize; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = int(p.sharedMemPerBlock); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = int(p.sharedMemPerBlockOptin); break;
    default: return error(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return cudaRuntimeGetVersion(version); }

const char* cudaGetErrorString(cudaError_t e) {
  switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureIsolation: return "dependency created on uncaptured work in another stream";
    case cudaErrorCapturedEvent:
      return "operation not permitted on an event last recorded in a capturing stream";
    case cudaErrorGraphExecUpdateFailure:
      return "the graph update was not performed because it included changes which violated constraints";
    default: return "an error of the simulated device";
  }
}

}  // extern "C"
