// Streams are queues: work runs when the host waits for it, so what reads a result too early reads NaNs. What a
// stream that is captured is given goes into the graph instead. Internal to the simulator.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

namespace altgrad::simulator {

struct Work {
  std::string name;
  std::function<void()> run;
};

// Every function of the API holds it; work runs under it, one item at a time.
class Lock {
  std::lock_guard<std::recursive_mutex> held_;

 public:
  Lock();
};

// Remembers e for cudaGetLastError.
cudaError_t error(cudaError_t e);

int current_device();
cudaError_t enqueue(cudaStream_t stream, Work work);
// Runs all that is queued on the stream, or on all of them.
void drain(cudaStream_t stream);
void drain_all();
// The host waits: the same, counted.
void count_wait();

bool is_captured(cudaStream_t stream);
// For calls that no capture survives. True where one is going on that forbids them: it is lost.
bool capture_forbids();
bool capture_forbids(cudaStream_t stream);

// ---- Device memory ----

// Device memory faults when it is touched, but for the life of one of these.
class Access {
 public:
  Access();
  ~Access();
  Access(const Access&) = delete;
  Access& operator=(const Access&) = delete;
};
bool is_device(const void* p);
// Is it n bytes of one allocation of the device?
bool is_device(const void* p, size_t bytes);
bool is_pinned(const void* p);

}  // namespace altgrad::simulator
