// rewrite plans all edits before it makes the first; clone visits shallow copies and makes them deep, with a
// map from each of the source's tensors and modules to its copy, so that what was shared stays shared.
#include <altgrad/nn/surgery.h>

#include <altgrad/nn/internal/path_visitor.h>

#include <unordered_map>
#include <unordered_set>

namespace altgrad::nn {
namespace {

// Asks fn about every module and plans the edits; apply() makes them.
class Rewrite final : public detail::PathVisitor {
  using Edit = std::pair<SlotBase*, std::shared_ptr<Module>>;

 public:
  explicit Rewrite(const RewriteFn& fn) : fn_(fn) {}

  // Every slot accepts the class of what it gets, but may refuse what would contain itself: then all are given
  // back what they had.
  void apply() {
    size_t done = 0;
    try {
      for (; done < edits_.size(); ++done) exchange(edits_[done]);
    } catch (...) {
      while (done > 0) exchange(edits_[--done]);
      throw;
    }
  }

 private:
  void at_module(SlotBase& slot, const std::shared_ptr<Module>& module) override {
    const auto [place, first] = replacements_.try_emplace(module.get());
    std::shared_ptr<Module>& replacement = place->second;  // null: keep
    if (first) {
      replacement = fn_(path(), module);
      if (replacement == module) replacement = nullptr;
      if (!replacement) module->visit(*this);
    }
    if (!replacement) return;
    if (!slot.accepts(*replacement)) {
      fail("rewrite: the slot \"", path(), "\" takes no ", replacement->type_name(), " in place of its ",
           module->type_name());
    }
    edits_.emplace_back(&slot, replacement);
  }

  static void exchange(Edit& edit) {
    auto& [slot, module] = edit;
    const std::shared_ptr<Module> before = slot->module();
    slot->set(module);
    module = before;
  }

  const RewriteFn& fn_;
  std::unordered_map<const Module*, std::shared_ptr<Module>> replacements_;
  std::vector<Edit> edits_;
};

// The addresses of a module's members.
class Members final : public Visitor {
 public:
  explicit Members(const Module& module) { detail::visit(module, *this); }
  bool contains(const void* member) const { return members_.contains(member); }

 private:
  void on_parameter(std::string_view, Tensor& t) override { members_.insert(&t); }
  void on_buffer(std::string_view, Tensor& t) override { members_.insert(&t); }
  void on_child(std::string_view, SlotBase& slot) override { members_.insert(&slot); }
  std::unordered_set<const void*> members_;
};

// Visits shallow copies and puts deep copies in place of what they share with their sources.
class Clone final : public Visitor {
 public:
  std::shared_ptr<Module> clone(const Module& source) {
    const auto [place, first] = modules_.try_emplace(&source);
    std::shared_ptr<Module>& copy = place->second;
    if (first) {
      copy = source.copy();
      if (!copy) fail("clone: copy() of ", source.type_name(), " gave null");
      const Module& made = *copy;
      if (typeid(made) != typeid(source)) {
        fail("clone: the class ", detail::type_name(typeid(source)), " derives from ", copy->type_name(),
             " and must do so by ModuleOf to be copied as what it is");
      }
      const Members members(source);
      const Members* const outer = std::exchange(source_, &members);
      copy->visit(*this);
      source_ = outer;
    }
    return copy;
  }

 private:
  void on_parameter(std::string_view name, Tensor& t) override { renew(name, t); }
  void on_buffer(std::string_view name, Tensor& t) override { renew(name, t); }
  void on_child(std::string_view name, SlotBase& slot) override {
    check(name, &slot);
    if (const std::shared_ptr<Module> child = slot.module()) slot.set(clone(*child));
  }

  void renew(std::string_view name, Tensor& t) {
    check(name, &t);
    Tensor& copy = tensors_[t.id()];
    if (!copy.defined()) {
      copy = t.copied();
      if (t.requires_grad()) copy.requires_grad(true);
    }
    t = copy;
  }

  // A copy that lists a member of its source would have the source edited.
  void check(std::string_view name, const void* member) const {
    if (source_->contains(member)) {
      fail("clone: a copy lists the \"", name, "\" of its source; its class holds a module outside a Slot, ",
           "and must copy that in its copy constructor");
    }
  }

  const Members* source_ = nullptr;  // of the module being cloned
  std::unordered_map<const void*, Tensor> tensors_;
  std::unordered_map<const Module*, std::shared_ptr<Module>> modules_;
};

}  // namespace

void rewrite(Module& root, const RewriteFn& fn) {
  Rewrite edits(fn);
  root.visit(edits);
  edits.apply();
}

std::shared_ptr<Module> clone_module(const Module& module) { return Clone().clone(module); }

}  // namespace altgrad::nn
