// Work of a GPU that is recorded once and run again and again (optim::CapturedStep): a CUDA graph, memory of its own, and
// what each run takes from the host. Host code runs once, while it is recorded; so whoever keeps something on the host
// that changes from run to run says so to the graph that is being recorded.
#pragma once

#include <altgrad/core/matmul_precision.h>
#include <altgrad/core/tensor.h>

#include <functional>
#include <map>
#include <vector>

namespace altgrad::detail {

// The memory of a graph (core/memory.cpp): what is taken on the device from begin() to end(), and what is given back
// there in the meantime, is kept for the graph, as each run writes to it. It counts as in use.
class GraphMemory {
 public:
  explicit GraphMemory(Device device) : device_(device) {}
  ~GraphMemory();  // from now on it is memory like other
  GraphMemory(const GraphMemory&) = delete;
  GraphMemory& operator=(const GraphMemory&) = delete;
  void begin();
  void end();

  std::map<size_t, std::vector<void*>> free;  // that no tensor holds

 private:
  Device device_;
};

class Graph {
 public:
  // Both are called before each run, first all `fits`.
  struct HostState {
    std::function<bool()> fits;  // may the work still be run? May throw, and changes nothing.
    // Makes a run's changes on the host, and queues copies of what the run reads to memory that was there before the
    // recording began: in other memory the run itself may keep something earlier on.
    std::function<void()> feed;
  };

  // Records what `work` starts on the device, and runs nothing of it. `given`: generators that it draws from, besides
  // the thread's two. What it throws is thrown on; then generators are where they were, and the gradients that it has
  // set are dropped, for nothing has computed them.
  Graph(Device device, std::vector<Generator*> given, const std::function<void()>& work);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // May it still be run? Not where a tensor, of whatever model, has been given other memory since, or a place in one another
  // module: it may read the old one.
  bool fits() const;
  void run();
  Device device() const { return device_; }

  // What the calling thread records, null where it records nothing.
  static Graph* recording();
  // A tensor has other memory now, or a model another module.
  static void model_changed();
  // False, and nothing is added, where the owner has added one before.
  bool add(const void* owner, HostState state) { return states_.try_emplace(owner, std::move(state)).second; }
  void add_gradient_of(const Tensor& leaf) { leaves_.push_back(leaf); }
  // RandomStream::advance of the generator's streams.
  const uint64_t* advance_of(const Generator& generator) const;

 private:
  class Recording;
  // All that it draws from: the calling thread's two come first.
  std::vector<Generator*> generators() const;
  void record(const std::function<void()>& work);

  Device device_;
  std::vector<Generator*> given_;
  Tensor advance_;  // i64, one for each generator
  GraphMemory memory_;
  std::vector<Generator*> recorded_;         // generators() while it was recorded
  std::vector<Generator::State> begins_;     // where they stood
  std::vector<uint64_t> streams_;            // that a run draws from each
  std::vector<Tensor> leaves_;               // that were given gradients in the recording
  std::map<const void*, HostState> states_;  // by their owners
  int64_t changes_;                          // of models, when it was recorded
  MatmulPrecision precision_;
  void* graph_ = nullptr;
};

}  // namespace altgrad::detail
