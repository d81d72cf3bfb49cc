// Checkpointing: an op that keeps its function instead of what the function's ops would keep. Its backward
// runs the function on a tape of its own, from where the thread's generators stood in forward. Only that: what runs
// backward then draws where it would have drawn without, and adds to the gradients of the tape that runs backward, so
// that nothing differs from the function itself, to the last bit.
#include <altgrad/autograd/internal/common.h>
#include <altgrad/autograd/internal/replay.h>
#include <altgrad/autograd/ops.h>

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

// Sets the thread's generators back for a scope.
struct Rewound {
  explicit Rewound(const detail::RandomState& state) { state.restore(); }
  ~Rewound() { before.restore(); }
  const detail::RandomState before;
};

struct Checkpoint final : Op {
  static constexpr const char* name = "checkpoint";
  static constexpr bool always_record = true;  // fn may hold leaves, which are not among the inputs
  std::function<Tensor(const Tensor&)> fn;
  Tensor x;
  detail::RandomState random;  // where forward begins
  detail::Journal journal;

  Tensor forward(const std::function<Tensor(const Tensor&)>& function, const Tensor& in) {
    fn = function, x = in;
    const detail::Journal::Scope first_run(journal, false);
    return fn(x).detach();  // fn may return x, or a tensor it holds
  }

  // dx = what the inner tape gives a leaf with the values of x
  void backward(const Tensor& dy, Grads& d) override {
    Tape inner;
    const Tensor leaf = x.detach();
    leaf.requires_grad(d.needs(0));
    Tensor y;
    {
      const Rewound rewound(random);
      const detail::Journal::Scope second_run(journal, true);
      y = fn(leaf).reshape(dy.shape());  // an op of the inner tape, whatever fn returned
    }
    if (y.body()->tape) d.run(inner, y, dy, leaf);
  }
};

}  // namespace

Tensor checkpoint(std::function<Tensor(const Tensor&)> fn, const Tensor& x) {
  if (!fn) fail("checkpoint: the function is empty, x ", x.shape());
  return apply<Checkpoint>(std::move(fn), x);
}

}  // namespace altgrad
