// Checkpointing: an op that keeps its function instead of what the function's ops would keep. Its backward
// runs the function on a tape of its own, from where the thread's generator stood in forward, and hands the
// gradients of the leaves that the function holds to the tape that runs backward.
#include <altgrad/autograd/common.h>
#include <altgrad/autograd/ops.h>
#include <altgrad/autograd/replay.h>

namespace altgrad {
namespace detail {
namespace {
thread_local Journal* current_journal = nullptr;
}
Journal::Scope::Scope(Journal& journal, bool second_run) : outer_(current_journal) {
  journal.next_ = 0;
  journal.second_run_ = second_run;
  journal.outer_ = second_run ? nullptr : outer_;  // the second run has all it needs
  current_journal = &journal;
}
Journal::Scope::~Scope() { current_journal = outer_; }
Journal* Journal::current() { return current_journal; }
}  // namespace detail

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
  detail::Journal journal;

  Tensor forward(const std::function<Tensor(const Tensor&)>& function, const Tensor& in) {
    fn = function, x = in, random = default_generator().state();
    const detail::Journal::Scope first_run(journal, false);
    return fn(x).detach();  // fn may return x, or a tensor it holds
  }

  // dx = what the inner tape gives a leaf with the values of x
  void backward(const Tensor& dy, Grads& d) override {
    const RewoundGenerator rewound(random);
    Tape inner;
    const Tensor leaf = x.detach();
    leaf.requires_grad(d.needs(0));
    Tensor y;
    {
      const detail::Journal::Scope second_run(journal, true);
      y = fn(leaf).reshape(dy.shape());  // an op of the inner tape, whatever fn returned
    }
    if (!y.body()->recorded) return;
    const std::vector<Tensor> grads = inner.gradients(y, dy), leaves = inner.leaves();
    for (size_t i = 0; i < leaves.size(); ++i) {
      if (!grads[i].defined()) continue;
      if (leaves[i].body() == leaf.body()) {
        d.add(0, grads[i]);
      } else {
        d.add_leaf(leaves[i], grads[i]);
      }
    }
  }
};

}  // namespace

Tensor checkpoint(std::function<Tensor(const Tensor&)> fn, const Tensor& x) {
  if (!fn) fail("checkpoint: the function is empty, x ", x.shape());
  return apply<Checkpoint>(std::move(fn), x);
}

}  // namespace altgrad
