// The CUDA side of a build without CUDA: no device, and an error for whoever asks for one.
#include <altgrad/core/cuda/cuda.h>
#include <altgrad/core/device.h>
#include <altgrad/core/error.h>

namespace altgrad {

int cuda_device_count() { return 0; }

namespace cuda {

void* allocate(size_t, int device) {
  fail_runtime("device cuda:", device, ": altgrad was built without CUDA");
}
void free(void*, int) {}
void copy(void*, const void*, size_t) { fail_runtime("altgrad was built without CUDA"); }

}  // namespace cuda
}  // namespace altgrad
