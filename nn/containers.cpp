// Containers list their slots, call them, and check names; they know no layer.
#include <altgrad/nn/containers.h>

#include <algorithm>
#include <stdexcept>

namespace altgrad::nn {

namespace {

// Positions are short enough for std::string to hold without the heap.
void visit_by_position(Visitor& v, std::vector<Slot<Layer>>& layers) {
  for (size_t i = 0; i < layers.size(); ++i) v(std::to_string(i), layers[i]);
}

// May the owner have this layer? It is a level deeper there.
void check_child(const Module& owner, const Slot<Layer>& layer) {
  const detail::Level level;
  detail::check_no_cycle(layer.get().get(), &owner);
}

void check_children(const Module& owner, const std::vector<Slot<Layer>>& layers) {
  for (const Slot<Layer>& layer : layers) check_child(owner, layer);
}

Slot<Layer>& at(const char* container, std::vector<Slot<Layer>>& layers, size_t i) {
  if (i < layers.size()) return layers[i];
  throw std::out_of_range(concat(container, ": there is no layer ", i, "; there are ", layers.size()));
}

}  // namespace

Sequential& Sequential::operator=(Sequential other) {
  check_children(*this, other.layers_);
  ModuleOf::operator=(other);
  layers_.swap(other.layers_);
  return *this;
}

Slot<Layer>& Sequential::operator[](size_t i) { return at("Sequential", layers_, i); }

void Sequential::push_back(Slot<Layer> layer) {
  check_child(*this, layer);
  layers_.push_back(std::move(layer));
}

Tensor Sequential::forward(const Tensor& x) {
  Tensor y = x;
  for (const Slot<Layer>& layer : layers_) y = layer(y);
  return y;
}

void Sequential::visit(Visitor& v) { visit_by_position(v, layers_); }

ModuleList& ModuleList::operator=(ModuleList other) {
  check_children(*this, other.layers_);
  ModuleOf::operator=(other);
  layers_.swap(other.layers_);
  return *this;
}

Slot<Layer>& ModuleList::operator[](size_t i) { return at("ModuleList", layers_, i); }

void ModuleList::push_back(Slot<Layer> layer) {
  check_child(*this, layer);
  layers_.push_back(std::move(layer));
}

void ModuleList::visit(Visitor& v) { visit_by_position(v, layers_); }

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
