// The generators of a thread, and where their seeds put them.
#include <altgrad/core/random.h>

#include <altgrad/core/internal/graph.h>

namespace altgrad {

RandomStream Generator::next() {
  const detail::Graph* const graph = detail::Graph::recording();
  const uint64_t* const advance = graph ? graph->advance_of(*this) : nullptr;
  return {state_.seed, state_.next++, advance};
}

Generator& default_generator() {
  static thread_local Generator generator;
  return generator;
}

Generator& rounding_generator() {
  static thread_local Generator generator({0, first_rounding_stream});
  return generator;
}

void manual_seed(uint64_t seed) {
  default_generator().set_state({seed, 0});
  rounding_generator().set_state({seed, first_rounding_stream});
}

}  // namespace altgrad
