// The generators of a thread, and where their seeds put them.
#include <altgrad/core/random.h>

namespace altgrad {

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
