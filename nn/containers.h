// Containers: layers in a row, in a list, by name. All hold Slots, so surgery reaches inside them. They throw
// std::invalid_argument, and have not changed, where they would come to contain themselves.
#pragma once

#include <altgrad/nn/layers.h>

ALTGRAD_API_BEGIN
namespace altgrad::nn {

/// What Sequential and ModuleList share: layers by position, named "0", "1", ...
template <class Derived, class Base>
class LayerList : public ModuleOf<Derived, Base> {
 public:
  LayerList() = default;
  explicit LayerList(std::vector<Slot<Layer>> layers) : layers_(std::move(layers)) {}
  LayerList(const LayerList&) = default;
  LayerList(LayerList&&) = default;
  LayerList& operator=(const LayerList& other);
  void push_back(Slot<Layer> layer);
  size_t size() const { return layers_.size(); }
  Slot<Layer>& operator[](size_t i);  ///< throws std::out_of_range
  auto begin() { return layers_.begin(); }
  auto end() { return layers_.end(); }
  void visit(Visitor& v) override;

 private:
  std::vector<Slot<Layer>> layers_;
};

/// Calls its layers one after the other. Without layers it gives x. To make one the only layer of another, push it
/// back: Sequential(Sequential(a, b)) is by the rules of C++ the inner one itself, with the names "0.weight", and no
/// constructor runs that could tell.
class Sequential final : public LayerList<Sequential, Layer> {
 public:
  Sequential() = default;
  template <std::derived_from<Layer>... Ls>
  explicit Sequential(Ls... layers) {
    (push_back(std::move(layers)), ...);
  }
  Tensor forward(const Tensor& x) override;
};

/// The owner calls its layers.
class ModuleList final : public LayerList<ModuleList, Module> {
 public:
  using LayerList::LayerList;
};

/// Layers by name, in the order given. Throws std::invalid_argument on a name given twice, empty, or with a dot.
class ModuleDict final : public ModuleOf<ModuleDict> {
 public:
  using Item = std::pair<std::string, Slot<Layer>>;
  ModuleDict() = default;
  ModuleDict(std::initializer_list<Item> items);
  ModuleDict(const ModuleDict&) = default;
  ModuleDict(ModuleDict&&) = default;
  ModuleDict& operator=(ModuleDict other);
  void insert(std::string name, Slot<Layer> layer);
  size_t size() const { return items_.size(); }
  bool contains(std::string_view name) const;
  /// Throws std::out_of_range, naming what there is.
  Slot<Layer>& operator[](std::string_view name);
  auto begin() { return items_.begin(); }
  auto end() { return items_.end(); }
  void visit(Visitor& v) override;

 private:
  std::vector<Item> items_;
};

}  // namespace altgrad::nn
ALTGRAD_API_END
