// Optimizers over parameter groups, one kernel pass over all parameters; gradient clipping; the learning-rate
// schedule. A parameter without a gradient is left alone. What an optimizer remembers of a parameter follows
// it to another dtype or device.
#pragma once

#include <altgrad/nn/module.h>

#include <array>
#include <span>

ALTGRAD_API_BEGIN
namespace altgrad {
namespace optim {

// Parameters with their own settings; what is not given is the optimizer's.
struct ParamGroup {
  std::vector<Tensor> params;
  std::optional<double> lr = {}, weight_decay = {};
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(Optimizer&&) = default;  // not copied: copies would share their state
  // Throws std::invalid_argument, before anything changes, where groups() were given other parameters or
  // settings out of range, or parameters with gradients are on different devices.
  virtual void step() = 0;
  // Drops all gradients.
  void zero_grad();
  // The first group's learning rate; sets that of all groups. Both throw std::invalid_argument where there is no
  // group: groups() were emptied, or the optimizer was moved from.
  double lr() const;
  void set_lr(double lr);
  // Learning rates and weight decays may be changed; the parameters stay.
  std::vector<ParamGroup>& groups() { return groups_; }
  // State tensors by the parameter's position over all groups: "exp_avg.0", ...; and "step": i64 (number of
  // parameters), how often each was updated, counted up to 2^62. The tensors are the optimizer's own, not
  // copies.
  StateDict state_dict() const;
  // Throws std::invalid_argument, naming the key, where names, shapes or dtypes do not match those of
  // state_dict(), or a number of updates is out of range, and changes nothing then.
  void load_state_dict(const StateDict& state);
  // Throws as load_state_dict does; changes nothing.
  void check_state_dict(const StateDict& state) const;

 protected:
  // state: the names of the tensors kept for each parameter; they are like it and begin as zeros. `name` is
  // for errors. Throws std::invalid_argument on no parameters, one given twice, one that is not floating, or
  // settings out of range.
  Optimizer(const char* name, std::vector<ParamGroup> groups, double lr, double weight_decay,
            const std::vector<const char*>& state);
  // What step() does first: all checks. Counts the update of each parameter that has a gradient, and puts these
  // numbers and the groups' learning rates where kernels read them.
  void begin_step();

  struct State {
    const char* name;
    std::vector<Tensor> tensors;  // by the parameter's position
  };
  const char* name_;
  std::vector<ParamGroup> groups_;
  std::vector<State> state_;
  std::vector<Tensor> parameters_;  // that it was made for, by position
  Tensor updates_;                  // "step"
  Tensor
      numbers_;  // f64, on the device of the gradients: the groups' learning rates, then the parameters' updates

 private:
  void check_updates(const Tensor& updates) const;
  const ParamGroup& first_group() const;
  void check_parameters() const;
  void follow_parameters() const;
};

struct SGDOptions {
  double lr = 1e-2;
  double momentum = 0;
  double weight_decay = 0;  // added to the gradient
  bool nesterov = false;
};

// Stochastic gradient descent as PyTorch defines it: state "momentum_buffer.0", ... where momentum > 0.
// Throws std::invalid_argument on negative or non-finite settings, and on nesterov without momentum.
class SGD final : public Optimizer {
 public:
  SGD(std::vector<Tensor> params, SGDOptions options)
      : SGD(std::vector{ParamGroup{std::move(params), {}, {}}}, options) {}
  SGD(std::vector<ParamGroup> groups, SGDOptions options);
  void step() override;

 private:
  SGDOptions options_;
};

struct AdamWOptions {
  double lr = 1e-3;
  std::array<double, 2> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 0.01;  // decoupled: w *= 1 - lr * weight_decay
};

// State "exp_avg.0", "exp_avg_sq.0", ... Throws std::invalid_argument on negative or non-finite settings, and
// on betas outside [0, 1).
class AdamW final : public Optimizer {
 public:
  AdamW(std::vector<Tensor> params, AdamWOptions options)
      : AdamW(std::vector{ParamGroup{std::move(params), {}, {}}}, options) {}
  AdamW(std::vector<ParamGroup> groups, AdamWOptions options);
  void step() override;

 private:
  AdamWOptions options_;
};

// Linear warm-up to max_lr over `warmup` steps, then half a cosine down to min_lr at step `total`, min_lr
// after it (nanoGPT's). Steps count from 0; the first has max_lr / (warmup + 1). Throws std::invalid_argument
// where step or warmup is negative, or a rate is negative or not finite.
struct CosineSchedule {
  double max_lr = 1e-3, min_lr = 1e-4;
  int64_t warmup = 100, total = 2000;
  double operator()(int64_t step) const;
};

}  // namespace optim

namespace nn {
// Scales all gradients by max_norm / norm where their common 2-norm exceeds max_norm. Gives the norm before.
// A norm that is not finite leaves the gradients as they are. Squares are summed in f64: gradients in f64 beyond
// 1e154 overflow to such a norm, and those below 1e-162 have a norm of 0. Throws std::invalid_argument where
// max_norm is negative or NaN, or gradients are on different devices or not f32 or f64.
double clip_grad_norm(std::span<const Tensor> parameters, double max_norm);
// The same with the norm as a tensor, f64 (), on the gradients' device: does not wait for it. (PyTorch's name; as there,
// gradients are scaled in place by both.)
Tensor clip_grad_norm_(std::span<const Tensor> parameters, double max_norm);
}  // namespace nn
}  // namespace altgrad
ALTGRAD_API_END
