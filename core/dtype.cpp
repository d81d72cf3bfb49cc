// Printing a dtype.
#include <altgrad/core/dtype.h>

#include <ostream>

namespace altgrad {

std::ostream& operator<<(std::ostream& out, DType t) { return out << name_of(t); }

}  // namespace altgrad
