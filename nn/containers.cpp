// Containers list their slots, call them, and check names; they know no layer.
#include <altgrad/nn/containers.h>

#include <algorithm>
#include <stdexcept>

namespace altgrad::nn {
namespace {

// May the owner have this layer? It is a level deeper there.
void check_child(const Module& owner, const Slot<Layer>& layer) {
  const detail::Level level;
  detail::check_no_cycle(layer.get().get(), &owner);
}

}  // namespace

template <class Derived, class Base>
LayerList<Derived, Base>& LayerList<Derived, Base>::operator=(const LayerList& other) {
  for (const Slot<Layer>& layer : other.layers_) check_child(*this, layer);
  std::vector<Slot<Layer>> layers = other.layers_;
  ModuleOf<Derived, Base>::operator=(other);
  layers_.swap(layers);
  return *this;
}

template <class Derived, class Base>
Slot<Layer>& LayerList<Derived, Base>::operator[](size_t i) {
  if (i < size()) return layers_[i];
  throw std::out_of_range(concat(this->type_name(), ": there is no layer ", i, "; there are ", size()));
}

template <class Derived, class Base>
void LayerList<Derived, Base>::push_back(Slot<Layer> layer) {
  check_child(*this, layer);
  layers_.push_back(std::move(layer));
}

// Positions are short enough for std::string to hold without the heap.
template <class Derived, class Base>
void LayerList<Derived, Base>::visit(Visitor& v) {
  for (size_t i = 0; i < size(); ++i) v(std::to_string(i), layers_[i]);
}

template class LayerList<Sequential, Layer>;
template class LayerList<ModuleList, Module>;

Tensor Sequential::forward(const Tensor& x) {
  Tensor y = x;
  for (const Slot<Layer>& layer : *this) y = layer(y);
  return y;
}

ModuleDict::ModuleDict(std::initializer_list<Item> items) {
  for (const auto& [name, layer] : items) insert(name, layer);
}

ModuleDict& ModuleDict::operator=(ModuleDict other) {
  for (const auto& [name, layer] : other.items_) check_child(*this, layer);
  ModuleOf::operator=(other);
  items_.swap(other.items_);
  return *this;
}

void ModuleDict::insert(std::string name, Slot<Layer> layer) {
  if (name.empty() || name.find('.') != name.npos)
    fail("ModuleDict: the name \"", name, "\" is empty or has a dot");
  if (contains(name)) fail("ModuleDict: the name \"", name, "\" is taken");
  check_child(*this, layer);
  items_.emplace_back(std::move(name), std::move(layer));
}

bool ModuleDict::contains(std::string_view name) const {
  return std::any_of(items_.begin(), items_.end(), [&](const Item& item) { return item.first == name; });
}

Slot<Layer>& ModuleDict::operator[](std::string_view name) {
  std::string names;
  for (auto& [key, layer] : items_) {
    if (key == name) return layer;
    names += (names.empty() ? "" : ", ") + key;
  }
  throw std::out_of_range(concat("ModuleDict: nothing is called \"", name, "\"; there are ", names));
}

void ModuleDict::visit(Visitor& v) {
  for (auto& [name, layer] : items_) v(name, layer);
}

}  // namespace altgrad::nn
