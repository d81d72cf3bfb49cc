// plugin_host PLUGIN_A PLUGIN_B: tensors, layers, errors and the generator go from one plugin to the other and to here.
#include "plugin.h"

#include <dlfcn.h>

#include <cstdio>

using namespace altgrad;

namespace {
int failures = 0;
void check(bool ok, const char* what) {
  if (!ok) std::printf("FAILED: %s\n", what), ++failures;
}

// The function of that name in a plugin, of the type that plugin.h declares.
template <class F>
F* function(void* plugin, const char* name, F*) {
  return reinterpret_cast<F*>(dlsym(plugin, name));
}
}  // namespace

#define FROM(plugin, name) function(plugin, #name, static_cast<decltype(&name)>(nullptr))

int main(int, char** paths) {
  void *const a = dlopen(paths[1], RTLD_NOW | RTLD_LOCAL), *const b = dlopen(paths[2], RTLD_NOW | RTLD_LOCAL);
  if (!a || !b) return std::puts(dlerror()), 1;

  const int64_t before = memory_stats().in_use;
  for (int i = 0; i < 3; ++i) FROM(b, drop_tensor)(FROM(a, make_tensor)());
  check(memory_stats().in_use == before, "a tensor of one plugin is dropped by the other");

  for (auto [from, to] : {std::pair(a, b), std::pair(b, a)}) {
    std::shared_ptr<nn::Module> layer;
    FROM(from, make_layer)(layer);
    check(layer->type_name() == "Halve" && dynamic_cast<nn::Layer*>(layer.get()),
          "a plugin's layer is a Layer here");
    check(FROM(to, train_with)(layer) > 0, "the other plugin trains it");
    check(nn::clone_module(*layer)->num_parameters() == 1, "and it is cloned here");
  }

  FROM(a, seed)(7);
  const Tensor x = Tensor::rand({1});
  FROM(b, seed)(7);
  check(Tensor::rand({1}).item<float>() == x.item<float>(), "all share the thread's generator");

  try {
    FROM(b, fail_in_altgrad)();
    check(false, "altgrad's error arrives");
  } catch (const std::invalid_argument&) {
  }
  std::printf("%d failures\n", failures);
  return failures != 0;
}
