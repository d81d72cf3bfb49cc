// Checkpointing: an op that keeps its function instead of what the function's ops would keep. Its backward
// runs the function on a tape of its own, from where the thread's generators stood in forward. They are put back
// afterwards, so that other backwards draw where they would have drawn without it, and gradients are added to those of
// the tape that runs backward: nothing differs from the function itself, to the last bit.
#include <altgrad/autograd/internal/recompute_log.h>
#include <altgrad/autograd/op_writer.h>
#include <altgrad/autograd/ops.h>

namespace altgrad {
namespace detail {
namespace {
// The log of the thread's innermost checkpointed function; where they are nested, all have the values.
thread_local RecomputeLog* current = nullptr;
}  // namespace

RecomputeLog::Scope::Scope(RecomputeLog& log, bool second_run) : outer_(current) {
  log.next_ = 0;
  log.second_run_ = second_run;
  log.outer_ = second_run ? nullptr : outer_;  // the second run has all it needs
  current = &log;
}
RecomputeLog::Scope::~Scope() { current = outer_; }

bool recall(Tensor& value) {
  for (RecomputeLog* log = current; log; log = log->outer_) {
    if (!log->second_run_ || log->next_ >= log->values_.size()) continue;
    value = log->values_[log->next_++];
    for (RecomputeLog* inner = current; inner != log; inner = inner->outer_) inner->append(value);
    return true;
  }
  return false;
}

void remember(const Tensor& value) {
  for (RecomputeLog* log = current; log; log = log->outer_) log->append(value);
}
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
  detail::RecomputeLog log;

  Tensor forward(const std::function<Tensor(const Tensor&)>& function, const Tensor& in) {
    fn = function, x = in;
    const detail::RecomputeLog::Scope first_run(log, false);
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
      const detail::RecomputeLog::Scope second_run(log, true);
      y = fn(leaf).reshape(dy.shape());  // an op of the inner tape, whatever fn returned
    }
    if (y.is_recorded()) d.run(inner, y, dy, leaf);
  }
};

}  // namespace

Tensor checkpoint(std::function<Tensor(const Tensor&)> fn, const Tensor& x) {
  if (!fn) fail("checkpoint: the function is empty, x ", x.shape());
  return apply<Checkpoint>(std::move(fn), x);
}

}  // namespace altgrad
