// The three scaling rules in one place. Recording comes first, so that window sees this step's amax; what the
// history held before is kept aside for delayed, and for an amax that is not finite.
#include <altgrad/autograd/replay.h>
#include <altgrad/fp8/quantizer.h>

#include <cmath>
#include <limits>
#include <ostream>

namespace altgrad::fp8 {

std::ostream& operator<<(std::ostream& out, Scaling scaling) {
  return out << (scaling == Scaling::window ? "window" : scaling == Scaling::delayed ? "delayed" : "current");
}

TensorScale Quantizer::next_scale(const Tensor& x, bool record) {
  float largest = std::numeric_limits<float>::infinity();
  const float scale = altgrad::detail::replayed([&]() -> float {
    const bool empty = history.size() == 0;
    const float before = history.amax();
    const bool own_wanted = record || (format && (empty || scaling == Scaling::current));
    const float own = own_wanted ? amax(x) : 0;
    if (own_wanted) largest = own;
    if (record) history.update(own);
    if (!format) return 1;

    const bool use_own = scaling == Scaling::current || empty;
    const float wanted = use_own ? own : scaling == Scaling::delayed ? before : history.amax();
    const float used = std::isfinite(wanted) ? wanted : before;
    if (record && std::isfinite(own) && own > used) history.count_clipped();
    return compute_scale(used, *format);
  });
  return {scale, largest};
}

}  // namespace altgrad::fp8
