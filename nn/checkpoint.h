// A training checkpoint: everything that a resumed run needs to go on bit for bit, in one safetensors file,
// written atomically. Keys are "model.NAME", "optimizer.NAME" and "ema.NAME"; step and generators' states are metadata, the
// program's own metadata is under "extra.NAME". The optimizer's settings are the program's to give again.
#pragma once

#include <altgrad/nn/optim.h>
#include <altgrad/nn/safetensors.h>

ALTGRAD_API_BEGIN
namespace altgrad::nn {

struct TrainingState {
  int64_t step = 0;
  /// Of the calling thread's default_generator() and rounding_generator(), unless others are given.
  Generator::State generator = default_generator().state();
  Generator::State rounding = rounding_generator().state();
  Metadata extra = {};  ///< the program's own
};

/// Saves model (parameters and buffers: amax histories too), optimizer, state, and averages, if given. Throws as save_safetensors
/// does, and std::invalid_argument on a negative step.
void save_checkpoint(const std::string& path, const Module& model, const optim::Optimizer& optimizer,
                     const TrainingState& state, const optim::Ema* ema = nullptr);
/// Loads into model, optimizer and, if given, averages, which must have the shapes saved; throws as load_safetensors and
/// load_state_dict do, std::invalid_argument also on a file that is no checkpoint, and then none has
/// changed. The generators are the caller's to set: default_generator().set_state(state.generator) and
/// rounding_generator().set_state(state.rounding). A checkpoint of before there were two gives the latter where
/// manual_seed(generator.seed) would put it.
TrainingState load_checkpoint(const std::string& path, Module& model, optim::Optimizer& optimizer,
                              optim::Ema* ema = nullptr);

}  // namespace altgrad::nn
ALTGRAD_API_END
