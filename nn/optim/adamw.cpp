// m and v are moving averages of g and g^2; w moves by m / (sqrt(v) + eps), both freed of their start from 0:
// kernels::adamw.
#include <altgrad/nn/optim/adamw.h>

#include <altgrad/core/internal/kernels/optim.h>
#include <altgrad/nn/internal/fused_update.h>

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
  const auto item = []<class T>(const ParamView<T>& p) {
    return kernels::AdamWParam<T>{p.w, p.state[0], p.state[1], p.g, p.n, p.lr, p.step, p.weight_decay};
  };
  detail::fused_update(begin_step(), item, [&](const auto& device, const auto* params, int64_t count) {
    kernels::adamw(device, params, count, options_.betas[0], options_.betas[1], options_.eps);
  });
}

}  // namespace altgrad::optim
