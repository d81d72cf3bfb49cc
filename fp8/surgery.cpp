// Surgery is nn::rewrite with one decision for each Linear. All arguments are checked first, patterns against
// every name of every module, so that nothing is half done.
#include <altgrad/fp8/surgery.h>

#include <altgrad/nn/internal/path_visitor.h>
#include <altgrad/nn/surgery.h>

#include <algorithm>
#include <ostream>
#include <set>

namespace altgrad::fp8 {
namespace {

using NamedModule = std::pair<std::string, std::shared_ptr<nn::Module>>;

// Every module below a root under every name it has: a pattern may name a shared layer by any of them.
class AllNames final : public nn::detail::PathVisitor {
 public:
  explicit AllNames(nn::Module& root) { root.visit(*this); }
  std::vector<NamedModule> found;

 private:
  void at_module(nn::SlotBase&, const std::shared_ptr<nn::Module>& module) override {
    found.emplace_back(path(), module);
    module->visit(*this);
  }
};

std::vector<std::string_view> components(std::string_view path) {
  std::vector<std::string_view> parts;
  for (size_t dot; (dot = path.find('.')) != path.npos; path.remove_prefix(dot + 1))
    parts.push_back(path.substr(0, dot));
  parts.push_back(path);
  return parts;
}

// '*' matches any characters, also none. After a mismatch only the last '*' need take one more.
bool matches_component(std::string_view pattern, std::string_view text) {
  size_t p = 0, t = 0, star = pattern.npos, taken = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      taken = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p, ++t;
    } else if (star != pattern.npos) {
      p = star + 1;
      t = ++taken;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == pattern.npos;
}

// Is the pattern a run of the path's components?
bool matches(std::string_view pattern, std::string_view path) {
  const auto wanted = components(pattern), parts = components(path);
  return std::search(parts.begin(), parts.end(), wanted.begin(), wanted.end(),
                     [](auto part, auto want) { return matches_component(want, part); }) != parts.end();
}

bool is_linear(const nn::Module& module) { return dynamic_cast<const nn::Linear*>(&module) != nullptr; }

void print_names(std::ostream& out, const char* what, const std::vector<std::string>& names) {
  out << what << ' ' << std::to_string(names.size());
  for (size_t i = 0; i < names.size(); ++i) out << (i ? ", " : ": ") << names[i];
}

// The modules that a pattern matches.
std::set<const nn::Module*> skipped_modules(const std::vector<NamedModule>& modules,
                                            const std::vector<std::string>& patterns) {
  std::set<const nn::Module*> skipped;
  for (const std::string& pattern : patterns) {
    bool any = false;
    for (const auto& [path, module] : modules) {
      if (!matches(pattern, path)) continue;
      any = true;
      skipped.insert(module.get());
    }
    if (any) continue;
    std::vector<std::string> candidates;
    for (const auto& [path, module] : modules) {
      if (is_linear(*module)) candidates.push_back(path);
    }
    std::ostringstream list;
    print_names(list, "the Linear layers are", candidates);
    fail("quantize_model: skip pattern \"", pattern, "\" matches no module; ", list.str());
  }
  return skipped;
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const SurgeryReport& report) {
  print_names(out, "replaced", report.replaced);
  print_names(out, "\nskipped", report.skipped);
  if (!report.skipped_before.empty())
    print_names(out, "\nof the replaced, skipped before", report.skipped_before);
  if (!report.quantized_before.empty()) print_names(out, "\nquantized before", report.quantized_before);
  return out << '\n';
}

SurgeryReport quantize_model(nn::Module& root, const Format& format, const QuantizeOptions& options) {
  if (is_linear(root)) {
    fail(
        "quantize_model: the model itself is a Linear, which has no place to be replaced in; use "
        "QuantizedLinear::from_linear");
  }
  check_quantize_options(format, options);
  const std::set<const nn::Module*> skipped = skipped_modules(AllNames(root).found, options.skip_patterns);
  QuantizeOptions layer_options = options;
  layer_options.skip_patterns.clear();

  SurgeryReport report;
  nn::rewrite(root, [&](const std::string& path, const std::shared_ptr<nn::Module>& module) {
    if (dynamic_cast<const QuantizedLinear*>(module.get())) report.quantized_before.push_back(path);
    const auto linear = std::dynamic_pointer_cast<nn::Linear>(module);
    if (!linear) return module;
    if (skipped.contains(module.get())) {
      report.skipped.push_back(path);
      return module;
    }
    report.replaced.push_back(path);
    return std::shared_ptr<nn::Module>(
        std::make_shared<QuantizedLinear>(QuantizedLinear::from_linear(linear, format, layer_options)));
  });
  if (!report.quantized_before.empty()) report.skipped_before = report.replaced;
  return report;
}

std::vector<std::string> dequantize_model(nn::Module& root) {
  if (dynamic_cast<QuantizedLinear*>(&root)) {
    fail("dequantize_model: the model itself is a QuantizedLinear; its Linear is linear_ptr()");
  }
  std::vector<std::string> restored;
  std::vector<std::shared_ptr<QuantizedLinear>> removed;
  nn::rewrite(root, [&](const std::string& path, const std::shared_ptr<nn::Module>& module) {
    const auto quantized = std::dynamic_pointer_cast<QuantizedLinear>(module);
    if (!quantized) return module;
    restored.push_back(path);
    removed.push_back(quantized);
    return std::shared_ptr<nn::Module>(quantized->linear_ptr());
  });
  for (const auto& quantized : removed) quantized->linear_ptr()->train(quantized->training());
  return restored;
}

}  // namespace altgrad::fp8
