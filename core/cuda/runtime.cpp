// Devices by the CUDA runtime: a stream for each, copies, what kernels have found wrong. The host waits where it reads.
#include <altgrad/core/cuda/runtime.h>

#include <altgrad/core/cuda/check.h>
#include <altgrad/core/cuda/cuda.h>
#include <altgrad/core/dispatch.h>
#include <altgrad/core/error.h>
#include <altgrad/core/internal/graph.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

namespace altgrad {
namespace cuda {
namespace {

// Pinned memory that what the host copies to a device passes through, so that the host need not wait: two blocks that
// are filled in turn, each when the device has read all that it held before.
class Staging {
 public:
  Staging() {
    for (Block& block : blocks_) {
      check(cudaMallocHost(&block.data, size), "pinned memory");
      check(cudaEventCreateWithFlags(&block.read, cudaEventDisableTiming), "an event");
    }
  }

  void copy(void* dst, const void* src, size_t bytes, cudaStream_t stream) {
    auto* to = static_cast<char*>(dst);
    const auto* from = static_cast<const char*>(src);
    while (bytes > 0) {
      if (used_ == size) take_other_block(stream);
      const size_t piece = std::min(bytes, size - used_);
      char* const staged = static_cast<char*>(blocks_[current_].data) + used_;
      std::memcpy(staged, from, piece);
      check(cudaMemcpyAsync(to, staged, piece, cudaMemcpyHostToDevice, stream), "copy to a device");
      used_ = std::min(size, (used_ + piece + unit - 1) / unit * unit);
      to += piece, from += piece, bytes -= piece;
    }
  }

 private:
  static constexpr size_t size = size_t(4) << 20, unit = 64;
  struct Block {
    void* data;
    cudaEvent_t read;
  };

  void take_other_block(cudaStream_t stream) {
    check(cudaEventRecord(blocks_[current_].read, stream), "an event");
    current_ = 1 - current_;
    check(cudaEventSynchronize(blocks_[current_].read), "copy to a device");
    used_ = 0;
  }

  Block blocks_[2];
  int current_ = 0;
  size_t used_ = 0;  // of the current block
};

// Makes a device the thread's current one.
class Current {
 public:
  explicit Current(int index) {
    check(cudaGetDevice(&before_), "the current device");
    check(cudaSetDevice(index), "the current device");
  }
  ~Current() { cudaSetDevice(before_); }

 private:
  int before_;
};

// f() with a device the current one, for what must not throw: a device that is lost takes all that it has along, and so does
// the runtime, which may be gone before the program's last statics are.
template <class F>
void at_the_end(int device, const F& f) noexcept {
  int before;
  const bool changed = cudaGetDevice(&before) == cudaSuccess && cudaSetDevice(device) == cudaSuccess;
  f();
  if (changed) cudaSetDevice(before);
  cudaGetLastError();  // or the next call would report what has failed here
}

struct State {
  cudaStream_t stream;
  WrongId* wrong_id;
  Tally* tally;
  std::mutex staging_mutex;
  Staging staging;
  std::atomic<bool> capturing = false;

  State() {
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
    void* p;
    check(cudaHostAlloc(&p, sizeof(WrongId), cudaHostAllocMapped), "pinned memory");
    wrong_id = new (p) WrongId{};
    check(cudaMalloc(&p, sizeof(Tally)), "memory of a device");
    tally = static_cast<Tally*>(p);
    check(cudaMemsetAsync(p, 0, sizeof(Tally), stream), "memory of a device");
  }
};

void check_index(int index) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();  // or the next call would report it
    fail_runtime("device cuda:", index, " is not there: ",
                 error == cudaErrorInsufficientDriver ? "no CUDA driver that is new enough"
                                                      : cudaGetErrorString(error));
  }
  if (index < 0 || index >= count) {
    fail_runtime("device cuda:", index, " is not there: this machine has ", count,
                 count == 1 ? " CUDA device" : " CUDA devices");
  }
  if (const int capability = compute_capability(index); capability < 80) {
    fail_runtime("device cuda:", index, " has compute capability ", capability / 10, ".", capability % 10,
                 ", altgrad's kernels need 8.0 or higher");
  }
}

// Made when a device is first used. It lives as long as the process, as tensors in static variables do.
State& state(int index) {
  static std::mutex& mutex = *new std::mutex;
  static auto& states = *new std::map<int, State>;
  const std::lock_guard lock(mutex);
  const auto found = states.find(index);
  if (found != states.end()) return found->second;
  check_index(index);
  const Current current(index);
  return states[index];
}

void refuse_in_capture(int device, const char* what) {
  if (state(device).capturing)
    fail("a captured step must not ", what, " (device cuda:", device, "); see optim::CapturedStep");
}
// What the thread's recorded step has another device do is no part of the recording.
void refuse_other_than_recorded(int device) {
  const detail::Graph* const graph = detail::Graph::recording();
  if (graph && graph->device().index != device)
    fail("a captured step of ", graph->device(), " must not work on cuda:", device,
         ", which replays would not do again");
}

// Waits for the device, and throws what its kernels have found.
void wait(State& s, const char* what) {
  check(cudaStreamSynchronize(s.stream), what);
  if (!std::exchange(s.wrong_id->found, false)) return;
  fail_id(s.wrong_id->range, s.wrong_id->at, s.wrong_id->id);
}

// What `second` is given from now on waits for what `first` was.
void order(int first, int second) {
  cudaEvent_t done;
  {
    const Current current(first);
    check(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), "an event");
    check(cudaEventRecord(done, state(first).stream), "an event");
  }
  const Current current(second);
  check(cudaStreamWaitEvent(state(second).stream, done, 0), "an event");
  check(cudaEventDestroy(done), "an event");
}

}  // namespace

int compute_capability(int device) {
  int major = 0, minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "a device");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "a device");
  return 10 * major + minor;
}

WrongId* wrong_id(int device) { return state(device).wrong_id; }
Tally* tally(int device) { return state(device).tally; }

void* allocate(size_t bytes, int device) {
  state(device);
  const Current current(device);
  void* p = nullptr;
  const cudaError_t error = cudaMalloc(&p, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check(error, "memory of a device");
  return p;
}

void free(void* p, int device) noexcept {
  at_the_end(device, [=] { cudaFree(p); });  // waits for what uses it
}

void copy(void* dst, Device to, const void* src, Device from, size_t bytes) {
  for (const Device d : {to, from}) {
    if (!d.is_cpu()) refuse_other_than_recorded(d.index);
  }
  if (to.is_cpu()) {
    refuse_in_capture(from.index,
                      "read what it computes, by item() or to(cpu): return the tensor, and read it then");
    State& s = state(from.index);
    const Current current(from.index);
    check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, s.stream), "copy from a device");
    wait(s, "copy from a device");
  } else if (from.is_cpu()) {
    refuse_in_capture(to.index,
                      "copy from the host, which replays would not do again: make it an input of the step");
    State& s = state(to.index);
    const Current current(to.index);
    const std::lock_guard lock(s.staging_mutex);
    s.staging.copy(dst, src, bytes, s.stream);
  } else {
    if (to != from) {
      for (const Device d : {to, from}) refuse_in_capture(d.index, "copy between devices");
    }
    if (to != from) order(to.index, from.index);
    const Current current(from.index);
    check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, state(from.index).stream),
          "copy within devices");
    if (to != from) order(from.index, to.index);
  }
}

void synchronize(int device) {
  refuse_other_than_recorded(device);
  refuse_in_capture(device, "wait for the device");
  State& s = state(device);
  const Current current(device);
  wait(s, "a device");
}

// Relaxed: what is not there yet may be made meanwhile: memory, cuBLASLt's plans, kernels that are loaded when they are
// first started.
void begin_capture(int device) {
  State& s = state(device);
  const Current current(device);
  check(cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeRelaxed), "a capture");
  s.capturing = true;
}

void* end_capture(int device) {
  State& s = state(device);
  const Current current(device);
  s.capturing = false;
  cudaGraph_t graph;
  check(cudaStreamEndCapture(s.stream, &graph), "a capture");
  cudaGraphExec_t exec;
  const cudaError_t error = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  check(error, "a graph");
  return exec;
}

void drop_capture(int device) noexcept {
  State& s = state(device);
  s.capturing = false;
  at_the_end(device, [&] {
    cudaGraph_t graph = nullptr;
    cudaStreamEndCapture(s.stream, &graph);
    if (graph) cudaGraphDestroy(graph);
  });
}

void launch_graph(void* graph, int device) {
  const Current current(device);
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), state(device).stream), "a graph");
}

void destroy_graph(void* graph, int device) noexcept {
  at_the_end(device, [=] { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)); });
}

}  // namespace cuda

int cuda_device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

namespace detail {

CurrentCuda::CurrentCuda(int index) : device_{index, cuda::state(index).stream} {
  cuda::refuse_other_than_recorded(index);
  cuda::check(cudaGetDevice(&before_), "the current device");
  if (before_ != index) cuda::check(cudaSetDevice(index), "the current device");
}
CurrentCuda::~CurrentCuda() {
  if (before_ != device_.index) cudaSetDevice(before_);
}

}  // namespace detail
}  // namespace altgrad
