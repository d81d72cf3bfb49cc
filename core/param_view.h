// A parameter as the kernels of optimizers see it, the library's own and those of users (nn/optim/optimizer.h).
#pragma once

#include <altgrad/core/export.h>

#include <array>
#include <cstddef>
#include <cstdint>

ALTGRAD_API_BEGIN
namespace altgrad::optim {

constexpr size_t max_state = 4;  ///< tensors that an optimizer may keep of each parameter

/// A parameter that has a gradient: n elements of each, in memory of its device.
template <class T>
struct ParamView {
  T* w;                             ///< values
  const T* g;                       ///< gradient
  std::array<T*, max_state> state;  ///< what is kept of it, in the order of the names; null beyond
  int64_t n;
  const double *lr, *step;  ///< on the device, as they change; step counts its updates, this one included
  double weight_decay;
};

}  // namespace altgrad::optim
ALTGRAD_API_END
