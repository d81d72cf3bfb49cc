// The CUDA side of a build without CUDA: no device, and an error for whoever asks for one.
#include <altgrad/core/cuda/cuda.h>
#include <altgrad/core/error.h>

namespace altgrad {

int cuda_device_count() { return 0; }

namespace cuda {
namespace {
[[noreturn]] void fail_without(int device) {
  fail_runtime("device cuda:", device, ": altgrad was built without CUDA, as " ALTGRAD_WITHOUT_CUDA);
}
}  // namespace

void* allocate(size_t, int device) { fail_without(device); }
void free(void*, int) noexcept {}
void copy(void*, Device to, const void*, Device from, size_t) {
  fail_without(to.is_cpu() ? from.index : to.index);
}
void synchronize(int device) { fail_without(device); }
void begin_capture(int device) { fail_without(device); }
void* end_capture(int device) { fail_without(device); }
void drop_capture(int) noexcept {}
void launch_graph(void*, int device) { fail_without(device); }
void destroy_graph(void*, int) noexcept {}

}  // namespace cuda
}  // namespace altgrad
