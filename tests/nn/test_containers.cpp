// How containers nest and name what is put into them, by each way of putting it.
#include "catch.h"

#include <altgrad/nn/containers.h>

using namespace altgrad;
using nn::Linear;
using nn::ModuleDict;
using nn::ModuleList;
using nn::Sequential;

namespace {

std::vector<std::string> names(const nn::Module& module) {
  std::vector<std::string> found;
  for (auto& [name, p] : module.named_parameters()) found.push_back(name);
  return found;
}
using Names = std::vector<std::string>;
Linear layer() { return Linear(1, 1, {.bias = false}); }

}  // namespace

TEST_CASE("a container in a container nests, whichever way it is put there", "[nn]") {
  Sequential outer;
  outer.push_back(Sequential(layer(), layer()));
  CHECK(names(outer) == Names{"0.0.weight", "0.1.weight"});
  Sequential shared;
  shared.push_back(std::make_shared<Sequential>(layer()));
  CHECK(names(shared) == Names{"0.0.weight"});
  CHECK(names(Sequential(layer(), Sequential(layer()))) == Names{"0.weight", "1.0.weight"});
  CHECK(names(ModuleList({Sequential(layer())})) == Names{"0.0.weight"});
  CHECK(names(ModuleList({Sequential(layer()), layer()})) == Names{"0.0.weight", "1.weight"});
  CHECK(names(ModuleDict({{"a", Sequential(layer())}})) == Names{"a.0.weight"});
  CHECK(names(ModuleDict{{"a", layer()}}) == Names{"a.weight"});
  CHECK(names(ModuleDict{{"a", layer()}, {"b", Sequential(layer())}}) == Names{"a.weight", "b.0.weight"});
  CHECK(names(*nn::Slot<Sequential>{Sequential(layer())}) == Names{"0.weight"});
}

// By the rules of C++ the outer name is that of the inner object; the header says so.
TEST_CASE("a Sequential made of nothing but a Sequential is that one", "[nn]") {
  CHECK(names(Sequential(Sequential(layer(), layer()))) == Names{"0.weight", "1.weight"});
  Sequential inner{layer(), layer()};
  const Sequential copy(inner), moved(std::move(inner));
  CHECK(names(copy) == Names{"0.weight", "1.weight"});
  CHECK(names(moved) == Names{"0.weight", "1.weight"});
  CHECK(&copy.module("0") == &moved.module("0"));
}
