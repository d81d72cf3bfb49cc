// d = g + weight_decay w, v = momentum v + d, w -= lr v (nesterov: lr (d + momentum v)): kernels::sgd.
#include <altgrad/nn/optim/sgd.h>

#include <altgrad/core/internal/kernels/optim.h>
#include <altgrad/nn/internal/fused_update.h>

namespace altgrad::optim {

SGD::SGD(std::vector<ParamGroup> groups, SGDOptions options)
    : Optimizer("sgd", std::move(groups), options.lr, options.weight_decay,
                std::vector<std::string>(options.momentum > 0, "momentum_buffer")),
      options_(options) {
  check_setting("momentum", options.momentum);
  if (options.nesterov && options.momentum == 0) fail("sgd: nesterov needs momentum > 0");
}

void SGD::step() {
  const auto item = []<class T>(const ParamView<T>& p) {
    return kernels::SgdParam<T>{p.w, p.state[0], p.g, p.n, p.lr, p.weight_decay};
  };
  detail::fused_update(begin_step(), item, [&](const auto& device, const auto* params, int64_t count) {
    kernels::sgd(device, params, count, options_.momentum, options_.nesterov);
  });
}

}  // namespace altgrad::optim
