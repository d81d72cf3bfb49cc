// Quantizer: how one role of a layer (its weight, its input, its grad_output) is put into 8 bits: a format, a
// history of amaxes, and the rule that makes a scale of them.
#pragma once

#include <altgrad/fp8/amax_history.h>
#include <altgrad/fp8/qtensor.h>
#include <altgrad/fp8/quantize.h>
#include <altgrad/fp8/scaling.h>

#include <initializer_list>
#include <optional>

ALTGRAD_API_BEGIN
namespace altgrad::fp8 {

struct Quantizer {
  std::optional<Format> format;           ///< empty: values stay as they are
  AmaxHistory history = AmaxHistory(16);  ///< shared by copies, so each role needs one of its own
  Scaling scaling = Scaling::window;
  CastOptions cast = {};

  /// x (..., columns), f32, f64 or, on a GPU, bf16, rounded with the scale that the rule gives, in the form that suits
  /// products with `partners`, in f32 or f64 where they are not given, or, with native_fp8, in codes for FP8 tensor
  /// cores; x itself without a format. With `record`, as in training, x's amax enters the history; one that is not
  /// finite is only counted there, and the history's stands in for it. Stochastic rounding takes one stream of
  /// rounding_generator(). Not differentiable. Throws std::invalid_argument where x is not floating or not on the
  /// history's device, and with native_fp8 where its device has no such tensor cores, or they multiply no such format.
  QTensor apply(const Tensor& x, bool record, std::initializer_list<Partner> partners = {},
                bool native_fp8 = false);
  /// The gradient of apply: dy, zeroed where x was saturated if cast.ste says so; q is what apply made of x. Then it
  /// throws std::invalid_argument where dy does not match x.
  Tensor gradient(const Tensor& dy, const Tensor& x, const QTensor& q) const;
  /// Does gradient() look at x?
  bool clips() const { return format && cast.ste == Ste::clipped; }
};

}  // namespace altgrad::fp8
ALTGRAD_API_END
