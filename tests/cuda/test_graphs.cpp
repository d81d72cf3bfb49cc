// Captures and graphs: what a stream is given is kept instead of run, and each launch finds in memory what is there
// then. What waits or allocates in a capture is an error, and the capture is lost.
#include "kernels.h"

#include <simulator/simulator.h>

#include "buffer.h"
#include "catch.h"

using namespace altgrad;

namespace {

struct Captured {
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  explicit Captured(cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal) {
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    REQUIRE(cudaStreamBeginCapture(stream, mode) == cudaSuccess);
  }
  ~Captured() {
    cudaStreamDestroy(stream);
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError();
  }
  cudaError_t end() { return cudaStreamEndCapture(stream, &graph); }
  cudaStreamCaptureStatus status() const {
    cudaStreamCaptureStatus s{};
    cudaStreamIsCapturing(stream, &s);
    return s;
  }
};

}  // namespace

TEST_CASE("a graph replays what was queued, on what memory holds then", "[graphs]") {
  const Buffer<float> x(std::vector<float>(64, 1)), y(std::vector<float>(64, 0));
  Captured c;
  float a = 2;
  cuda::axpy(y, x, a, 64, c.stream);
  cudaMemsetAsync(x, 0, 4, c.stream);
  a = 3;
  CHECK(c.status() == cudaStreamCaptureStatusActive);
  REQUIRE(c.end() == cudaSuccess);
  CHECK(c.status() == cudaStreamCaptureStatusNone);
  size_t nodes = 0;
  cudaGraphGetNodes(c.graph, nullptr, &nodes);
  CHECK(nodes == 2);
  CHECK(y.host()[1] == 0);  // nothing has run

  cudaGraphExec_t exec = nullptr;
  REQUIRE(cudaGraphInstantiate(&exec, c.graph, 0) == cudaSuccess);
  REQUIRE(cudaGraphLaunch(exec, c.stream) == cudaSuccess);
  REQUIRE(cudaGraphLaunch(exec, c.stream) == cudaSuccess);
  cudaStreamSynchronize(c.stream);
  CHECK(y.host()[0] == 2);  // x[0] was 0 the second time
  CHECK(y.host()[1] == 4);
  x.set(std::vector<float>(64, 10));
  cudaGraphLaunch(exec, c.stream);
  cudaStreamSynchronize(c.stream);
  CHECK(y.host()[1] == 24);
  cudaGraphExecDestroy(exec);
}

TEST_CASE("a graph is updated with another of the same work, and not with one of other work", "[graphs]") {
  const Buffer<float> x(std::vector<float>(64, 1)), y(std::vector<float>(64, 0));
  const auto capture = [&](float a, bool other) {
    Captured c;
    cuda::axpy(y, x, a, 64, c.stream);
    if (other) cudaMemsetAsync(y, 0, 4, c.stream);
    REQUIRE(c.end() == cudaSuccess);
    return std::exchange(c.graph, nullptr);
  };
  const cudaGraph_t first = capture(1, false), same = capture(5, false), other = capture(1, true);
  cudaGraphExec_t exec = nullptr;
  cudaGraphInstantiate(&exec, first, 0);
  cudaGraphExecUpdateResultInfo info{};
  CHECK(cudaGraphExecUpdate(exec, same, &info) == cudaSuccess);
  CHECK(info.result == cudaGraphExecUpdateSuccess);
  CHECK(cudaGraphExecUpdate(exec, other, &info) == cudaErrorGraphExecUpdateFailure);
  CHECK(info.result == cudaGraphExecUpdateErrorTopologyChanged);
  cudaGraphLaunch(exec, nullptr);
  CHECK(y.host()[0] == 5);
  cudaGraphExecDestroy(exec);
  for (const cudaGraph_t graph : {first, same, other}) cudaGraphDestroy(graph);
  cudaGetLastError();
}

TEST_CASE("what waits or allocates in a capture is an error, and the capture is lost", "[graphs]") {
  const Buffer<float> x(64);
  std::vector<float> host(64);
  void* p = nullptr;
  float* pinned = nullptr;
  cudaMallocHost(reinterpret_cast<void**>(&pinned), 4);
  const std::pair<const char*, std::function<cudaError_t(cudaStream_t)>> calls[] = {
      {"cudaStreamSynchronize", [](cudaStream_t s) { return cudaStreamSynchronize(s); }},
      {"cudaStreamQuery", [](cudaStream_t s) { return cudaStreamQuery(s); }},
      {"cudaDeviceSynchronize", [](cudaStream_t) { return cudaDeviceSynchronize(); }},
      {"cudaMalloc", [&](cudaStream_t) { return cudaMalloc(&p, 4); }},
      {"cudaMallocHost", [&](cudaStream_t) { return cudaMallocHost(&p, 4); }},
      {"cudaFree", [&](cudaStream_t) { return cudaFree(x); }},
      {"cudaFreeHost", [&](cudaStream_t) { return cudaFreeHost(pinned); }},
      {"cudaMemcpy", [&](cudaStream_t) { return cudaMemcpy(host.data(), x, 4, cudaMemcpyDeviceToHost); }},
      {"a copy to pageable memory",
       [&](cudaStream_t s) { return cudaMemcpyAsync(host.data(), x, 4, cudaMemcpyDeviceToHost, s); }},
      {"a copy from pageable memory",
       [&](cudaStream_t s) { return cudaMemcpyAsync(x, host.data(), 4, cudaMemcpyHostToDevice, s); }},
  };
  for (const auto& [name, call] : calls) {
    CAPTURE(name);
    Captured c;
    CHECK(call(c.stream) == cudaErrorStreamCaptureUnsupported);
    CHECK(c.status() == cudaStreamCaptureStatusInvalidated);
    CHECK(cudaMemsetAsync(x, 0, 4, c.stream) == cudaErrorStreamCaptureInvalidated);
    CHECK(c.end() == cudaErrorStreamCaptureInvalidated);
    CHECK(c.graph == nullptr);
    CHECK(cudaMemsetAsync(x, 0, 4, c.stream) == cudaSuccess);  // the stream is usable again
    CHECK(cudaStreamSynchronize(c.stream) == cudaSuccess);
  }
  cudaFreeHost(pinned);
}

TEST_CASE("a kernel launched into a capture that is lost throws", "[graphs]") {
  const Buffer<float> x(std::vector<float>(64, 1)), y(64);
  Captured c;
  cudaDeviceSynchronize();
  cudaGetLastError();
  CHECK_THROWS_WITH(cuda::axpy(y, x, 1, 64, c.stream), ContainsSubstring("previous error during capture"));
  CHECK(c.end() == cudaErrorStreamCaptureInvalidated);
}

TEST_CASE("copies of pinned memory in a graph read it when the graph runs", "[graphs]") {
  const Buffer<float> x(1);
  float* pinned = nullptr;
  cudaMallocHost(reinterpret_cast<void**>(&pinned), 4);
  Captured c;
  *pinned = 1;
  REQUIRE(cudaMemcpyAsync(x, pinned, 4, cudaMemcpyHostToDevice, c.stream) == cudaSuccess);
  REQUIRE(c.end() == cudaSuccess);
  cudaGraphExec_t exec = nullptr;
  cudaGraphInstantiate(&exec, c.graph, 0);
  for (const float value : {2.0f, 3.0f}) {
    *pinned = value;
    cudaGraphLaunch(exec, c.stream);
    cudaStreamSynchronize(c.stream);
    CHECK(x.host()[0] == value);
  }
  cudaGraphExecDestroy(exec);
  cudaFreeHost(pinned);
}

TEST_CASE("the null stream is not captured, a relaxed capture may allocate, events stay in their capture",
          "[graphs]") {
  CHECK(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal) == cudaErrorStreamCaptureUnsupported);
  {
    Captured c(cudaStreamCaptureModeRelaxed);
    void* p = nullptr;
    CHECK(cudaMalloc(&p, 4) == cudaSuccess);
    CHECK(c.end() == cudaSuccess);
    cudaFree(p);
  }
  Captured c;
  cudaEvent_t inside = nullptr, outside = nullptr;
  cudaEventCreate(&inside);
  cudaEventCreate(&outside);
  cudaEventRecord(outside, nullptr);
  cudaEventRecord(inside, c.stream);
  CHECK(cudaStreamWaitEvent(c.stream, inside, 0) == cudaSuccess);
  CHECK(cudaEventSynchronize(inside) == cudaErrorCapturedEvent);
  CHECK(c.status() == cudaStreamCaptureStatusActive);
  CHECK(cudaStreamWaitEvent(c.stream, outside, 0) == cudaErrorStreamCaptureIsolation);
  CHECK(c.end() == cudaErrorStreamCaptureInvalidated);
  cudaEventDestroy(inside);
  cudaEventDestroy(outside);
  CHECK(cudaStreamEndCapture(c.stream, &c.graph) == cudaErrorIllegalState);
}
