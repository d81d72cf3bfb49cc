// Ids as kernels check them. On the CPU a wrong one throws at once. A GPU is not waited for: there it is kept, and thrown
// where the host next waits for that device (core/cuda/cuda.h).
#pragma once

#include <altgrad/core/shape.h>

#include <cstdint>
#include <optional>
#include <string>

namespace altgrad {

// The ids, of this shape, that an op may be given: those in [0, high), and `ignore`.
struct IdRange {
  const char* op;  // a literal
  Shape shape;
  int64_t high;
  std::optional<int64_t> ignore;

  AG_HD bool holds(int64_t id) const { return (id >= 0 && id < high) || (ignore && id == *ignore); }
};

// The nearest id in [0, n): what is read where a wrong one must not be followed.
AG_HD constexpr int64_t nearest_id(int64_t id, int64_t n) { return id < 0 ? 0 : id < n ? id : n - 1; }

// Throws std::invalid_argument: element `at` of the ids is `id`, which is outside.
[[noreturn]] void fail_id(const IdRange& range, int64_t at, int64_t id);

// Where element i of a tensor of this shape lies: "(0, 2)".
std::string position(const Shape& shape, int64_t i);

}  // namespace altgrad
