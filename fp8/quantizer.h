// Quantizer: how one role of a layer (its weight, its input, its grad_output) is put into 8 bits: a format, a
// history of amaxes, and the rule that makes a scale of them.
#pragma once

#include <altgrad/fp8/amax_history.h>
#include <altgrad/fp8/quantize.h>

#include <optional>

ALTGRAD_API_BEGIN
namespace altgrad::fp8 {

// Which amax a training step's scale comes from:
//   window   the largest of the history with this step in it, so that nothing is ever clipped
//   delayed  the largest of the history before this step, this tensor's own where that is empty; clips where
//            values have grown, and counts the steps in which it did (TransformerEngine's delayed scaling)
//   current  this tensor's own
// In eval mode window and delayed both use the history's, and the tensor's own where the history is empty.
enum class Scaling { window, delayed, current };
std::ostream& operator<<(std::ostream& out, Scaling scaling);  // window, delayed, current

struct Quantizer {
  std::optional<Format> format;  // empty: values stay as they are
  AmaxHistory history;           // shared by copies
  Scaling scaling = Scaling::window;
  CastOptions cast = {};

  // The scale for a tensor with this amax, 1 without a format. With `record`, it enters the history. An amax that is not
  // finite is only counted there, and the history's stands in for it.
  float next_scale(float amax, bool record);
  // What next_scale will give for an amax that is not known yet: for any, or, with window scaling in training, for one
  // that the history's exceeds, as most do. Empty where nothing is to be expected, or nothing to be rounded.
  std::optional<float> expected_scale(bool record) const;
  // Does next_scale look at the amax?
  bool needs_amax(bool record) const {
    return record || (format && (scaling == Scaling::current || history.size() == 0));
  }
  // The gradient of that: dy, zeroed where x was saturated if cast.ste says so.
  Tensor gradient(const Tensor& dy, const Tensor& x, float scale) const {
    return clips() ? zero_saturated(dy, x, *format, scale) : dy;
  }
  // Does gradient() look at x?
  bool clips() const { return format && cast.ste == Ste::clipped; }
};

}  // namespace altgrad::fp8
ALTGRAD_API_END
