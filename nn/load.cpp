// load_state_dict: everything is found, adapted and checked before the first value is copied. The tree is gone
// through by the state's keys, so that a tensor may come under any of its names, however many of them a tree of
// shared modules has.
#include <altgrad/core/dispatch.h>
#include <altgrad/core/internal/utf8.h>
#include <altgrad/nn/internal/path_visitor.h>

#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

namespace altgrad::nn {
namespace {

bool is_auxiliary(std::string_view path) { return path.substr(path.rfind('.') + 1).starts_with('_'); }

bool fits(const Tensor& to, const Tensor& from) {
  return from.defined() && to.shape() == from.shape() &&
         (to.dtype() == from.dtype() || (!is_integer(to.dtype()) && !is_integer(from.dtype())));
}

std::string misfit(const std::string& key, const Tensor& to, const Tensor& from) {
  if (!from.defined()) return concat("\n  undefined: ", key, ", here ", to.shape(), ' ', to.dtype());
  return concat("\n  mismatched: ", key, ", here ", to.shape(), ' ', to.dtype(), ", given ", from.shape(),
                ' ', from.dtype());
}

bool comparable(const Tensor& a, const Tensor& b) {
  return a.defined() && b.defined() && a.numel() == b.numel();
}

// Would both leave the same values in `to`?
bool same_values(const Tensor& to, const Tensor& a, const Tensor& b) {
  if (a.is(b)) return true;
  const Tensor x = a.copied({to.dtype()}), y = b.copied({to.dtype()});
  return dispatch_all(x, [&]<class T>(const auto&) {
    return std::equal(x.ptr<T>(), x.ptr<T>() + x.numel(), y.ptr<T>(), [](const T& u, const T& v) {
      return u == v || std::memcmp(&u, &v, sizeof(T)) == 0;  // a NaN, by its bits
    });
  });
}

// A key of the state, what it holds, and the tensor that it names.
struct Match {
  std::string key;
  Tensor from, to;
};

// All matches of a state in a tree, in visiting order. Goes into a child only where keys begin with its path.
class FindMatches final : public detail::PathVisitor {
 public:
  FindMatches(Module& root, const StateDict& state) : state_(state) { root.visit(*this); }
  std::vector<Match> found;

 private:
  void at_parameter(Tensor& tensor) override { look_up(tensor); }
  void at_buffer(Tensor& tensor) override { look_up(tensor); }
  void look_up(const Tensor& tensor) {
    if (const auto entry = state_.find(path()); entry != state_.end())
      found.push_back({path(), entry->second, tensor});
  }
  void at_module(SlotBase&, const std::shared_ptr<Module>& module) override {
    const std::string prefix = path() + '.';
    if (const auto next = state_.lower_bound(prefix); next != state_.end() && next->first.starts_with(prefix))
      module->visit(*this);
  }

  const StateDict& state_;
};

// A module's own tensors.
class Members final : public Visitor {
 public:
  explicit Members(Module& module) { module.visit(*this); }
  std::vector<std::pair<std::string, Tensor>> tensors;

 private:
  void on_parameter(std::string_view name, Tensor& t) override { tensors.emplace_back(name, t); }
  void on_buffer(std::string_view name, Tensor& t) override { tensors.emplace_back(name, t); }
};

}  // namespace

namespace detail {

void copy_all(std::vector<std::pair<Tensor, Tensor>> copies) {
  std::unordered_set<const void*> overwritten;  // storages
  for (const auto& [to, from] : copies) overwritten.insert(to.raw());
  for (auto& [to, from] : copies) {
    if (!from.is(to) && overwritten.contains(from.raw())) from = from.copied();
  }
  for (const auto& [to, from] : copies) {
    if (!from.is(to)) to.copy_(from);
  }
}

}  // namespace detail

void Module::load_state_dict(const StateDict& state, LoadOptions options) {
  constexpr size_t most_listed = 4000;                   // bytes
  std::vector<std::pair<Tensor, Tensor>> copies;         // to, from
  std::unordered_map<const void*, const Match*> given;   // by the tensor that is named
  std::unordered_map<const void*, const Match*> memory;  // by its storage: tensors may share that
  std::unordered_set<std::string_view> known;
  std::string missing, unexpected, mismatched, differing, refused;

  const FindMatches matches(*this, state);
  for (const Match& match : matches.found) {
    const auto& [key, from, to] = match;
    known.insert(key);
    const bool first = given.try_emplace(to.id(), &match).second;
    const Match& other = *memory.try_emplace(to.raw(), &match).first->second;
    if (&other != &match && options.strict && comparable(from, other.from) &&
        !same_values(to, from, other.from)) {  // another name of a tied tensor
      differing += concat("\n  differing: ", other.key, " and ", key, ", which are one tensor here");
    }
    if (is_auxiliary(key)) continue;  // copied below, once it is adapted
    if (!fits(to, from)) {
      mismatched += misfit(key, to, from);
    } else if (first) {
      copies.emplace_back(to, from);
    }
  }
  if (options.strict) {
    size_t more = 0;  // the state may be any file's
    for (const auto& [key, from] : state) {
      if (known.contains(key) || is_auxiliary(key)) continue;
      if (unexpected.size() < most_listed) {
        unexpected += "\n  unexpected: " + altgrad::detail::printable(key);
      } else {
        ++more;
      }
    }
    if (more) unexpected += concat("\n  and ", more, " more that are unexpected");
    for (const auto& [name, t] : state_dict()) {
      if (!given.contains(t.id()) && !is_auxiliary(name)) missing += "\n  missing: " + name;
    }
  }

  std::vector<std::pair<std::string, Module*>> modules = named_modules();
  modules.emplace_back("", this);
  for (const auto& [path, module] : modules) {
    const Members members(*module);
    StateDict part;
    for (const auto& [name, to] : members.tensors) {
      if (const auto match = given.find(to.id()); match != given.end()) part[name] = match->second->from;
    }
    if (part.empty()) continue;
    const std::string prefix = path.empty() ? "" : path + ".";
    try {
      module->adapt_state(part, options);
    } catch (const std::invalid_argument& e) {
      refused += "\n  refused: " + (path.empty() ? path : path + ": ") + e.what();
    }
    for (const auto& [name, to] : members.tensors) {
      const auto entry = part.find(name);
      if (entry == part.end() || !is_auxiliary(name)) continue;
      if (fits(to, entry->second)) {
        copies.emplace_back(to, entry->second);
      } else if (options.strict) {
        mismatched += misfit(prefix + name, to, entry->second);
      }
    }
  }

  const std::string faults = missing + unexpected + mismatched + differing + refused;
  if (!faults.empty()) fail("load_state_dict: the state does not fit this ", type_name(), faults);
  detail::copy_all(std::move(copies));
}

}  // namespace altgrad::nn
