// A step is: check, count, list the parameters that have gradients. What is kept of a parameter is found by its
// position over all groups.
#include <altgrad/nn/optim/optimizer.h>

#include <altgrad/core/dispatch.h>
#include <altgrad/core/internal/graph.h>
#include <altgrad/core/internal/utf8.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace altgrad::optim {
namespace {

// Calls f(group, parameter, position) for each parameter.
template <class F>
void for_each_parameter(const std::vector<ParamGroup>& groups, F&& f) {
  size_t position = 0;
  for (const ParamGroup& group : groups) {
    for (const Tensor& p : group.params) f(group, p, position++);
  }
}

constexpr int64_t max_updates = int64_t(1) << 62;

}  // namespace

void Optimizer::check_setting(const char* what, double value) const {
  if (!(value >= 0 && std::isfinite(value)))
    fail(name_, ": ", what, " must be finite and not negative, got ", value);
}

Optimizer::Optimizer(const char* name, std::vector<ParamGroup> groups, double lr, double weight_decay,
                     std::vector<std::string> state)
    : name_(name), groups_(std::move(groups)) {
  for (ParamGroup& group : groups_) {
    group.lr = group.lr.value_or(lr);
    group.weight_decay = group.weight_decay.value_or(weight_decay);
    check_setting("lr", *group.lr);
    check_setting("weight_decay", *group.weight_decay);
  }
  std::set<const void*> memory;
  for_each_parameter(groups_, [&](const ParamGroup&, const Tensor& p, size_t i) {
    if (!p.defined()) fail(name_, ": parameter ", i, " is undefined");
    if (!is_floating(p.dtype())) {
      fail(name_, ": parameter ", i, " of shape ", p.shape(), " is ", p.dtype(), ", must be f32 or f64");
    }
    if (!memory.insert(p.raw()).second) {
      fail(name_, ": parameter ", i, " of shape ", p.shape(), " was given before");
    }
    parameters_.push_back(p);
  });
  if (memory.empty()) fail(name_, ": got no parameters; does the module's visit() list them?");

  updates_ = Tensor::zeros({int64_t(memory.size())}, {.dtype = DType::i64});
  if (state.size() > max_state)
    fail(name_, ": keeps ", state.size(), " tensors of each parameter, at most ", max_state, " are possible");
  if (std::set<std::string_view>{state.begin(), state.end()}.size() < state.size() ||
      std::ranges::any_of(state, [](const std::string& key) { return key.empty() || key == "step"; })) {
    fail(
        name_,
        ": the names of what is kept of a parameter must differ, from each other and from \"\" and \"step\"");
  }
  for (std::string& key : state) {
    std::vector<Tensor>& tensors = state_.emplace_back(State{std::move(key), {}}).tensors;
    for_each_parameter(groups_, [&](const ParamGroup&, const Tensor& p, size_t) {
      tensors.push_back(Tensor::zeros(p.shape(), p.options()));
    });
  }
}

void Optimizer::zero_grad() {
  for_each_parameter(groups_, [](const ParamGroup&, const Tensor& p, size_t) { p.set_grad(Tensor()); });
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
  check_setting("lr", lr);
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
void Optimizer::sync_state_with_params() const {
  check_parameters();
  for (const State& state : state_) {
    for_each_parameter(groups_, [&](const ParamGroup&, const Tensor& p, size_t i) {
      const Tensor& t = state.tensors[i];
      if (t.dtype() != p.dtype() || t.device() != p.device()) t.assign_(t.to(p.dtype()).to(p.device()));
    });
  }
}

void Optimizer::check_updates(const Tensor& updates) const {
  const Tensor numbers = updates.to(Device::cpu());
  for (const int64_t n : numbers.data<int64_t>()) {
    if (n < 0 || n > max_updates) fail(name_, ": \"step\" must be in [0, 2^62], has ", n);
  }
}

// What is in the arguments of a step's kernels: where everything lies, and the weight decays.
std::vector<std::pair<const void*, double>> Optimizer::arguments() const {
  std::vector<std::pair<const void*, double>> all = {{numbers_.raw(), double(groups_.size())}};
  for_each_parameter(groups_, [&](const ParamGroup& group, const Tensor& p, size_t i) {
    all.emplace_back(p.raw(), *group.weight_decay);
    for (const State& state : state_) all.emplace_back(state.tensors[i].raw(), 0);
  });
  return all;
}

void Optimizer::check_step() const {
  check_parameters();
  for (const ParamGroup& group : groups_) {
    check_setting("lr", group.lr.value_or(NAN));
    check_setting("weight_decay", group.weight_decay.value_or(NAN));
  }
  check_updates(updates_);
}

// Counts an update of these parameters, and queues a copy of what changes with each step to the device.
void Optimizer::count_step(const std::vector<size_t>& updated) {
  const Tensor numbers = Tensor::empty(numbers_.shape(), {.dtype = DType::f64});
  for (const size_t i : updated) {
    int64_t& n = updates_.ptr<int64_t>()[i];
    n = std::min(n + 1, max_updates);
  }
  double* to = numbers.ptr<double>();
  for (const ParamGroup& group : groups_) *to++ = *group.lr;
  std::copy_n(updates_.ptr<int64_t>(), updates_.numel(), to);
  numbers_.copy_(numbers);
  for_each_parameter(groups_,
                     [](const ParamGroup&, const Tensor& p, size_t) { altgrad::detail::contents_change(p); });
}

const Step& Optimizer::begin_step() {
  check_step();
  const Tensor* first = nullptr;
  updated_.clear();
  for_each_parameter(groups_, [&](const ParamGroup&, const Tensor& p, size_t i) {
    if (!p.has_grad()) return;
    if (!first) first = &p;
    if (p.device() != first->device()) {
      fail(name_, ": parameters are on different devices, ", first->device(), " and ", p.device());
    }
    updated_.push_back(i);
  });
  sync_state_with_params();
  step_.device = first ? first->device() : Device::cpu();
  const Shape shape{int64_t(groups_.size()) + updates_.numel()};
  altgrad::detail::Graph* const graph = altgrad::detail::Graph::recording();
  if (!numbers_.defined() || numbers_.shape() != shape || numbers_.device() != step_.device) {
    if (graph) fail(name_, ": its first step is in a step that is captured; see optim::CapturedStep");
    numbers_ = Tensor::empty(shape, {DType::f64, step_.device});
  }
  if (graph) {
    const auto fits = [this, recorded = arguments()] {
      check_step();
      return arguments() == recorded;
    };
    if (!graph->add(this, {fits, [this, updated = updated_] { count_step(updated); }}))
      fail(name_, ": a captured step makes two steps of one optimizer");
  } else {
    count_step(updated_);
  }

  const double *lr = numbers_.ptr<double>(), *step = lr + groups_.size();
  const auto list = [&]<class T>(std::vector<ParamView<T>>& views, const Tensor& p, size_t group, size_t i) {
    views.push_back(
        {p.ptr<T>(), p.grad().ptr<T>(), {}, p.numel(), lr + group, step + i, *groups_[group].weight_decay});
    for (size_t k = 0; k < state_.size(); ++k) views.back().state[k] = state_[k].tensors[i].template ptr<T>();
  };
  step_.f32.clear();
  step_.f64.clear();
  for_each_parameter(groups_, [&](const ParamGroup& group, const Tensor& p, size_t i) {
    if (!p.has_grad()) return;
    dispatch(name_, p, [&]<class T>(const auto&) {
      if constexpr (std::is_same_v<T, float>) {
        list(step_.f32, p, size_t(&group - groups_.data()), i);
      } else {
        list(step_.f64, p, size_t(&group - groups_.data()), i);
      }
    });
  });
  return step_;
}

StateDict Optimizer::state_dict() const {
  sync_state_with_params();
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
    if (!own.contains(key))
      fail(name_, ": the state to load has an unexpected ", altgrad::detail::in_quotes(key));
  }
  check_updates(state.at("step"));
}

void Optimizer::load_state_dict(const StateDict& state) {
  check_state_dict(state);
  std::vector<std::pair<Tensor, Tensor>> copies;
  for (const auto& [key, tensor] : state_dict()) copies.emplace_back(tensor, state.at(key));
  nn::detail::copy_all(std::move(copies));
}

}  // namespace altgrad::optim
