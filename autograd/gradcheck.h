// Compares the gradients of any function of tensors with central differences, in f64. For unit tests of one's
// own ops:
//   auto check = gradcheck([](std::span<const Tensor> in) { return softplus(in[0]); }, {x});
//   INFO(check.message);
//   REQUIRE(check.ok);
#pragma once

#include <altgrad/autograd/tape.h>

#include <functional>
#include <string>

ALTGRAD_API_BEGIN
namespace altgrad {

struct GradcheckOptions {
  double step = 1e-5;       ///< of the central difference, relative to max(1, |x|)
  double tolerance = 1e-6;  ///< |analytic - numeric| <= tolerance * max(1, |analytic|, |numeric|)
  uint64_t seed = 0;        ///< of the random cotangent that contracts the output
};

struct GradcheckResult {
  bool ok = false;
  double max_error = 0;  ///< the largest |analytic - numeric| / max(1, |analytic|, |numeric|)
  std::string message;   ///< the worst element: "input 1, element (0, 2): analytic 0.25, numeric 0.5, ..."
};

/// fn is called with inputs of the same shapes. Every floating input is checked in every element; integer
/// inputs are passed through. Throws std::invalid_argument where a floating input is not f64 (differences in
/// f32 are noise) or there is none. Inputs, leaves that fn captures and the thread's generators are left as they were:
/// several threads may check functions of the same leaves at a time.
GradcheckResult gradcheck(const std::function<Tensor(std::span<const Tensor>)>& fn,
                          std::vector<Tensor> inputs, GradcheckOptions options = {});

/// One directional derivative over all of `parameters` at once, in a random direction: for whole models, whose
/// elements are too many to check one by one. fn is called without arguments and reads the parameters, which are moved
/// for that and put back: no other thread may use them meanwhile.
GradcheckResult gradcheck_directional(const std::function<Tensor()>& fn,
                                      const std::vector<Tensor>& parameters, GradcheckOptions options = {});

}  // namespace altgrad
ALTGRAD_API_END
