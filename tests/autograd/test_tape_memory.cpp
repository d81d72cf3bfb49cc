// What a tape does with memory: activations are freed as backward goes, and a step that was done before asks for none.
#include <altgrad/autograd/ops.h>

#include "allocations.h"
#include "reference.h"

using namespace altgrad;
using reference::randn;

namespace {

Tensor leaf(const Shape& shape, uint64_t seed) { return randn(shape, seed, DType::f32).requires_grad(true); }

// Looks at memory from inside the walk.
struct Probe final : Op {
  static constexpr const char* name = "probe";
  std::vector<int64_t>* seen;
  Tensor forward(const Tensor& x, std::vector<int64_t>* s) {
    seen = s;
    return x.detach();
  }
  void backward(const Tensor& dy, Grads& d) override {
    seen->push_back(memory_stats(device()).in_use);
    d.add(0, dy);
  }
};

}  // namespace

TEST_CASE("memory in use falls while backward runs", "[tape]") {
  const int64_t n = 1 << 16;
  const Tensor x = leaf({n}, 1);
  std::vector<int64_t> seen;
  const int64_t before = memory_stats(device()).in_use;
  {
    Tape tape;
    Tensor y = x;
    for (int i = 0; i < 20; ++i) y = exp(apply<Probe>(y * 0.01, &seen));
    const Tensor loss = sum(y);
    y = Tensor();
    tape.backward(loss);
  }
  REQUIRE(seen.size() == 20);
  for (size_t i = 1; i < seen.size(); ++i) CHECK(seen[i] < seen[i - 1]);
  CHECK(seen.front() - seen.back() >= 18 * n * 4);
  x.set_grad(Tensor());
  CHECK(memory_stats(device()).in_use == before);
}

TEST_CASE("a repeated step asks neither the heap nor the system for memory", "[tape]") {
  const Tensor w = leaf({16, 16}, 1), b = leaf({16}, 2), x = randn({8, 16}, 3, DType::f32);
  const Tensor ids = here::from({0, 3, 7, 7, 1, 2, 15, 4}, {8});
  const auto step = [&] {
    Tape tape;
    const Tensor h = layer_norm(gelu(linear(x, w, b)) + embedding(ids, w), b);
    const Tensor loss = cross_entropy(softmax(dropout(h * b, 0.1)) * 2.0 - mean(h), ids);
    tape.backward(loss);
    w.set_grad(Tensor()), b.set_grad(Tensor());
  };
  for (int i = 0; i < 3; ++i) step();
  const int64_t heap = heap_allocations(), system = memory_stats(device()).system_allocations,
                in_use = memory_stats(device()).in_use;
  for (int i = 0; i < 10; ++i) step();
  synchronize(device());
  if (device().is_cpu()) CHECK(heap_allocations() - heap == 0);  // a simulated device makes some of its own
  CHECK(memory_stats(device()).system_allocations == system);
  CHECK(memory_stats(device()).in_use == in_use);
}
