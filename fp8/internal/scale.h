// How a history of amaxes makes a scale: one function for all devices, on memory of the device. Recording comes first,
// so that window scaling sees this step's amax; what the history held before is what delayed scaling uses, and what
// stands in for an amax that is not finite.
#pragma once

#include <altgrad/core/export.h>
#include <altgrad/core/internal/strict_math.h>
#include <altgrad/fp8/scaling.h>

#include <cmath>
#include <cstdint>
#include <limits>

namespace altgrad::fp8::detail {

// amax / max, see compute_scale; max is at most 2^127.
AG_HD inline float scale_of(float amax, float max) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  if (amax == 0) return 1;
  float scale = amax / max;
  if (amax / scale > max) scale = std::nextafter(scale, infinity);
  constexpr float least = std::numeric_limits<float>::min(), most = std::numeric_limits<float>::max();
  return scale < least ? least : scale > most ? most : scale;
}

// The state of an AmaxHistory.
struct History {
  float* values;  // (length), a ring: the n-th amax recorded is at n % length
  int64_t length;
  int64_t* counts;  // recorded, non-finite, clipped

  AG_HD int64_t& recorded() const { return counts[0]; }
  AG_HD int64_t& non_finite() const { return counts[1]; }
  AG_HD int64_t& clipped() const { return counts[2]; }
  AG_HD int64_t size() const { return recorded() < length ? recorded() : length; }
  AG_HD int64_t place(int64_t n) const { return int64_t(uint64_t(n) % uint64_t(length)); }

  AG_HD void record(float amax) const {
    if (std::isfinite(amax)) {
      values[place(recorded()++)] = amax;
    } else {
      ++non_finite();
    }
  }
};

// The largest amax that a history holds, and the largest of those that it will hold beside the next one; 0 where there
// is none.
struct Held {
  float amax = 0, beside = 0;

  AG_HD void see(float held, bool goes_next) {
    amax = held > amax ? held : amax;
    if (!goes_next) beside = held > beside ? held : beside;
  }
};
AG_HD inline Held held_by(const History& history) {
  Held held;
  const int64_t next = history.place(history.recorded());
  for (int64_t i = 0; i < history.size(); ++i) held.see(history.values[i], i == next);
  return held;
}

struct ScaleRule {
  Scaling scaling;
  float max;    // of the format, at most 2^127
  bool record;  // in training
};

// The scale for a tensor with this amax. With rule.record the amax enters the history, of which `held` is. One that is not
// finite is only counted there, and the history's stands in for it.
AG_HD inline float update_scale(const History& history, const Held& held, float amax, const ScaleRule& rule) {
  const bool empty = held.amax == 0;  // zeros say nothing of the numbers that follow them
  const bool enters = rule.record && std::isfinite(amax);
  if (rule.record) history.record(amax);
  const float after = !enters ? held.amax : amax > held.beside ? amax : held.beside;
  const float wanted = rule.scaling == Scaling::current || empty ? amax
                       : rule.scaling == Scaling::delayed        ? held.amax
                                                                 : after;
  const float used = std::isfinite(wanted) ? wanted : held.amax;
  if (enters && amax > used) ++history.clipped();
  return scale_of(used, rule.max);
}

// What update_scale will give for an amax that is not known yet: for any, or, with window scaling in training, for one
// that does not exceed what the history will hold beside it. NaN where that is not to be expected: with nothing held,
// or with window scaling where the newest amax is the largest, as the next may well be larger then.
AG_HD inline float predicted_scale(const History& history, const Held& held, const ScaleRule& rule) {
  constexpr float unknown = std::numeric_limits<float>::quiet_NaN();
  if (rule.scaling == Scaling::current || held.amax == 0) return unknown;
  if (rule.scaling == Scaling::delayed || !rule.record) return scale_of(held.amax, rule.max);
  const float newest = history.values[history.place(history.recorded() - 1)];
  return newest >= held.beside ? unknown : scale_of(held.beside, rule.max);
}

}  // namespace altgrad::fp8::detail
