// A step is: check, count, list the parameters that have gradients, hand the list to the kernel.
#include <altgrad/nn/optim.h>

#include <altgrad/core/dispatch.h>
#include <altgrad/core/internal/kernels/optim.h>
#include <altgrad/core/internal/utf8.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>

namespace altgrad {
namespace optim {
namespace {

void check_setting(const char* op, const char* what, double value) {
  if (!(value >= 0 && std::isfinite(value)))
    fail(op, ": ", what, " must be finite and not negative, got ", value);
}

// f(group, parameter, position)
template <class F>
void for_each_parameter(const std::vector<ParamGroup>& groups, F&& f) {
  size_t position = 0;
  for (const ParamGroup& group : groups) {
    for (const Tensor& p : group.params) f(group, p, position++);
  }
}

constexpr int64_t max_updates = int64_t(1) << 62;

// Hands the kernel a list of all parameters that have gradients, which are on one device: entry<T>(parameter, group,
// position) makes that of one. The lists are kept, so that a step allocates nothing.
template <template <class> class Param, class Entry, class Kernel>
void update(const std::vector<ParamGroup>& groups, Entry entry, Kernel kernel) {
  thread_local std::vector<Param<float>> f32;
  thread_local std::vector<Param<double>> f64;
  f32.clear();
  f64.clear();
  Device on;
  for_each_parameter(groups, [&](const ParamGroup& group, const Tensor& p, size_t i) {
    if (!p.has_grad()) return;
    on = p.device();
    const auto g = size_t(&group - groups.data());
    switch (p.dtype()) {
      case DType::f32: f32.push_back(entry.template operator()<float>(p, g, i)); break;
      case DType::f64: f64.push_back(entry.template operator()<double>(p, g, i)); break;
      case DType::i64:
      case DType::u8:
      case DType::bf16: break;  // the constructor refuses them
    }
  });
  dispatch_device(on, [&](const auto& device) {
    kernel(device, f32.data(), int64_t(f32.size()));
    kernel(device, f64.data(), int64_t(f64.size()));
  });
}

bool same_device(const Tensor& a, const Tensor& b) { return a.device() == b.device(); }

}  // namespace

Optimizer::Optimizer(const char* name, std::vector<ParamGroup> groups, double lr, double weight_decay,
                     const std::vector<const char*>& state)
    : name_(name), groups_(std::move(groups)) {
  for (ParamGroup& group : groups_) {
    group.lr = group.lr.value_or(lr);
    group.weight_decay = group.weight_decay.value_or(weight_decay);
    check_setting(name_, "lr", *group.lr);
    check_setting(name_, "weight_decay", *group.weight_decay);
  }
  std::set<const void*> memory;
  for_each_parameter(groups_, [&](const ParamGroup&, const Tensor& p, size_t i) {
    if (!p.defined()) fail(name_, ": parameter ", i, " is undefined");
    if (!is_floating(p.dtype())) {
      fail(name_, ": parameter ", i, " of shape ", p.shape(), " is ", p.dtype(), ", which has no gradient");
    }
    if (!memory.insert(p.raw()).second) {
      fail(name_, ": parameter ", i, " of shape ", p.shape(), " was given before");
    }
    parameters_.push_back(p);
  });
  if (memory.empty()) fail(name_, ": got no parameters");

  updates_ = Tensor::zeros({int64_t(memory.size())}, {.dtype = DType::i64});
  for (const char* key : state) {
    std::vector<Tensor>& tensors = state_.emplace_back(State{key, {}}).tensors;
    for_each_parameter(groups_, [&](const ParamGroup&, const Tensor& p, size_t) {
      tensors.push_back(Tensor::zeros(p.shape(), p.options()));
    });
  }
}

void Optimizer::zero_grad() {
  for (const ParamGroup& group : groups_) {
    for (const Tensor& p : group.params) p.set_grad(Tensor());
  }
}

const ParamGroup& Optimizer::first_group() const {
  if (groups_.empty())
    fail(name_, ": there is no group of parameters; were groups() emptied, or was it moved from?");
  return groups_.front();
}

double Optimizer::lr() const {
  const std::optional<double> lr = first_group().lr;
  if (!lr) fail(name_, ": the first group's lr was taken away");
  return *lr;
}

void Optimizer::set_lr(double lr) {
  first_group();
  check_setting(name_, "lr", lr);
  for (ParamGroup& group : groups_) group.lr = lr;
}

void Optimizer::check_parameters() const {
  first_group();
  size_t count = 0;
  for_each_parameter(groups_, [&](const ParamGroup&, const Tensor& p, size_t i) {
    ++count;
    if (!p.defined()) fail(name_, ": parameter ", i, " is undefined");
    if (i >= parameters_.size() || p.id() != parameters_[i].id()) {
      fail(name_, ": parameter ", i, " of shape ", p.shape(), " is not one that the optimizer was made for");
    }
  });
  if (count != parameters_.size()) {
    fail(name_, ": made for ", parameters_.size(), " parameters, its groups now hold ", count);
  }
}

// Module::to gives parameters other memory in place.
void Optimizer::follow_parameters() const {
  check_parameters();
  for (const State& state : state_) {
    for_each_parameter(groups_, [&](const ParamGroup&, const Tensor& p, size_t i) {
      const Tensor& t = state.tensors[i];
      if (t.dtype() != p.dtype() || !same_device(t, p)) t.assign_(t.to(p.dtype()).to(p.device()));
    });
  }
}

void Optimizer::check_updates(const Tensor& updates) const {
  for (const int64_t n : updates.to(Device::cpu()).data<int64_t>()) {
    if (n < 0 || n > max_updates) fail(name_, ": \"step\" must be in [0, 2^62], has ", n);
  }
}

void Optimizer::begin_step() {
  check_parameters();
  const Tensor* first = nullptr;
  for_each_parameter(groups_, [&](const ParamGroup& group, const Tensor& p, size_t) {
    check_setting(name_, "lr", group.lr.value_or(NAN));
    check_setting(name_, "weight_decay", group.weight_decay.value_or(NAN));
    if (!p.has_grad()) return;
    if (!first) first = &p;
    if (!same_device(p, *first)) {
      fail(name_, ": parameters are on different devices, ", first->device(), " and ", p.device());
    }
  });
  check_updates(updates_);
  follow_parameters();
  const Tensor numbers = Tensor::empty({int64_t(groups_.size()) + updates_.numel()}, {.dtype = DType::f64});
  for_each_parameter(groups_, [&](const ParamGroup&, const Tensor& p, size_t i) {
    int64_t& n = updates_.ptr<int64_t>()[i];
    n = std::min(n + p.has_grad(), max_updates);
  });
  double* to = numbers.ptr<double>();
  for (const ParamGroup& group : groups_) *to++ = *group.lr;
  std::copy_n(updates_.ptr<int64_t>(), updates_.numel(), to);
  numbers_ = first ? numbers.to(first->device()) : numbers;
}

StateDict Optimizer::state_dict() const {
  follow_parameters();
  StateDict dict{{"step", updates_}};
  for (const State& state : state_) {
    for (size_t i = 0; i < state.tensors.size(); ++i) dict[concat(state.name, ".", i)] = state.tensors[i];
  }
  return dict;
}

void Optimizer::check_state_dict(const StateDict& state) const {
  const StateDict own = state_dict();
  for (const auto& [key, tensor] : own) {
    const auto found = state.find(key);
    if (found == state.end()) fail(name_, ": the state to load has no \"", key, "\"");
    const Tensor& given = found->second;
    if (!given.defined()) fail(name_, ": \"", key, "\" is undefined in the state to load");
    if (!(given.shape() == tensor.shape()) || given.dtype() != tensor.dtype()) {
      fail(name_, ": \"", key, "\" is ", given.dtype(), " ", given.shape(), " in the state to load, must be ",
           tensor.dtype(), " ", tensor.shape());
    }
  }
  for (const auto& [key, tensor] : state) {
    if (!own.contains(key)) fail(name_, ": the state to load has an unexpected ", detail::in_quotes(key));
  }
  check_updates(state.at("step"));
}

void Optimizer::load_state_dict(const StateDict& state) {
  check_state_dict(state);
  std::vector<std::pair<Tensor, Tensor>> copies;
  for (const auto& [key, tensor] : state_dict()) copies.emplace_back(tensor, state.at(key));
  nn::detail::copy_all(std::move(copies));
}

SGD::SGD(std::vector<ParamGroup> groups, SGDOptions options)
    : Optimizer("sgd", std::move(groups), options.lr, options.weight_decay,
                options.momentum > 0 ? std::vector{"momentum_buffer"} : std::vector<const char*>{}),
      options_(options) {
  check_setting(name_, "momentum", options.momentum);
  if (options.nesterov && options.momentum == 0) fail("sgd: nesterov needs momentum > 0");
}

void SGD::step() {
  begin_step();
  update<kernels::SgdParam>(
      groups_,
      [&]<class T>(const Tensor& p, size_t group, size_t i) {
        T* momentum = state_.empty() ? nullptr : state_[0].tensors[i].ptr<T>();
        return kernels::SgdParam<T>{p.ptr<T>(),
                                    momentum,
                                    p.grad().ptr<T>(),
                                    p.numel(),
                                    numbers_.ptr<double>() + group,
                                    *groups_[group].weight_decay};
      },
      [&](const auto& device, const auto* params, int64_t count) {
        kernels::sgd(device, params, count, options_.momentum, options_.nesterov);
      });
}

AdamW::AdamW(std::vector<ParamGroup> groups, AdamWOptions options)
    : Optimizer("adamw", std::move(groups), options.lr, options.weight_decay, {"exp_avg", "exp_avg_sq"}),
      options_(options) {
  check_setting(name_, "eps", options.eps);
  for (double beta : options.betas) {
    if (!(beta >= 0 && beta < 1)) fail("adamw: betas must be in [0, 1), got ", beta);
  }
}

void AdamW::step() {
  begin_step();
  update<kernels::AdamWParam>(
      groups_,
      [&]<class T>(const Tensor& p, size_t group, size_t i) {
        return kernels::AdamWParam<T>{p.ptr<T>(),
                                      state_[0].tensors[i].ptr<T>(),
                                      state_[1].tensors[i].ptr<T>(),
                                      p.grad().ptr<T>(),
                                      p.numel(),
                                      numbers_.ptr<double>() + group,
                                      numbers_.ptr<double>() + groups_.size() + i,
                                      *groups_[group].weight_decay};
      },
      [&](const auto& device, const auto* params, int64_t count) {
        kernels::adamw(device, params, count, options_.betas[0], options_.betas[1], options_.eps);
      });
}

double CosineSchedule::operator()(int64_t step) const {
  check_setting("CosineSchedule", "max_lr", max_lr);
  check_setting("CosineSchedule", "min_lr", min_lr);
  if (step < 0 || warmup < 0) {
    fail("CosineSchedule: step and warmup must not be negative, got step ", step, ", warmup ", warmup);
  }
  const DefaultFloatEnvironment environment;
  if (step < warmup) return max_lr * (double(step) + 1) / (double(warmup) + 1);
  if (step >= total) return min_lr;
  const double progress = double(step - warmup) / double(total - warmup);
  return min_lr + 0.5 * (1 + std::cos(std::numbers::pi * progress)) * (max_lr - min_lr);
}

}  // namespace optim

namespace nn {

Tensor clip_grad_norm_(std::span<const Tensor> parameters, double max_norm) {
  if (!(max_norm >= 0)) fail("clip_grad_norm: max_norm must not be negative, got ", max_norm);
  thread_local std::vector<kernels::Gradient> grads;  // kept, so that a step allocates nothing
  grads.clear();
  std::optional<Device> on;
  for (const Tensor& p : parameters) {
    if (!p.has_grad()) continue;
    const Tensor& g = p.grad();
    if (on.value_or(g.device()) != g.device())
      fail("clip_grad_norm: gradients are on different devices, ", *on, " and ", g.device());
    on = g.device();
    if (!is_floating(g.dtype())) {
      fail("clip_grad_norm: needs a floating dtype, got a gradient of ", g.dtype(), ", shape ", g.shape());
    }
    grads.push_back({g.raw(), g.numel(), g.dtype()});
  }
  const Tensor norm = Tensor::empty({}, {DType::f64, on.value_or(Device::cpu())});
  dispatch_device(norm.device(), [&](const auto& device) {
    const auto count = int64_t(grads.size());
    kernels::grad_norm(device, norm.ptr<double>(), grads.data(), count);
    kernels::clip_grads(device, grads.data(), count, norm.ptr<double>(), max_norm);
  });
  return norm;
}

double clip_grad_norm(std::span<const Tensor> parameters, double max_norm) {
  return clip_grad_norm_(parameters, max_norm).item<double>();
}

}  // namespace nn
}  // namespace altgrad
