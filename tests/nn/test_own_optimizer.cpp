// Lion (Chen et al., "Symbolic discovery of optimization algorithms", 2023, algorithm 2) as a user writes it.
#include <altgrad/altgrad.h>
#include "catch.h"
#include "device.h"
#include "errors.h"
#include "temp_folder.h"

using namespace altgrad;

struct Lion final : optim::Optimizer {
  explicit Lion(const nn::Module& m) : Optimizer("lion", one_group(m.parameters()), 0.01, 0.1, {"exp_avg"}) {}
  void step() override {
    begin_step().for_each([]<class T>(const optim::ParamView<T>& p) {
      for (int64_t i = 0; i < p.n; ++i) {
        T &w = p.w[i], &m = p.state[0][i], g = p.g[i], c = T(0.9) * m + T(0.1) * g;
        w -= T(*p.lr) * (T((c > 0) - (c < 0)) + T(p.weight_decay) * w);
        m = T(0.99) * m + T(0.01) * g;
      }
    });
  }
};

TEMPLATE_TEST_CASE("Lion does what its formula says, also from a checkpoint on", "[optim]", float, double) {
  if (!device().is_cpu()) SKIP_TEST("its update is for the CPU");
  const TempFolder folder;
  nn::Linear model(3, 1, {.bias = false}), resumed(3, 1, {.bias = false});
  model.to(dtype_of<TestType>), resumed.to(dtype_of<TestType>);
  Lion lion(model), after(resumed);
  const Tensor start = model.weight().detach().clone().to(DType::f64);
  double *const w = start.ptr<double>(), m[3] = {};
  for (int step = 0; step < 10; ++step) {
    if (step == 5)
      save_checkpoint(folder / "5", model, lion, {}), load_checkpoint(folder / "5", resumed, after);
    const Tensor now = (step < 5 ? model : resumed).weight();
    now.set_grad(Tensor::from({TestType(0.3 - step % 4), TestType(step - 2), TestType(0.1)}, {1, 3}));
    (step < 5 ? lion : after).step();
    for (int i = 0; i < 3; ++i) {
      const double g = now.grad().ptr<TestType>()[i];
      w[i] -= 0.01 * (std::copysign(1, 0.9 * m[i] + 0.1 * g) + 0.1 * w[i]);
      m[i] = 0.99 * m[i] + 0.01 * g;
      CHECK(std::abs(now.ptr<TestType>()[i] - w[i]) <= 8 * std::numeric_limits<TestType>::epsilon());
    }
  }
}

TEST_CASE("an update of numbers on the CPU refuses parameters that are elsewhere", "[optim]") {
  if (device().is_cpu()) SKIP_TEST("parameters are where the update runs");
  nn::Linear model = on_device(nn::Linear(3, 1, {.bias = false}));
  Lion lion(model);
  model.weight().set_grad(here::ones({1, 3}));
  CHECK(throws([&] { lion.step(); }, {"for_each runs on the CPU", "cuda:0"}));
}
