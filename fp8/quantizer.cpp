// The three scaling rules in one place. Recording comes first, so that window sees this step's amax; what the
// history held before is kept aside for delayed, and for an amax that is not finite.
#include <altgrad/fp8/quantizer.h>

#include <altgrad/core/float_environment.h>

#include <cmath>
#include <ostream>

namespace altgrad::fp8 {

std::ostream& operator<<(std::ostream& out, Scaling scaling) {
  return out << (scaling == Scaling::window ? "window" : scaling == Scaling::delayed ? "delayed" : "current");
}

float Quantizer::next_scale(float amax, bool record) {
  const DefaultFloatEnvironment environment;  // amaxes may be subnormal
  const bool empty = history.size() == 0;
  const float before = history.amax();
  if (record) history.update(amax);
  if (!format) return 1;

  const bool use_own = scaling == Scaling::current || empty;
  const float wanted = use_own ? amax : scaling == Scaling::delayed ? before : history.amax();
  const float used = std::isfinite(wanted) ? wanted : before;
  if (record && std::isfinite(amax) && amax > used) history.count_clipped();
  return compute_scale(used, *format);
}

std::optional<float> Quantizer::expected_scale(bool record) const {
  if (!format || scaling == Scaling::current || history.size() == 0) return {};
  const std::optional<float> amax =
      scaling == Scaling::window && record ? history.settled_amax() : history.amax();
  if (!amax) return {};
  return compute_scale(*amax, *format);
}

}  // namespace altgrad::fp8
