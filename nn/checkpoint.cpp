// One flat dictionary and a few lines of metadata; the file does the rest.
#include <altgrad/nn/checkpoint.h>

#include <altgrad/core/internal/utf8.h>

#include <charconv>

namespace altgrad::nn {
namespace {

constexpr const char* version_key = "altgrad_checkpoint";  // marks a checkpoint, and its layout
constexpr const char* version = "1";
constexpr std::string_view model_prefix = "model.", optimizer_prefix = "optimizer.", ema_prefix = "ema.",
                           extra_prefix = "extra.";

template <class Map>
void insert_prefixed(Map& to, std::string_view prefix, const Map& from) {
  for (const auto& [key, value] : from) to[concat(prefix, key)] = value;
}

// The entries under the prefix, without it.
template <class Map>
Map with_prefix(const Map& from, std::string_view prefix) {
  Map found;
  for (const auto& [key, value] : from) {
    if (key.starts_with(prefix)) found[key.substr(prefix.size())] = value;
  }
  return found;
}

template <class T>
T number(const std::string& path, const Metadata& metadata, const std::string& key) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) fail("load_checkpoint: ", path, " has no \"", key, "\" in its metadata");
  const std::string& text = found->second;
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    fail("load_checkpoint: ", path, ": \"", key, "\" must be a whole number, got ",
         altgrad::detail::in_quotes(text));
  }
  return value;
}

Generator::State generator_state(const std::string& path, const Metadata& metadata, const std::string& name) {
  return {number<uint64_t>(path, metadata, name + ".seed"), number<uint64_t>(path, metadata, name + ".next")};
}

}  // namespace

void save_checkpoint(const std::string& path, const Module& model, const optim::Optimizer& optimizer,
                     const TrainingState& state, const optim::Ema* ema) {
  if (state.step < 0) fail("save_checkpoint: step must not be negative, got ", state.step);
  StateDict tensors;
  insert_prefixed(tensors, model_prefix, model.state_dict());
  insert_prefixed(tensors, optimizer_prefix, optimizer.state_dict());
  if (ema) insert_prefixed(tensors, ema_prefix, ema->state_dict());
  Metadata metadata{{version_key, version},
                    {"step", std::to_string(state.step)},
                    {"generator.seed", std::to_string(state.generator.seed)},
                    {"generator.next", std::to_string(state.generator.next)},
                    {"rounding.seed", std::to_string(state.rounding.seed)},
                    {"rounding.next", std::to_string(state.rounding.next)}};
  insert_prefixed(metadata, extra_prefix, state.extra);
  save_safetensors(path, tensors, metadata);
}

TrainingState load_checkpoint(const std::string& path, Module& model, optim::Optimizer& optimizer,
                              optim::Ema* ema) {
  Metadata metadata;
  const StateDict tensors = load_safetensors(path, &metadata, {.keep_bf16 = true});
  const auto layout = metadata.find(version_key);
  if (layout == metadata.end()) fail("load_checkpoint: ", path, " is not a training checkpoint");
  if (layout->second != version) {
    fail("load_checkpoint: ", path, " has layout ", altgrad::detail::printable(layout->second),
         ", this altgrad reads ", version);
  }
  TrainingState state{.step = number<int64_t>(path, metadata, "step"),
                      .generator = generator_state(path, metadata, "generator"),
                      .extra = with_prefix(metadata, extra_prefix)};
  state.rounding = metadata.contains("rounding.seed")
                       ? generator_state(path, metadata, "rounding")
                       : Generator::State{state.generator.seed, first_rounding_stream};
  if (state.step < 0) fail("load_checkpoint: ", path, ": \"step\" must not be negative, got ", state.step);
  // The model's check comes with its load, so the others' come before: one fails and none has changed.
  const StateDict optimizer_state = with_prefix(tensors, optimizer_prefix);
  const StateDict averages = with_prefix(tensors, ema_prefix);
  optimizer.check_state_dict(optimizer_state);
  if (ema) ema->check_state_dict(averages);
  model.load_state_dict(with_prefix(tensors, model_prefix));
  optimizer.load_state_dict(optimizer_state);
  if (ema) ema->load_state_dict(averages);
  return state;
}

}  // namespace altgrad::nn
