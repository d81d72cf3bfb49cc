// The one traversal that knows names: a visitor with the dotted path of where it is.
#pragma once

#include <altgrad/nn/module.h>

namespace altgrad::nn::detail {

// visit() hands out members to be edited, so it is no const function; visitors that come this way leave the module as
// it is.
inline void visit(const Module& module, Visitor& visitor) { const_cast<Module&>(module).visit(visitor); }

// Throws std::invalid_argument on a name that is empty or has a dot.
class PathVisitor : public Visitor {
 protected:
  const std::string& path() const { return path_; }
  virtual void at_parameter(Tensor&) {}
  virtual void at_buffer(Tensor&) {}
  // `module` is what the slot holds. What is below it is visited only from here.
  virtual void at_module(SlotBase& slot, const std::shared_ptr<Module>& module) = 0;

 private:
  void on_parameter(std::string_view name, Tensor& tensor) final {
    at(name, [&] { at_parameter(tensor); });
  }
  void on_buffer(std::string_view name, Tensor& tensor) final {
    at(name, [&] { at_buffer(tensor); });
  }
  void on_child(std::string_view name, SlotBase& slot) final {
    if (const std::shared_ptr<Module> module = slot.module()) at(name, [&] { at_module(slot, module); });
  }

  template <class F>
  void at(std::string_view name, F f) {
    if (name.empty() || name.find('.') != name.npos)
      fail("visit: the name \"", name, "\" below \"", path_, "\" is empty or has a dot");
    const size_t length = path_.size();
    if (length > 0) path_ += '.';
    path_ += name;
    f();
    path_.resize(length);
  }

  std::string path_;
};

}  // namespace altgrad::nn::detail
