// How the library's own optimizers hand all parameters of a step to one kernel.
#pragma once

#include <altgrad/core/dispatch.h>
#include <altgrad/nn/optim/optimizer.h>

#include <vector>

namespace altgrad::optim::detail {

// Calls kernel(device, items, count) for the parameters in f32, then for those in f64; item(view) makes what it takes
// for one. The lists are kept, so that a step allocates nothing.
template <class Item, class Kernel>
void fused_update(const Step& step, Item item, Kernel kernel) {
  dispatch_device(step.device, [&](const auto& device) {
    const auto update = [&](const auto& params) {
      thread_local std::vector<decltype(item(params[0]))> items;
      items.clear();
      for (const auto& p : params) items.push_back(item(p));
      kernel(device, items.data(), int64_t(items.size()));
    };
    update(step.f32);
    update(step.f64);
  });
}

}  // namespace altgrad::optim::detail
