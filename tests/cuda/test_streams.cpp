// The runtime behaves as CUDA's where programs go wrong: work runs when the host waits, copies read their source when
// CUDA would, streams wait for each other only where they are told to, memory ends.
#include "kernels.h"

#include <simulator/simulator.h>

#include <cmath>
#include <cstring>

#include "buffer.h"
#include "catch.h"

using namespace altgrad;

namespace {

struct Stream {
  cudaStream_t value = nullptr;
  Stream() { REQUIRE(cudaStreamCreateWithFlags(&value, cudaStreamNonBlocking) == cudaSuccess); }
  ~Stream() { cudaStreamDestroy(value); }
  operator cudaStream_t() const { return value; }
};
struct Event {
  cudaEvent_t value = nullptr;
  Event() { REQUIRE(cudaEventCreateWithFlags(&value, cudaEventDisableTiming) == cudaSuccess); }
  ~Event() { cudaEventDestroy(value); }
  operator cudaEvent_t() const { return value; }
};
struct Pinned {
  float* p = nullptr;
  explicit Pinned(size_t n) {
    REQUIRE(cudaMallocHost(reinterpret_cast<void**>(&p), n * sizeof(float)) == cudaSuccess);
  }
  ~Pinned() { cudaFreeHost(p); }
};

constexpr size_t bytes = 64 * sizeof(float);

}  // namespace

TEST_CASE("work runs when the host waits for its stream, and not before", "[streams]") {
  const Buffer<float> x(std::vector<float>(64, 2)), y(std::vector<float>(64, 1));
  const Stream stream;
  cuda::axpy(y, x, 1, 64, stream);
  CHECK(y.host()[0] == 1);  // a copy that waits for the null stream alone
  CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
  CHECK(y.host()[0] == 3);
  cuda::axpy(y, x, 1, 64, stream);
  CHECK(cudaStreamQuery(stream) == cudaErrorNotReady);
  CHECK(cudaStreamQuery(stream) == cudaSuccess);
  CHECK(y.host()[0] == 5);
  cuda::axpy(y, x, 1, 64, stream);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(y.host()[0] == 7);
}

TEST_CASE("a copy from pageable memory takes the host's bytes at once, one from pinned memory when it runs",
          "[streams]") {
  const Buffer<float> x(64);
  const Stream stream;
  std::vector<float> pageable(64, 1);
  REQUIRE(cudaMemcpyAsync(x, pageable.data(), bytes, cudaMemcpyHostToDevice, stream) == cudaSuccess);
  pageable[0] = 2;
  cudaStreamSynchronize(stream);
  CHECK(x.host()[0] == 1);

  const Pinned pinned(64);
  std::fill_n(pinned.p, 64, 1.0f);
  REQUIRE(cudaMemcpyAsync(x, pinned.p, bytes, cudaMemcpyHostToDevice, stream) == cudaSuccess);
  pinned.p[0] = 2;  // too early: the stale buffer is seen
  cudaStreamSynchronize(stream);
  CHECK(x.host()[0] == 2);
}

TEST_CASE("a copy to pageable memory waits, one to pinned memory does not", "[streams]") {
  const Buffer<float> x(std::vector<float>(64, 3));
  const Stream stream;
  std::vector<float> pageable(64);
  const int64_t waits = simulator::counts().waits;
  REQUIRE(cudaMemcpyAsync(pageable.data(), x, bytes, cudaMemcpyDeviceToHost, stream) == cudaSuccess);
  CHECK(pageable[0] == 3);
  CHECK(simulator::counts().waits == waits + 1);

  const Pinned pinned(64);
  pinned.p[0] = 0;
  REQUIRE(cudaMemcpyAsync(pinned.p, x, bytes, cudaMemcpyDeviceToHost, stream) == cudaSuccess);
  CHECK(simulator::counts().waits == waits + 1);
  CHECK(pinned.p[0] == 0);
  cudaStreamSynchronize(stream);
  CHECK(pinned.p[0] == 3);
}

TEST_CASE("a stream waits for another by an event, as it was last recorded", "[streams]") {
  const Buffer<float> x(std::vector<float>(64, 1)), y(std::vector<float>(64, 0)),
      z(std::vector<float>(64, 0));
  const Stream first, second;
  const Event event;
  CHECK(cudaEventQuery(event) == cudaSuccess);
  cuda::axpy(y, x, 1, 64, first);
  REQUIRE(cudaEventRecord(event, first) == cudaSuccess);
  cuda::axpy(y, x, 1, 64, first);   // after the event
  cuda::axpy(z, y, 1, 64, second);  // before the wait
  REQUIRE(cudaStreamWaitEvent(second, event, 0) == cudaSuccess);
  cuda::axpy(z, y, 10, 64, second);
  cudaStreamSynchronize(second);
  CHECK(z.host()[0] == 10);
  CHECK(y.host()[0] == 1);
  cudaStreamSynchronize(first);
  CHECK(y.host()[0] == 2);

  cuda::axpy(y, x, 1, 64, first);
  REQUIRE(cudaEventRecord(event, first) == cudaSuccess);
  CHECK(cudaEventQuery(event) == cudaErrorNotReady);
  CHECK(cudaEventSynchronize(event) == cudaSuccess);
  CHECK(cudaEventQuery(event) == cudaSuccess);
  CHECK(y.host()[0] == 3);
}

TEST_CASE("events measure time", "[streams]") {
  cudaEvent_t from = nullptr, to = nullptr;
  REQUIRE(cudaEventCreate(&from) == cudaSuccess);
  REQUIRE(cudaEventCreate(&to) == cudaSuccess);
  float milliseconds = -1;
  CHECK(cudaEventElapsedTime(&milliseconds, from, to) == cudaErrorInvalidResourceHandle);
  cudaEventRecord(from, nullptr);
  cudaEventRecord(to, nullptr);
  CHECK(cudaEventElapsedTime(&milliseconds, from, to) == cudaErrorNotReady);
  cudaEventSynchronize(to);
  CHECK(cudaEventElapsedTime(&milliseconds, from, to) == cudaSuccess);
  CHECK(milliseconds >= 0);
  cudaEventDestroy(from);
  cudaEventDestroy(to);
  cudaGetLastError();
}

TEST_CASE("fresh memory is NaN, and what memory ends at is an error", "[streams]") {
  const Buffer<float> x(64);
  CHECK(std::isnan(x.host()[63]));
  REQUIRE(cudaMemsetAsync(x, 0, bytes, nullptr) == cudaSuccess);
  CHECK(x.host()[63] == 0);
  std::vector<float> host(65);
  CHECK(cudaMemcpy(host.data(), x, 65 * sizeof(float), cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(host.data(), x, bytes, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(cudaMemsetAsync(x, 0, bytes + 1, nullptr) == cudaErrorInvalidValue);
  CHECK(cudaFree(host.data()) == cudaErrorInvalidValue);
  CHECK(cudaPeekAtLastError() == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaSuccess);
}

TEST_CASE("device memory ends where the test says, and comes back", "[streams]") {
  const size_t before = simulator::settings().memory;
  size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  simulator::settings().memory = total - free + (1 << 20);
  void *p = nullptr, *q = nullptr;
  REQUIRE(cudaMalloc(&p, 1 << 19) == cudaSuccess);
  cudaMemGetInfo(&free, &total);
  CHECK(free == 1 << 19);
  CHECK(cudaMalloc(&q, (1 << 19) + 1) == cudaErrorMemoryAllocation);
  CHECK(std::string(cudaGetErrorString(cudaGetLastError())) == "out of memory");
  CHECK(cudaFree(p) == cudaSuccess);
  CHECK(cudaMalloc(&q, (1 << 19) + 1) == cudaSuccess);
  cudaFree(q);
  simulator::settings().memory = before;
}

TEST_CASE("pointers are known for what they are", "[streams]") {
  const Buffer<float> x(4);
  const Pinned pinned(4);
  cudaPointerAttributes attributes{};
  cudaPointerGetAttributes(&attributes, x + 3);
  CHECK(attributes.type == cudaMemoryTypeDevice);
  cudaPointerGetAttributes(&attributes, pinned.p + 3);
  CHECK(attributes.type == cudaMemoryTypeHost);
  cudaPointerGetAttributes(&attributes, &attributes);
  CHECK(attributes.type == cudaMemoryTypeUnregistered);
}

TEST_CASE("devices are as many as the test says", "[streams]") {
  int count = 0, value = 0;
  CHECK(cudaGetDeviceCount(&count) == cudaSuccess);
  CHECK(count == 1);
  CHECK(cudaSetDevice(1) == cudaErrorInvalidDevice);
  CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrComputeCapabilityMajor, 0) == cudaSuccess);
  CHECK(value == 9);
  {
    const Stream stream;
    simulator::settings().devices = 2;
    CHECK(cudaSetDevice(1) == cudaSuccess);
    CHECK(cudaMemsetAsync(Buffer<float>(4), 0, 4, stream) == cudaErrorInvalidResourceHandle);
    CHECK(cudaSetDevice(0) == cudaSuccess);
  }
  simulator::settings().devices = 0;
  void* p = nullptr;
  CHECK(cudaGetDeviceCount(&count) == cudaErrorNoDevice);
  CHECK(cudaMalloc(&p, 4) == cudaErrorNoDevice);
  simulator::settings().devices = 1;
  cudaGetLastError();
}

TEST_CASE("what a kernel's mistake leaves behind does not hurt the next one", "[streams]") {
  const Buffer<float> x(std::vector<float>(64, 1)), y(std::vector<float>(64, 0));
  for (int i = 0; i < 3; ++i) {
    CHECK_THROWS_AS(cuda::launch_empty(1, 48, 0), simulator::Error);
    cuda::axpy(y, x, 1, 64);
    CHECK(y.host()[0] == float(i + 1));
  }
}
