// m and v are moving averages of g and g^2; w moves by m / (sqrt(v) + eps), both freed of their start from 0:
// kernels::adamw.
#include <altgrad/nn/optim/adamw.h>

#include <altgrad/core/dispatch.h>
#include <altgrad/core/internal/kernels/optim.h>

namespace altgrad::optim {

AdamW::AdamW(std::vector<ParamGroup> groups, AdamWOptions options)
    : Optimizer("adamw", std::move(groups), options.lr, options.weight_decay, {"exp_avg", "exp_avg_sq"}),
      options_(options) {
  check_setting("eps", options.eps);
  for (double beta : options.betas) {
    if (!(beta >= 0 && beta < 1)) fail("adamw: betas must be in [0, 1), got ", beta);
  }
}

void AdamW::step() {
  const Step& step = begin_step();
  dispatch_device(step.device, [&](const auto& device) {
    kernels::adamw(device, std::span(step.f32), options_.betas[0], options_.betas[1], options_.eps);
    kernels::adamw(device, std::span(step.f64), options_.betas[0], options_.betas[1], options_.eps);
  });
}

}  // namespace altgrad::optim
