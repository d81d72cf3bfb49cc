// Editing and copying module trees. rewrite is the only traversal that edits.
#pragma once

#include <altgrad/nn/module.h>

#include <functional>

ALTGRAD_API_BEGIN
namespace altgrad::nn {

/// Offers every module below root to fn, once each however often it is reached, parents first, with its first path.
/// fn returns what to put in its place: the module itself or null to keep it (its children come next), or another
/// (whose children are not visited). All places of a module get the same replacement. Nothing changes until fn has
/// seen everything and every slot accepts its replacement, so where anything throws the tree is as it was.
using RewriteFn =
    std::function<std::shared_ptr<Module>(const std::string& path, const std::shared_ptr<Module>& module)>;
void rewrite(Module& root, const RewriteFn& fn);

/// A deep copy: new storage for every parameter and buffer, new modules, ties and shared children kept as
/// ties, surgery, training mode and requires_grad kept. Gradients are not copied. Throws
/// std::invalid_argument, and leaves the source as it is, where a class is not given its copy() by ModuleOf or
/// its copy shares a member's place with it.
std::shared_ptr<Module> clone_module(const Module& module);

/// Throws std::invalid_argument where `module` is of a class derived from M (clone_module copies by the true type).
template <std::derived_from<Module> M>
M clone(const M& module) {
  if (typeid(module) != typeid(M)) fail("clone: the object is a ", module.type_name(), "; use clone_module");
  return std::move(static_cast<M&>(*clone_module(module)));
}

}  // namespace altgrad::nn
ALTGRAD_API_END
