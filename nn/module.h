// Module: a tree of layers whose members are its only registry. A class lists its parameters, buffers and
// children in one function, visit(), and everything else is a visitor: names, counting, moving, saving,
// cloning, printing, surgery. So nothing can go stale, and a replaced child is replaced for all of them.
//
//   struct Mlp : nn::ModuleOf<Mlp, nn::Layer> {
//     nn::Slot<nn::Layer> c_fc, c_proj;
//     explicit Mlp(int64_t n) : c_fc(nn::Linear(n, 4 * n)), c_proj(nn::Linear(4 * n, n)) {}
//     Tensor forward(const Tensor& x) override { return c_proj(gelu(c_fc(x))); }
//     void visit(nn::Visitor& v) override { v("c_fc", c_fc); v("c_proj", c_proj); }
//   };
#pragma once

#include <altgrad/core/tensor.h>

#include <concepts>
#include <iosfwd>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <typeinfo>
#include <utility>
#include <vector>

ALTGRAD_API_BEGIN
namespace altgrad {

/// Tensors by name, as they are saved.
using StateDict = std::map<std::string, Tensor>;

namespace nn {

class Module;

namespace detail {

// A level of nested modules, for as long as it lives: those that the calling thread visits or calls through
// slots, one inside the other. Throws std::invalid_argument beyond 1,000, long before the stack ends; a module
// that contains itself gets there too.
class Level {
 public:
  Level();
  ~Level();
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;
};

// Lets go of a module. What it was the last to hold is destroyed after it, not inside its destructor, so that
// a long chain of modules needs no deep stack.
void release(std::shared_ptr<Module> module) noexcept;
// Throws std::invalid_argument where `place`, the address of a slot or module, is the module or below it: in
// that place it would contain itself.
void check_no_cycle(const Module* module, const void* place);

// A slot holds another module: what was recorded of a model records anew.
void model_changed() noexcept;

// Copies each second tensor into its first as if all at once: a source may be one of the destinations.
void copy_all(std::vector<std::pair<Tensor, Tensor>> copies);

std::string type_name(const std::type_info& type);  // without the namespaces
[[noreturn]] void slot_refuses(const Module& module, const std::type_info& wanted);
[[noreturn]] void slot_is_empty(const std::type_info& wanted);

}  // namespace detail

/// A child's place in its parent, without its type.
class SlotBase {
 public:
  virtual ~SlotBase() = default;
  virtual std::shared_ptr<Module> module() const = 0;  ///< null where empty
  /// Can this slot hold the module, by its type?
  virtual bool accepts(const Module& module) const = 0;
  /// Throws std::invalid_argument where it is not accepted, or this slot is below it: a module contains itself
  /// nowhere.
  virtual void set(std::shared_ptr<Module> module) = 0;
};

/// What visit() is handed. v("name", x) lists a parameter (Tensor, std::optional<Tensor>) or a child (Slot);
/// v.buffer("name", x) lists state that is saved but not trained. Tensors still undefined and slots still
/// empty count as absent. Names must be unique in their module, not empty, and without dots. A name that
/// begins with '_' is auxiliary: loading neither requires nor refuses it. Modules may be nested 1,000 deep; what
/// visits deeper ones throws std::invalid_argument before it changes anything.
class Visitor {
 public:
  virtual ~Visitor() = default;
  void operator()(std::string_view name, Tensor& parameter) {
    if (parameter.defined()) on_parameter(name, parameter);
  }
  void operator()(std::string_view name, std::optional<Tensor>& parameter) {
    if (parameter) (*this)(name, *parameter);
  }
  void operator()(std::string_view name, SlotBase& child) {
    const detail::Level level;
    on_child(name, child);
  }
  void buffer(std::string_view name, Tensor& buffer) {
    if (buffer.defined()) on_buffer(name, buffer);
  }

 protected:
  virtual void on_parameter(std::string_view, Tensor&) {}
  virtual void on_buffer(std::string_view, Tensor&) {}
  virtual void on_child(std::string_view, SlotBase&) {}
};

struct LoadOptions {
  /// false: keys missing or unexpected are let pass, and auxiliary ones that do not fit; other shapes must match
  /// all the same.
  bool strict = true;
};

/// Copying a module (its copy constructor, copy(), passing by value) is shallow: tensors and children are
/// shared, as with Tensor itself; nn::clone is deep. A class that holds a module outside a Slot, to list its
/// members as its own, must copy that module in its copy constructor.
class Module {
 public:
  virtual ~Module() = default;

  /// Lists this module's own members; children list theirs.
  virtual void visit(Visitor&) {}
  /// For load_state_dict, which calls it before anything changes: `part` has what the state holds for this
  /// module's own members, by their names in visit(), a tied one also where it came under another. A module whose
  /// auxiliary buffers depend on its other members says here what they become: it may add, replace and erase
  /// their entries. What it throws as std::invalid_argument refuses the load. Not called for an empty part.
  virtual void adapt_state(StateDict& /*part*/, const LoadOptions&) const {}
  /// What stands in the brackets when printed: "in_features=64, out_features=192".
  virtual std::string extra_repr() const { return {}; }
  /// Both are given by ModuleOf. copy() calls the copy constructor.
  virtual std::string type_name() const = 0;
  virtual std::shared_ptr<Module> copy() const = 0;

  /// Full dotted names, in visiting order. A tensor or module reached twice is listed once, by its first name.
  std::vector<Tensor> parameters() const;
  std::vector<std::pair<std::string, Tensor>> named_parameters() const;
  std::vector<std::pair<std::string, Tensor>> named_buffers() const;
  std::vector<std::pair<std::string, Module*>> named_modules() const;  ///< without this one

  /// By dotted name, also a tied second one. Throws std::invalid_argument where there is none, listing what there is.
  Tensor& parameter(std::string_view path) const;
  Module& module(std::string_view path) const;

  /// Sets training mode here and in all children. Modes that are right already are not written: in eval mode, several
  /// threads may call eval() and forward() of one module, as long as its own forward changes nothing then, as none of
  /// the library's does. In training mode, layers with state (QuantizedLinear's histories) need a clone for each
  /// thread.
  void train(bool on = true);
  void eval() { train(false); }
  bool training() const { return training_; }

  /// Moves or converts parameters and buffers (dtype: floating parameters only) in place: every handle to
  /// them, an optimizer's too, sees the change. Gradients of what changes are dropped. Throws before anything
  /// has changed: std::runtime_error where the device is not there, std::invalid_argument for a dtype that is
  /// not floating (bf16 is none).
  void to(Device device);
  void to(DType dtype);
  /// Drops the gradients of all parameters.
  void zero_grad();
  int64_t num_parameters() const;  ///< elements

  /// Parameters and buffers by name, a tied tensor by its first; the tensors are the module's own, not copies.
  StateDict state_dict() const;
  /// Copies values in. A tied tensor may come under any of its names, and under several with equal values (NaNs
  /// by their bits); where they differ, and the load is not strict, the first in visiting order is taken. f32, f64 and
  /// bf16 are converted to each other. Throws std::invalid_argument naming every missing, unexpected, mismatched
  /// (shape, dtype) and differing key, and then nothing has been copied.
  void load_state_dict(const StateDict& state, LoadOptions options = {});

 private:
  class SetMode;
  bool training_ = true;
};

/// Puts a tree into eval mode and, when it goes out of scope, each module back into the mode it was in.
class EvalMode {
 public:
  explicit EvalMode(Module& root);
  ~EvalMode();
  EvalMode(const EvalMode&) = delete;
  EvalMode& operator=(const EvalMode&) = delete;

 private:
  std::vector<std::pair<Module*, bool>> modes_;
};

/// As PyTorch prints them:
///   Class(
///     (name): Class(extra_repr)
///   )
std::ostream& operator<<(std::ostream& out, const Module& module);

/// A module that maps one tensor to one.
class Layer : public Module {
 public:
  virtual Tensor forward(const Tensor& x) = 0;
  Tensor operator()(const Tensor& x) { return forward(x); }
  /// {x + y, forward(x + y)}. A layer that reads its input once may make both at once.
  virtual std::pair<Tensor, Tensor> forward_sum(const Tensor& x, const Tensor& y);
};

/// Derive as `struct Mine : ModuleOf<Mine, Layer>`: gives Mine its name and its copy.
template <class Derived, class Base = Module>
class ModuleOf : public Base {
 public:
  using Base::Base;
  std::string type_name() const override { return detail::type_name(typeid(Derived)); }
  std::shared_ptr<Module> copy() const override {
    return std::make_shared<Derived>(static_cast<const Derived&>(*this));
  }
};

/// A child, held by the interface I that its parent calls it through, so that anything else with that
/// interface can be put in its place. Copies share the child.
template <class I>
class Slot final : public SlotBase {
 public:
  Slot() = default;
  /// Takes a module by value or by shared_ptr.
  template <std::derived_from<I> M>
  Slot(M module) : child_(std::make_shared<M>(std::move(module))) {}
  template <std::derived_from<I> M>
  Slot(std::shared_ptr<M> module) : child_(std::move(module)) {}
  Slot(const Slot&) = default;
  Slot(Slot&&) = default;
  Slot& operator=(Slot other) {  // throws as set does
    put(std::move(other.child_));
    return *this;
  }
  ~Slot() override { detail::release(std::move(child_)); }

  template <class... Args>
  decltype(auto) operator()(Args&&... args) const {
    const detail::Level level;
    return (**this).forward(std::forward<Args>(args)...);
  }
  I& operator*() const {
    if (!child_) detail::slot_is_empty(typeid(I));
    return *child_;
  }
  I* operator->() const { return &**this; }
  const std::shared_ptr<I>& get() const { return child_; }

  std::shared_ptr<Module> module() const override { return child_; }
  bool accepts(const Module& module) const override { return dynamic_cast<const I*>(&module) != nullptr; }
  void set(std::shared_ptr<Module> module) override {
    auto typed = std::dynamic_pointer_cast<I>(module);
    if (module && !typed) detail::slot_refuses(*module, typeid(I));
    put(std::move(typed));
  }

 private:
  void put(std::shared_ptr<I> module) {
    detail::check_no_cycle(module.get(), static_cast<const SlotBase*>(this));
    detail::release(std::exchange(child_, std::move(module)));
    detail::model_changed();
  }

  std::shared_ptr<I> child_;
};

}  // namespace nn
}  // namespace altgrad
ALTGRAD_API_END
