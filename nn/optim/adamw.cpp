// m and v are moving averages of g and g^2; w moves by m / (sqrt(v) + eps), both freed of their start from 0:
// kernels::adamw.
#include <altgrad/nn/optim/adamw.h>

#include <altgrad/core/dispatch.h>
#include <altgrad/core/internal/kernels/optim.h>
#include <altgrad/nn/internal/grad_norm.h>

namespace altgrad::optim {

AdamW::AdamW(std::vector<ParamGroup> groups, AdamWOptions options)
    : Optimizer("adamw", std::move(groups), options.lr, options.weight_decay, {"exp_avg", "exp_avg_sq"}),
      options_(options) {
  check_setting("eps", options.eps);
  for (double beta : options.betas) {
    if (!(beta >= 0 && beta < 1)) fail("adamw: betas must be in [0, 1), got ", beta);
  }
}

namespace {

void update(const Step& step, const AdamWOptions& options, const kernels::Clip& clip) {
  const auto [beta1, beta2] = options.betas;
  dispatch_device(step.device, [&, beta1 = beta1, beta2 = beta2](const auto& device) {
    kernels::adamw(device, std::span(step.f32), beta1, beta2, options.eps, clip);
    kernels::adamw(device, std::span(step.f64), beta1, beta2, options.eps, clip);
  });
}

}  // namespace

void AdamW::step() { update(begin_step(), options_, {}); }

Tensor AdamW::clipped_step(double max_norm) {
  const Tensor norm = nn::detail::grad_norm("adamw", parameters(), max_norm).norm;
  update(begin_step(), options_, {norm.ptr<double>(), max_norm});
  return norm;
}

}  // namespace altgrad::optim
