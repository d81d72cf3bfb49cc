// Graphs: what surrounds a CUDA graph on the host.
#include <altgrad/core/internal/graph.h>

#include <altgrad/core/cuda/cuda.h>
#include <altgrad/core/error.h>

#include <algorithm>
#include <atomic>
#include <utility>

namespace altgrad::detail {
namespace {
thread_local Graph* current = nullptr;
std::atomic<int64_t> changes = 0;
}  // namespace

// For its life the thread records.
class Graph::Recording {
 public:
  explicit Recording(Graph& graph) : graph_(graph) {
    cuda::begin_capture(graph.device_.index);
    graph.memory_.begin();
    current = &graph;
  }
  ~Recording() {
    if (current) end();
    if (!ended_) cuda::drop_capture(graph_.device_.index);
  }
  void* graph() {
    end();
    ended_ = true;
    return cuda::end_capture(graph_.device_.index);
  }

 private:
  void end() {
    current = nullptr;
    graph_.memory_.end();
  }
  Graph& graph_;
  bool ended_ = false;
};

Graph* Graph::recording() { return current; }
void Graph::model_changed() { ++changes; }

Graph::Graph(Device device, std::vector<Generator*> given, const std::function<void()>& work)
    : device_(device),
      given_(std::move(given)),
      memory_(device),
      changes_(changes),
      precision_(matmul_precision()) {
  if (current) fail("a captured step must not capture another one");
  recorded_ = generators();
  advance_ = Tensor::zeros({int64_t(recorded_.size())}, {DType::i64, device});
  for (const Generator* g : recorded_) begins_.push_back(g->state());
  try {
    record(work);
  } catch (...) {
    for (const Tensor& leaf : leaves_) leaf.set_grad(Tensor());
    throw;
  }
  leaves_.clear();
}

void Graph::record(const std::function<void()>& work) {
  const auto rewind = [this] {
    for (size_t i = 0; i < recorded_.size(); ++i) recorded_[i]->set_state(begins_[i]);
  };
  Recording recording(*this);
  try {
    work();
  } catch (...) {
    rewind();
    throw;
  }
  for (size_t i = 0; i < recorded_.size(); ++i)
    streams_.push_back(recorded_[i]->state().next - begins_[i].next);
  rewind();
  graph_ = recording.graph();
}

Graph::~Graph() {
  if (graph_) cuda::destroy_graph(graph_, device_.index);
}

std::vector<Generator*> Graph::generators() const {
  std::vector<Generator*> all = {&default_generator(), &rounding_generator()};
  all.insert(all.end(), given_.begin(), given_.end());
  return all;
}

const uint64_t* Graph::advance_of(const Generator& generator) const {
  const auto found = std::find(recorded_.begin(), recorded_.end(), &generator);
  if (found == recorded_.end())
    fail("a captured step draws from a generator that it was not given; see optim::CapturedStep");
  return reinterpret_cast<const uint64_t*>(advance_.ptr<int64_t>()) + (found - recorded_.begin());
}

bool Graph::fits() const {
  const std::vector<Generator*> now = generators();
  const auto same_seed = [](const Generator* g, const Generator::State& begin) {
    return g->state().seed == begin.seed;
  };
  return changes_ == changes && precision_ == matmul_precision() &&
         std::ranges::equal(now, begins_, same_seed) &&
         std::ranges::all_of(states_, [](const auto& state) { return state.second.fits(); });
}

void Graph::run() {
  const std::vector<Generator*> now = generators();
  const Tensor advance = Tensor::empty({int64_t(now.size())}, {.dtype = DType::i64});
  for (size_t i = 0; i < now.size(); ++i) {
    const auto [seed, next] = now[i]->state();
    advance.ptr<int64_t>()[i] = int64_t(next - begins_[i].next);
    now[i]->set_state({seed, next + streams_[i]});
  }
  advance_.copy_(advance);
  for (const auto& [owner, state] : states_) state.feed();
  cuda::launch_graph(graph_, device_.index);
  all_contents_change();
}

}  // namespace altgrad::detail
