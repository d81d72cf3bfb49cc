// Small nets to operate on, and what shows that surgery left one as it was.
#pragma once

#include <altgrad/fp8/surgery.h>
#include <altgrad/nn/containers.h>

#include <sstream>

#include "values.h"

namespace nn = altgrad::nn;
using Names = std::vector<std::string>;

inline nn::Sequential small_net() {
  return on_device(nn::Sequential(nn::Linear(10, 20), nn::ReLU(), nn::Linear(20, 5)));
}
inline nn::ModuleDict small_dict() {
  return on_device(nn::ModuleDict(
      {{"layer1", nn::Linear(10, 20)}, {"layer2", nn::Linear(20, 20)}, {"out", nn::Linear(20, 5)}}));
}

// All of a model that surgery could change: printed structure, the identity of every parameter, its values.
struct Snapshot {
  std::string printed;
  std::vector<std::pair<std::string, altgrad::Tensor>> parameters;
  std::vector<std::pair<std::string, nn::Module*>> modules;
  altgrad::StateDict values;
  explicit Snapshot(const nn::Module& root)
      : parameters(root.named_parameters()), modules(root.named_modules()) {
    std::ostringstream out;
    out << root;
    printed = out.str();
    for (auto& [name, tensor] : root.state_dict()) values[name] = tensor.clone();
  }
  bool same_parameters(const Snapshot& other) const {
    if (parameters.size() != other.parameters.size()) return false;
    for (size_t i = 0; i < parameters.size(); ++i) {
      const auto& [name, tensor] = parameters[i];
      if (name != other.parameters[i].first || !tensor.is(other.parameters[i].second)) return false;
      if (!same_bits(values.at(name), other.values.at(name))) return false;
    }
    return true;
  }
  bool same(const Snapshot& other) const {
    return printed == other.printed && modules == other.modules && same_parameters(other);
  }
};
