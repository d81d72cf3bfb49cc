// Two kernels over all gradients: one for their norm, one that scales them by it where it lies.
#include <altgrad/nn/clip_grad_norm.h>

#include <altgrad/core/dispatch.h>
#include <altgrad/nn/internal/grad_norm.h>

#include <optional>
#include <vector>

namespace altgrad::nn {

detail::GradNorm detail::grad_norm(const char* op, std::span<const Tensor> parameters, double max_norm) {
  if (!(max_norm >= 0)) fail(op, ": max_norm must not be negative, got ", max_norm);
  thread_local std::vector<kernels::Gradient> grads;  // kept, so that a step allocates nothing
  grads.clear();
  std::optional<Device> on;
  for (const Tensor& p : parameters) {
    if (!p.has_grad()) continue;
    const Tensor& g = p.grad();
    if (on.value_or(g.device()) != g.device())
      fail(op, ": gradients are on different devices, ", *on, " and ", g.device());
    on = g.device();
    if (!is_floating(g.dtype())) {
      fail(op, ": needs a floating dtype, got a gradient of ", g.dtype(), ", shape ", g.shape());
    }
    dispatch(op, g,
             [&]<class T>(const auto&) { grads.emplace_back(std::span(g.ptr<T>(), size_t(g.numel()))); });
  }
  const Tensor norm = Tensor::empty({}, {DType::f64, on.value_or(Device::cpu())});
  dispatch_device(norm.device(),
                  [&](const auto& device) { kernels::grad_norm(device, norm.ptr<double>(), grads); });
  return {grads, norm};
}

Tensor clip_grad_norm_(std::span<const Tensor> parameters, double max_norm) {
  const auto [grads, norm] = detail::grad_norm("clip_grad_norm", parameters, max_norm);
  dispatch_device(norm.device(), [&, &grads = grads, &norm = norm](const auto& device) {
    kernels::clip_grads(device, grads, {norm.ptr<double>(), max_norm});
  });
  return norm;
}

double clip_grad_norm(std::span<const Tensor> parameters, double max_norm) {
  return clip_grad_norm_(parameters, max_norm).item<double>();
}

}  // namespace altgrad::nn
