// The visitors behind Module. Those that name things go through the tree with one path string that grows and
// shrinks, and keep a set of what they have seen; those that run in every training step remember only modules
// that are shared, and allocate nothing for a few.
#include <altgrad/autograd/ops.h>
#include <altgrad/core/internal/graph.h>
#include <altgrad/nn/internal/path_visitor.h>

#include <cxxabi.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdlib>
#include <functional>
#include <memory_resource>
#include <ostream>
#include <unordered_set>

namespace altgrad::nn {
namespace {

using detail::visit;

// Goes through the tree below a module, depth first in visiting order, and offers every tensor and every
// module once, with its first dotted path.
class Walk final : public detail::PathVisitor {
 public:
  template <class T>
  using Fn = std::function<void(const std::string& path, T& found)>;
  struct Each {
    Fn<Tensor> parameter = {}, buffer = {};
    Fn<Module> module = {};
  };
  Walk(const Module& root, Each each) : each_(std::move(each)), seen_{&root} { visit(root, *this); }

 private:
  void at_parameter(Tensor& tensor) override { offer(tensor, each_.parameter); }
  void at_buffer(Tensor& tensor) override { offer(tensor, each_.buffer); }
  void at_module(SlotBase&, const std::shared_ptr<Module>& module) override {
    if (!seen_.insert(module.get()).second) return;
    if (each_.module) each_.module(path(), *module);
    module->visit(*this);
  }
  void offer(Tensor& tensor, const Fn<Tensor>& each) {
    if (each && seen_.insert(tensor.id()).second) each(path(), tensor);
  }

  const Each each_;
  std::unordered_set<const void*> seen_;  // tensor bodies and modules
};

// Follows a dotted path down the tree, by any of the names that lead to a tensor or module.
class Lookup final : public Visitor {
 public:
  Tensor* tensor = nullptr;
  bool is_parameter = false;
  Module* module = nullptr;

  Lookup(const Module& root, std::string_view path) : rest_(path) { visit(root, *this); }

 private:
  void on_parameter(std::string_view name, Tensor& found) override {
    if (name == rest_) tensor = &found, is_parameter = true;
  }
  void on_buffer(std::string_view name, Tensor& found) override {
    if (name == rest_) tensor = &found;
  }
  void on_child(std::string_view name, SlotBase& slot) override {
    const std::shared_ptr<Module> child = slot.module();
    if (!child) return;
    if (name == rest_) {
      module = child.get();
    } else if (rest_.starts_with(name) && rest_[name.size()] == '.') {
      const std::string_view here = std::exchange(rest_, rest_.substr(name.size() + 1));
      child->visit(*this);
      rest_ = here;
    }
  }

  std::string_view rest_;
};

// Goes to the modules below one, to each once. Those that are held once come up once; only others are remembered, the
// first score of them without the heap.
class EachModule : public Visitor {
 protected:
  virtual void enter(Module& module) { module.visit(*this); }

 private:
  void on_child(std::string_view, SlotBase& slot) final {
    const std::shared_ptr<Module> child = slot.module();
    const bool held_once = child.use_count() <= 2;  // by the slot, and here
    if (child && (held_once || shared_.insert(child.get()).second)) enter(*child);
  }
  std::array<std::byte, 1024> memory_;
  std::pmr::monotonic_buffer_resource resource_{memory_.data(), memory_.size()};
  std::pmr::unordered_set<const Module*> shared_{&resource_};
};

// Looks whether modules are nested too deep, before the first is changed.
class CheckDepth final : public EachModule {
 public:
  explicit CheckDepth(Module& root) { root.visit(*this); }
};

class ZeroGrad final : public EachModule {
  void on_parameter(std::string_view, Tensor& tensor) override { tensor.set_grad(Tensor()); }
};

// Is a place below a module?
class Search final : public Visitor {
 public:
  explicit Search(const void* place) : place_(place) {}
  bool finds_in(const Module& module) {
    if (!seen_.insert(&module).second || found_) return found_;
    found_ = &module == place_;
    visit(module, *this);
    return found_;
  }

 private:
  void on_child(std::string_view, SlotBase& slot) override {
    found_ = found_ || &slot == place_;
    if (const std::shared_ptr<Module> child = slot.module()) finds_in(*child);
  }
  const void* const place_;
  std::unordered_set<const Module*> seen_;
  bool found_ = false;
};

void print(std::ostream& out, const Module& module, const std::string& indent);

class PrintChildren final : public Visitor {
 public:
  PrintChildren(std::ostream& out, std::string extra, std::string indent)
      : out_(out), extra_(std::move(extra)), line_('\n' + std::move(indent)) {}
  bool any = false;

 private:
  void on_child(std::string_view name, SlotBase& slot) override {
    const std::shared_ptr<Module> child = slot.module();
    if (!child) return;
    if (!std::exchange(any, true) && !extra_.empty()) out_ << line_ << extra_;
    out_ << line_ << '(' << name << "): ";
    print(out_, *child, line_.substr(1));
  }

  std::ostream& out_;
  const std::string extra_, line_;
};

// `indent` is that of the line that the module's name is on.
void print(std::ostream& out, const Module& module, const std::string& indent) {
  const std::string extra = module.extra_repr();
  PrintChildren children(out, extra, indent + "  ");
  out << module.type_name() << '(';
  visit(module, children);
  out << (children.any ? '\n' + indent : extra) << ')';
}

// For error texts: the names there are or, of more than a dozen, the dozen most like the one that was asked
// for (that have the most characters at both ends in common with it).
std::string nearest(const auto& named, std::string_view asked) {
  std::vector<std::string> names;
  for (const auto& [name, found] : named) names.push_back(name);
  const size_t most = 12, all = names.size();
  if (names.empty()) return "; there are none";
  if (all > most) {
    auto shared = [&](const std::string& name) {
      const auto ends = std::mismatch(name.begin(), name.end(), asked.begin(), asked.end()).first;
      const auto starts = std::mismatch(name.rbegin(), name.rend(), asked.rbegin(), asked.rend()).first;
      return (ends - name.begin()) + (starts - name.rbegin());
    };
    std::stable_sort(names.begin(), names.end(),
                     [&](const auto& a, const auto& b) { return shared(a) > shared(b); });
    names.resize(most);
  }
  std::string text = "; there are ";
  for (const std::string& name : names) text += (&name == &names.front() ? "" : ", ") + name;
  return all > most ? concat(text, ", and ", all - most, " more") : text;
}

// Makes all new tensors before it puts the first in place, so that where one cannot be had nothing has changed.
class DeferredMove {
 public:
  void plan(const Tensor& t, TensorOptions options) {
    if (options.dtype == t.dtype() && options.device == t.device()) return;
    moves_.emplace_back(t, t.copied(options));
  }
  void apply() const {
    for (const auto& [t, moved] : moves_) t.assign_(moved);  // drops t's gradient
  }

 private:
  std::vector<std::pair<Tensor, Tensor>> moves_;
};

}  // namespace

std::vector<std::pair<std::string, Tensor>> Module::named_parameters() const {
  std::vector<std::pair<std::string, Tensor>> found;
  Walk(*this, {.parameter = [&](const std::string& path, Tensor& t) { found.emplace_back(path, t); }});
  return found;
}

std::vector<std::pair<std::string, Tensor>> Module::named_buffers() const {
  std::vector<std::pair<std::string, Tensor>> found;
  Walk(*this, {.buffer = [&](const std::string& path, Tensor& t) { found.emplace_back(path, t); }});
  return found;
}

std::vector<std::pair<std::string, Module*>> Module::named_modules() const {
  std::vector<std::pair<std::string, Module*>> found;
  Walk(*this,
       {.module = [&](const std::string& path, Module& module) { found.emplace_back(path, &module); }});
  return found;
}

std::vector<Tensor> Module::parameters() const {
  std::vector<Tensor> found;
  Walk(*this, {.parameter = [&](const std::string&, Tensor& t) { found.push_back(t); }});
  return found;
}

int64_t Module::num_parameters() const {
  int64_t n = 0;
  Walk(*this, {.parameter = [&](const std::string&, Tensor& t) { n += t.numel(); }});
  return n;
}

Tensor& Module::parameter(std::string_view path) const {
  const Lookup found(*this, path);
  if (found.tensor && found.is_parameter) return *found.tensor;
  fail("parameter: ", type_name(), " has no parameter \"", path, '"', nearest(named_parameters(), path));
}

Module& Module::module(std::string_view path) const {
  const Lookup found(*this, path);
  if (found.module) return *found.module;
  fail("module: ", type_name(), " has no module \"", path, '"', nearest(named_modules(), path));
}

class Module::SetMode final : public EachModule {
 public:
  explicit SetMode(bool on) : on_(on) {}
  void enter(Module& module) override {
    if (module.training_ != on_) module.training_ = on_;  // threads may share a module whose mode is right
    module.visit(*this);
  }

 private:
  const bool on_;
};

void Module::train(bool on) {
  const CheckDepth depth(*this);
  SetMode(on).enter(*this);
}

EvalMode::EvalMode(Module& root) : modes_{{&root, root.training()}} {
  for (auto& [name, module] : root.named_modules()) modes_.emplace_back(module, module->training());
  root.eval();
}

// train() reaches children too; parents come first, so each child's own mode is set last.
EvalMode::~EvalMode() {
  for (auto [module, mode] : modes_) module->train(mode);
}

void Module::zero_grad() {
  const CheckDepth depth(*this);
  ZeroGrad zero;
  visit(zero);
}

void Module::to(Device device) {
  DeferredMove move;
  const auto each = [&](const std::string&, Tensor& t) { move.plan(t, {t.dtype(), device}); };
  Walk(*this, {.parameter = each, .buffer = each});
  move.apply();
}

void Module::to(DType dtype) {
  if (!is_floating(dtype)) fail("to: parameters cannot be held as ", dtype, ", only as f32 or f64");
  DeferredMove move;
  Walk(*this, {.parameter = [&](const std::string&, Tensor& t) {
    if (is_floating(t.dtype())) move.plan(t, {dtype, t.device()});
  }});
  move.apply();
}

StateDict Module::state_dict() const {
  StateDict state;
  const auto each = [&](const std::string& path, Tensor& t) {
    if (!state.emplace(path, t).second)
      fail("state_dict: two tensors of ", type_name(), " are called \"", path, '"');
  };
  Walk(*this, {.parameter = each, .buffer = each});
  return state;
}

std::ostream& operator<<(std::ostream& out, const Module& module) {
  print(out, module, "");
  return out;
}

namespace detail {
namespace {
constexpr int max_level = 1000;
thread_local int level = 0;
}  // namespace

Level::Level() {
  if (level == max_level) {
    fail("module: more than ", max_level, " modules are nested, or one contains itself");
  }
  ++level;
}
Level::~Level() { --level; }

void release(std::shared_ptr<Module> module) noexcept {
  thread_local std::vector<std::shared_ptr<Module>>* waiting = nullptr;
  if (waiting) {
    waiting->push_back(std::move(module));
    return;
  }
  std::vector<std::shared_ptr<Module>> queue;
  waiting = &queue;
  for (module.reset(); !queue.empty(); module.reset()) {
    module = std::move(queue.back());
    queue.pop_back();
  }
  waiting = nullptr;
}

void check_no_cycle(const Module* module, const void* place) {
  if (module && Search(place).finds_in(*module)) {
    fail("slot: in this place the ", module->type_name(), " would contain itself");
  }
}

void model_changed() noexcept { altgrad::detail::Graph::model_changed(); }

std::string type_name(const std::type_info& type) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> full(
      abi::__cxa_demangle(type.name(), nullptr, nullptr, &status), &std::free);
  const std::string name = status == 0 ? full.get() : type.name();
  // What follows the last "::" that is outside of template arguments.
  int depth = 0;
  for (size_t i = name.size(); i > 1; --i) {
    const char c = name[i - 1];
    depth += c == '>' ? 1 : c == '<' ? -1 : 0;
    if (depth == 0 && c == ':' && name[i - 2] == ':') return name.substr(i);
  }
  return name;
}

void slot_refuses(const Module& module, const std::type_info& wanted) {
  fail("slot: it holds a ", type_name(wanted), ", and a ", module.type_name(), " is none");
}

void slot_is_empty(const std::type_info& wanted) {
  fail("slot: it is empty; put a ", type_name(wanted), " in before it is used");
}

}  // namespace detail

std::pair<Tensor, Tensor> Layer::forward_sum(const Tensor& x, const Tensor& y) {
  const Tensor sum = x + y;
  return {sum, forward(sum)};
}

}  // namespace altgrad::nn
