// The average of a model's parameters over its last steps, to evaluate and to keep.
#pragma once

#include <altgrad/core/param_view.h>
#include <altgrad/nn/module.h>

#include <string>
#include <vector>

ALTGRAD_API_BEGIN
namespace altgrad::optim {

/// An exponential moving average of a module's parameters (Polyak & Juditsky, "Acceleration of stochastic approximation
/// by averaging", 1992; exponential as in Kingma & Ba, "Adam", 2015, section 7.2). It begins as the parameters are, and
/// follows them to another dtype or device. Buffers, such as amax histories, are not averaged.
///
///   optim::Ema ema(model, 0.999);
///   for (...) { ...; opt.step(); ema.update(); }
///   ema.swap();  // the model has the averages
///   evaluate(model);
///   ema.swap();  // and its own parameters again
class Ema {
 public:
  /// Throws std::invalid_argument where decay is not in [0, 1), or the module has no parameters.
  Ema(const nn::Module& module, double decay);

  double decay() const { return decay_; }
  /// average = decay * average + (1 - decay) * parameter. May stand in a captured step (optim::CapturedStep).
  void update();
  /// Exchanges the values of parameters and averages. Between two of these the module must not be trained.
  void swap();

  /// The averages by the parameters' names. The tensors are its own, not copies.
  StateDict state_dict() const;
  /// Throws std::invalid_argument, naming the key, where names, shapes or dtypes do not match those of state_dict(),
  /// and changes nothing then.
  void load_state_dict(const StateDict& state);
  /// Throws as load_state_dict does; changes nothing.
  void check_state_dict(const StateDict& state) const;

 private:
  void sync_with_params() const;

  std::vector<std::pair<std::string, Tensor>> params_;
  std::vector<Tensor> averages_;  // by the parameter's position
  double decay_;
  std::vector<ParamView<float>> f32_;  // kept, so that an update allocates nothing
  std::vector<ParamView<double>> f64_;
};

}  // namespace altgrad::optim
ALTGRAD_API_END
