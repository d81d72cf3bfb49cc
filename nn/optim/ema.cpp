// An update is one kernel over all parameters: kernels::ema.
#include <altgrad/nn/optim/ema.h>

#include <altgrad/core/dispatch.h>
#include <altgrad/core/internal/kernels/optim.h>
#include <altgrad/core/internal/utf8.h>

namespace altgrad::optim {

Ema::Ema(const nn::Module& module, double decay) : params_(module.named_parameters()), decay_(decay) {
  if (!(decay >= 0 && decay < 1)) fail("Ema: decay must be in [0, 1), got ", decay);
  if (params_.empty()) fail("Ema: the module has no parameters; does its visit() list them?");
  for (const auto& [name, p] : params_) averages_.push_back(p.detach().copied());
}

void Ema::sync_with_params() const {
  for (size_t i = 0; i < params_.size(); ++i) {
    const Tensor &p = params_[i].second, &average = averages_[i];
    if (average.dtype() != p.dtype() || average.device() != p.device()) {
      average.assign_(average.to(p.dtype()).to(p.device()));
    }
  }
}

void Ema::update() {
  if (params_.empty()) fail("Ema: it was moved from");
  const Device device = params_.front().second.device();
  for (const auto& [name, p] : params_) {
    if (p.device() != device) fail("Ema: parameters are on different devices, ", device, " and ", p.device());
  }
  sync_with_params();
  f32_.clear();
  f64_.clear();
  for (size_t i = 0; i < params_.size(); ++i) {
    const Tensor &p = params_[i].second, &average = averages_[i];
    dispatch("Ema", p, [&]<class T>(const auto&) {
      const ParamView<T> view{average.ptr<T>(), p.ptr<T>(), {}, p.numel(), nullptr, nullptr, 0};
      if constexpr (std::is_same_v<T, float>) {
        f32_.push_back(view);
      } else {
        f64_.push_back(view);
      }
    });
  }
  dispatch_device(device, [&](const auto& on) {
    kernels::ema(on, std::span<const ParamView<float>>(f32_), decay_);
    kernels::ema(on, std::span<const ParamView<double>>(f64_), decay_);
  });
}

void Ema::swap() {
  sync_with_params();
  for (size_t i = 0; i < params_.size(); ++i) {
    const Tensor p = params_[i].second.detach(), values = p.copied();
    p.copy_(averages_[i]);
    averages_[i].copy_(values);
  }
}

StateDict Ema::state_dict() const {
  sync_with_params();
  StateDict dict;
  for (size_t i = 0; i < params_.size(); ++i) dict[params_[i].first] = averages_[i];
  return dict;
}

void Ema::check_state_dict(const StateDict& state) const {
  const StateDict own = state_dict();
  for (const auto& [key, tensor] : own) {
    const auto found = state.find(key);
    if (found == state.end()) fail("Ema: the state to load has no \"", key, "\"");
    const Tensor& given = found->second;
    if (!given.defined()) fail("Ema: \"", key, "\" is undefined in the state to load");
    if (!(given.shape() == tensor.shape()) || given.dtype() != tensor.dtype()) {
      fail("Ema: \"", key, "\" is ", given.dtype(), " ", given.shape(), " in the state to load, must be ",
           tensor.dtype(), " ", tensor.shape());
    }
  }
  for (const auto& [key, tensor] : state) {
    if (!own.contains(key)) fail("Ema: the state to load has an unexpected ", detail::in_quotes(key));
  }
}

void Ema::load_state_dict(const StateDict& state) {
  check_state_dict(state);
  std::vector<std::pair<Tensor, Tensor>> copies;
  for (const auto& [key, tensor] : state_dict()) copies.emplace_back(tensor, state.at(key));
  nn::detail::copy_all(std::move(copies));
}

}  // namespace altgrad::optim
