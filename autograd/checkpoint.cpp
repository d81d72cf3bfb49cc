// Checkpointing: an op that keeps its function instead of what the function's ops would keep. Its backward
// runs the function on a tape of its own, from where the thread's generator stood in forward. Gradients reach
// x and the leaves that the function holds; a result of another op that it holds is a constant to it.
#include <altgrad/autograd/common.h>
#include <altgrad/autograd/ops.h>

namespace altgrad {
namespace {

// Sets the thread's generator back for a scope.
struct RewoundGenerator {
  explicit RewoundGenerator(Generator::State state) { default_generator().set_state(state); }
  ~RewoundGenerator() { default_generator().set_state(before); }
  const Generator::State before = default_generator().state();
};

struct Checkpoint final : Op {
  static constexpr const char* name = "checkpoint";
  static constexpr bool always_record = true;  // fn may hold leaves, which are not among the inputs
  std::function<Tensor(const Tensor&)> fn;
  Tensor x;
  Generator::State random;

  Tensor forward(const std::function<Tensor(const Tensor&)>& function, const Tensor& in) {
    fn = function, x = in, random = default_generator().state();
    return fn(x).detach();  // fn may return x, or a tensor it holds
  }

  // dx = what the inner tape adds to a leaf with the values of x; leaves that fn holds get theirs from it
  void backward(const Tensor& dy, Grads& d) override {
    const RewoundGenerator rewound(random);
    Tape inner;
    const Tensor leaf = x.detach();
    leaf.requires_grad(d.needs(0));
    const Tensor y = fn(leaf).reshape(dy.shape());  // an op of the inner tape, whatever fn returned
    if (y.body()->recorded) inner.backward(y, dy);
    if (leaf.has_grad()) d.add(0, leaf.grad());
  }
};

}  // namespace

Tensor checkpoint(std::function<Tensor(const Tensor&)> fn, const Tensor& x) {
  if (!fn) fail("checkpoint: the function is empty, x ", x.shape());
  return apply<Checkpoint>(std::move(fn), x);
}

}  // namespace altgrad
