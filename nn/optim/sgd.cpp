// d = g + weight_decay w, v = momentum v + d, w -= lr v (nesterov: lr (d + momentum v)): kernels::sgd.
#include <altgrad/nn/optim/sgd.h>

#include <altgrad/core/dispatch.h>
#include <altgrad/core/internal/kernels/optim.h>

namespace altgrad::optim {

SGD::SGD(std::vector<ParamGroup> groups, SGDOptions options)
    : Optimizer("sgd", std::move(groups), options.lr, options.weight_decay,
                std::vector<std::string>(options.momentum > 0, "momentum_buffer")),
      options_(options) {
  check_setting("momentum", options.momentum);
  if (options.nesterov && options.momentum == 0) fail("sgd: nesterov needs momentum > 0");
}

void SGD::step() {
  const Step& step = begin_step();
  dispatch_device(step.device, [&](const auto& device) {
    kernels::sgd(device, std::span(step.f32), options_.momentum, options_.nesterov);
    kernels::sgd(device, std::span(step.f64), options_.momentum, options_.nesterov);
  });
}

}  // namespace altgrad::optim
