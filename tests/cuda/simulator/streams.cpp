// The runtime's streams, events, captures and graphs, and launches. A graph is the list of what was queued while its
// stream was captured; replayed, it finds in memory what is there then.
#include <algorithm>
#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <thread>
#include <utility>

#include "block.h"
#include "runtime.h"
#include "simulator.h"

using altgrad::simulator::Work;

namespace {

struct Capture {
  cudaStreamCaptureMode mode;
  std::thread::id thread;
  bool is_lost = false;
  std::vector<Work> work;
};

struct Event {
  int64_t recorded = 0, reached = 0;
  bool is_captured = false;
  cudaStream_t stream = nullptr;  // of the last record
  std::chrono::steady_clock::time_point time;
};

}  // namespace

struct CUstream_st {
  int device = 0;
  std::deque<Work> queue;
  std::unique_ptr<Capture> capture;
};
struct CUevent_st {
  std::shared_ptr<Event> event = std::make_shared<Event>();
};
struct CUgraph_st {
  std::vector<Work> work;
};
struct CUgraphExec_st {
  std::vector<Work> work;
};

namespace altgrad::simulator {
namespace {

std::recursive_mutex& mutex() {
  static std::recursive_mutex& m = *new std::recursive_mutex;
  return m;
}
// The null stream of each device comes first; it is made when it is first asked for.
std::vector<std::unique_ptr<CUstream_st>>& streams() {
  static auto& all = *new std::vector<std::unique_ptr<CUstream_st>>;
  return all;
}
CUstream_st& get(cudaStream_t stream) {
  if (stream) return *stream;
  static auto& null_streams = *new std::map<int, CUstream_st*>;
  CUstream_st*& found = null_streams[current_device()];
  if (!found) {
    found = streams().emplace_back(std::make_unique<CUstream_st>()).get();
    found->device = current_device();
  }
  return *found;
}

std::map<const void*, size_t>& shared_limits() {
  static auto& all = *new std::map<const void*, size_t>;
  return all;
}

void run_next(CUstream_st& stream) {
  const Work work = std::move(stream.queue.front());
  stream.queue.pop_front();
  const Access access;
  try {
    work.run();
  } catch (...) {
    for (const auto& s : streams()) s->queue.clear();
    throw;
  }
}
// Runs what is queued on its stream until the event has been reached `target` times.
void run_until(Event& event, CUstream_st& stream, int64_t target) {
  while (event.reached < target && !stream.queue.empty()) run_next(stream);
}

void check_limits(const Launch& l) {
  const auto refuse = [&](const std::string& what) {
    throw Error(std::string(l.name) + ": launched with " + what);
  };
  const auto text = [](dim3 d) {
    return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")";
  };
  const uint64_t threads = uint64_t(l.block.x) * l.block.y * l.block.z;
  if (threads < 1 || threads > 1024 || threads % warp_size != 0 || l.block.z > 64)
    refuse("blocks of " + text(l.block) +
           " threads, must be a multiple of 32 up to 1024, the last at most 64");
  if (l.grid.x < 1 || l.grid.y < 1 || l.grid.z < 1 || l.grid.x > 0x7fffffff || l.grid.y > 65535 ||
      l.grid.z > 65535)
    refuse("a grid of " + text(l.grid) + " blocks, must be from 1 to (2147483647, 65535, 65535)");
  const size_t allowed = allowed_dynamic_shared(l.kernel);
  if (l.shared_bytes > allowed)
    refuse(std::to_string(l.shared_bytes) + " bytes of dynamic shared memory, allowed are " +
           std::to_string(allowed));
}

}  // namespace

Lock::Lock() : held_(mutex()) {}

cudaError_t enqueue(cudaStream_t handle, Work work) {
  CUstream_st& stream = get(handle);
  if (stream.device != current_device()) return cudaErrorInvalidResourceHandle;
  if (stream.capture) {
    if (stream.capture->is_lost) return cudaErrorStreamCaptureInvalidated;
    stream.capture->work.push_back(std::move(work));
  } else {
    stream.queue.push_back(std::move(work));
  }
  return cudaSuccess;
}

void drain(cudaStream_t handle) {
  CUstream_st& stream = get(handle);
  while (!stream.queue.empty()) run_next(stream);
}
void drain_all() {
  for (size_t i = 0; i < streams().size(); ++i) drain(streams()[i].get());
}
void count_wait() { ++mutable_counts().waits; }

bool is_captured(cudaStream_t stream) { return get(stream).capture != nullptr; }
bool capture_forbids(cudaStream_t stream) {
  const auto& capture = get(stream).capture;
  if (capture) capture->is_lost = true;
  return capture != nullptr;
}
bool capture_forbids() {
  bool forbids = false;
  for (const auto& s : streams()) {
    if (!s->capture || s->capture->mode == cudaStreamCaptureModeRelaxed) continue;
    if (s->capture->mode == cudaStreamCaptureModeGlobal || s->capture->thread == std::this_thread::get_id())
      forbids = s->capture->is_lost = true;
  }
  return forbids;
}

size_t allowed_dynamic_shared(const void* kernel) {
  const auto found = shared_limits().find(kernel);
  return found == shared_limits().end() ? default_shared_limit : found->second;
}

cudaError_t launch(const Launch& what, cudaStream_t stream, std::function<void()> body) {
  const Lock lock;
  check_limits(what);
  return error(enqueue(stream, {what.name, [what, body = std::move(body)] { run(what, body); }}));
}

void check_pointer(const char* kernel, const void* p) {
  const Lock lock;
  if (p && !is_device(p) && !is_pinned(p))
    throw Error(std::string(kernel) + ": is given a pointer to memory of the host");
}

}  // namespace altgrad::simulator

using namespace altgrad::simulator;

extern "C" {

// ---- Streams ----

// Only streams that do not wait for the null stream: the order that others have with it is not simulated.
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  const Lock lock;
  if (current_device() >= settings().devices) return error(cudaErrorNoDevice);
  if (flags != cudaStreamNonBlocking) return error(cudaErrorInvalidValue);
  *stream = streams().emplace_back(std::make_unique<CUstream_st>()).get();
  (*stream)->device = current_device();
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Lock lock;
  drain(stream);
  std::erase_if(streams(), [&](const auto& s) { return s.get() == stream; });
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Lock lock;
  if (capture_forbids(stream)) return error(cudaErrorStreamCaptureUnsupported);
  count_wait();
  drain(stream);
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  const Lock lock;
  bool is_capturing = false;
  for (const auto& s : streams()) is_capturing |= capture_forbids(s.get());
  if (is_capturing) return error(cudaErrorStreamCaptureUnsupported);
  count_wait();
  drain_all();
  return cudaSuccess;
}
// Whoever asks again and again waits, too: each time something runs.
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const Lock lock;
  if (capture_forbids(stream)) return error(cudaErrorStreamCaptureUnsupported);
  if (get(stream).queue.empty()) return cudaSuccess;
  run_next(get(stream));
  return cudaErrorNotReady;
}

// ---- Events ----

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Lock lock;
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream) {
  const Lock lock;
  const std::shared_ptr<Event> event = handle->event;
  event->stream = stream;
  event->is_captured = is_captured(stream);
  if (event->is_captured) return cudaSuccess;
  ++event->recorded;
  return error(enqueue(stream, {"event", [event] {
                                  event->time = std::chrono::steady_clock::now();
                                  ++event->reached;
                                }}));
}
// Two streams in one capture are not simulated: a captured stream may wait for its own events only.
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t handle, unsigned) {
  const Lock lock;
  const std::shared_ptr<Event> event = handle->event;
  if (event->is_captured || is_captured(stream)) {
    if (event->is_captured && event->stream == stream) return cudaSuccess;
    capture_forbids(stream);
    return error(cudaErrorStreamCaptureIsolation);
  }
  if (event->recorded == event->reached) return cudaSuccess;
  return error(enqueue(stream, {"wait", [event, from = &get(event->stream), target = event->recorded] {
                                  run_until(*event, *from, target);
                                }}));
}
cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  const Lock lock;
  Event& event = *handle->event;
  if (event.is_captured) return error(cudaErrorCapturedEvent);
  count_wait();
  if (event.reached < event.recorded) run_until(event, get(event.stream), event.recorded);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t handle) {
  const Lock lock;
  Event& event = *handle->event;
  if (event.is_captured) return error(cudaErrorCapturedEvent);
  if (event.reached == event.recorded) return cudaSuccess;
  run_next(get(event.stream));
  return cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  const Lock lock;
  for (const cudaEvent_t e : {from, to}) {
    if (e->event->is_captured) return error(cudaErrorCapturedEvent);
    if (e->event->recorded == 0) return error(cudaErrorInvalidResourceHandle);
    if (e->event->reached < e->event->recorded) return error(cudaErrorNotReady);
  }
  *milliseconds = std::chrono::duration<float, std::milli>(to->event->time - from->event->time).count();
  return cudaSuccess;
}

// ---- Captures and graphs ----

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  const Lock lock;
  if (!stream) return error(cudaErrorStreamCaptureUnsupported);
  if (stream->capture) return error(cudaErrorIllegalState);
  stream->capture = std::make_unique<Capture>(Capture{mode, std::this_thread::get_id(), false, {}});
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const Lock lock;
  *graph = nullptr;
  if (!is_captured(stream)) return error(cudaErrorIllegalState);
  const std::unique_ptr<Capture> capture = std::move(stream->capture);
  if (capture->is_lost) return error(cudaErrorStreamCaptureInvalidated);
  if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != std::this_thread::get_id())
    return error(cudaErrorStreamCaptureWrongThread);
  *graph = new CUgraph_st{std::move(capture->work)};
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const Lock lock;
  const auto& capture = get(stream).capture;
  *status = !capture           ? cudaStreamCaptureStatusNone
            : capture->is_lost ? cudaStreamCaptureStatusInvalidated
                               : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  for (size_t i = 0; nodes && i < std::min(*count, graph->work.size()); ++i)
    nodes[i] = reinterpret_cast<cudaGraphNode_t>(&graph->work[i]);
  *count = graph->work.size();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}
// A graph of other work, or of the same in another order, must be instantiated anew.
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph,
                                cudaGraphExecUpdateResultInfo* info) {
  const Lock lock;
  const bool fits = std::ranges::equal(exec->work, graph->work, {}, &Work::name, &Work::name);
  *info = {};
  info->result = fits ? cudaGraphExecUpdateSuccess : cudaGraphExecUpdateErrorTopologyChanged;
  if (!fits) return error(cudaErrorGraphExecUpdateFailure);
  exec->work = graph->work;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  const Lock lock;
  for (const Work& work : exec->work) {
    const cudaError_t status = enqueue(stream, work);
    if (status != cudaSuccess) return error(status);
  }
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  const Lock lock;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || size_t(value) > shared_limit())
    return error(cudaErrorInvalidValue);
  shared_limits()[kernel] = size_t(value);
  return cudaSuccess;
}

}  // extern "C"
