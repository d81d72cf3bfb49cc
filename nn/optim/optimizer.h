// The base of optimizers over groups of parameters: all checks, counts, state and its saving. An optimizer names the
// tensors that it keeps of each parameter, and has a step() that updates the values:
//
//   struct Mine final : optim::Optimizer {
//     Mine(std::vector<Tensor> params, double lr) : Optimizer("mine", one_group(params), lr, 0, {"exp_avg"}) {}
//     void step() override {
//       begin_step().for_each([]<class T>(const optim::ParamView<T>& p) {
//         for (int64_t i = 0; i < p.n; ++i) p.w[i] -= ...;  // of p.g[i], p.state[0][i], which is exp_avg, and *p.lr
//       });
//     }
//   };
//
// A parameter without a gradient is left alone. What an optimizer remembers of a parameter follows it to another dtype
// or device.
#pragma once

#include <altgrad/core/param_view.h>
#include <altgrad/nn/module.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

ALTGRAD_API_BEGIN
namespace altgrad::optim {

/// Parameters with their own settings; what is not given is the optimizer's.
struct ParamGroup {
  std::vector<Tensor> params;
  std::optional<double> lr = {}, weight_decay = {};
};

/// What a step updates. The memory is valid until the parameters, gradients or the optimizer change.
struct Step {
  Device device;
  std::vector<ParamView<float>> f32;
  std::vector<ParamView<double>> f64;

  /// update(view) for each, on the CPU. Throws std::invalid_argument where the parameters are elsewhere: there it takes
  /// a kernel.
  template <class F>
  void for_each(F update) const {
    if (!device.is_cpu()) fail("optimizer: for_each runs on the CPU, and the parameters are on ", device);
    for (const auto& p : f32) update(p);
    for (const auto& p : f64) update(p);
  }
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(Optimizer&&) = default;  ///< not copied: copies would share their state
  /// Throws std::invalid_argument, before anything changes, where groups() were given other parameters or
  /// settings out of range, or parameters with gradients are on different devices.
  virtual void step() = 0;
  /// Drops all gradients.
  void zero_grad();
  /// The first group's learning rate; sets that of all groups. Both throw std::invalid_argument where there is no
  /// group: groups() were emptied, or the optimizer was moved from.
  double lr() const;
  void set_lr(double lr);
  /// Learning rates and weight decays may be changed; the parameters stay.
  std::vector<ParamGroup>& groups() { return groups_; }
  /// State tensors by the parameter's position over all groups: "exp_avg.0", ...; and "step": i64 (number of
  /// parameters), how often each was updated, counted up to 2^62. The tensors are the optimizer's own, not copies.
  StateDict state_dict() const;
  /// Throws std::invalid_argument, naming the key, where names, shapes or dtypes do not match those of
  /// state_dict(), or a number of updates is out of range, and changes nothing then.
  void load_state_dict(const StateDict& state);
  /// Throws as load_state_dict does; changes nothing.
  void check_state_dict(const StateDict& state) const;

 protected:
  /// `name`, a literal, is for errors. lr and weight_decay are for groups without their own. `state` names the
  /// tensors kept of each parameter, at most max_state; they have its shape and dtype and begin as zeros. Throws
  /// std::invalid_argument on no parameters, one given twice, one that is not floating, or settings out of range.
  Optimizer(const char* name, std::vector<ParamGroup> groups, double lr, double weight_decay,
            std::vector<std::string> state);
  static std::vector<ParamGroup> one_group(std::vector<Tensor> params) {
    return {{std::move(params), {}, {}}};
  }
  const std::vector<Tensor>& parameters() const { return parameters_; }
  /// Throws std::invalid_argument unless the optimizer's setting `what` is finite and not negative.
  void check_setting(const char* what, double value) const;
  /// What step() does first: all checks. Counts the update of each parameter that has a gradient, and lists these.
  const Step& begin_step();

 private:
  struct State {
    std::string name;
    std::vector<Tensor> tensors;  // by the parameter's position
  };
  void check_updates(const Tensor& updates) const;
  const ParamGroup& first_group() const;
  void check_parameters() const;
  void check_step() const;
  std::vector<std::pair<const void*, double>> arguments() const;
  void count_step(const std::vector<size_t>& updated);
  void sync_state_with_params() const;

  const char* name_;
  std::vector<ParamGroup> groups_;
  std::vector<State> state_;
  std::vector<Tensor> parameters_;  // that it was made for, by position
  Tensor updates_;                  // "step"
  Tensor numbers_;  // f64, on the gradients' device: the groups' learning rates, then the parameters' updates
  std::vector<size_t> updated_;  // positions of the parameters that the last step updates
  Step step_;
};

}  // namespace altgrad::optim
ALTGRAD_API_END
