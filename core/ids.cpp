// The error of an id that is out of range.
#include <altgrad/core/internal/ids.h>

#include <altgrad/core/error.h>

namespace altgrad {

void fail_id(const IdRange& range, int64_t at, int64_t id) {
  fail(range.op, ": id ", id, " at ", position(range.shape, at), " of ids ", range.shape, " is outside [0, ",
       range.high, ")");
}

std::string position(const Shape& shape, int64_t i) {
  std::string text = ")";
  for (int axis = shape.dim() - 1; axis >= 0; --axis) {
    text = std::to_string(i % shape[axis]) + text;
    i /= shape[axis];
    if (axis > 0) text = ", " + text;
  }
  return "(" + text;
}

}  // namespace altgrad
