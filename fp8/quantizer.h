// Quantizer: how one role of a layer (its weight, its input, its grad_output) is put into 8 bits: a format, a
// history of amaxes, and the rule that makes a scale of them.
#pragma once

#include <altgrad/fp8/amax_history.h>
#include <altgrad/fp8/quantize.h>

#include <optional>

namespace altgrad::fp8 {

// Which amax a training step's scale comes from:
//   window   the largest of the history with this step in it, so that nothing is ever clipped
//   delayed  the largest of the history before this step, this tensor's own where that is empty; clips where
//            values have grown, and counts the steps in which it did (TransformerEngine's delayed scaling)
//   current  this tensor's own
// In eval mode window and delayed both use the history's, and the tensor's own where the history is empty.
enum class Scaling { window, delayed, current };
std::ostream& operator<<(std::ostream& out, Scaling scaling);  // window, delayed, current

// The scale for a tensor and its largest |x|, infinity where that was not looked for.
struct TensorScale {
  float value, largest;
};

struct Quantizer {
  std::optional<Format> format;  // empty: values stay as they are
  AmaxHistory history;           // shared by copies
  Scaling scaling = Scaling::window;
  CastOptions cast = {};

  // The scale for x, 1 without a format. With `record`, x's amax enters the history. An amax that is not
  // finite is only counted there, and the history's stands in for it.
  TensorScale next_scale(const Tensor& x, bool record);
  // The gradient of that: dy, zeroed where x was saturated if cast.ste says so.
  Tensor gradient(const Tensor& dy, const Tensor& x, float scale) const {
    return clips() ? zero_saturated(dy, x, *format, scale) : dy;
  }
  // Does gradient() look at x?
  bool clips() const { return format && cast.ste == Ste::clipped; }
};

}  // namespace altgrad::fp8
