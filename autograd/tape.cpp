#include <altgrad/autograd/tape.h>

#include <altgrad/core/kernels.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <ostream>

namespace altgrad {
namespace {

// The tapes and NoGrads alive in this thread, the innermost last; `tape` is null for a NoGrad.
struct Scope {
  const void* owner;
  Tape* tape;
};
thread_local std::vector<Scope> scopes;

void leave(const void* owner) {  // the last one, unless scopes are left out of order
  const auto found =
      std::find_if(scopes.rbegin(), scopes.rend(), [=](const Scope& s) { return s.owner == owner; });
  if (found != scopes.rend()) scopes.erase(std::next(found).base());
}

std::atomic<uint64_t> next_tape_id{1};

// Memory for ops: chunks that are filled one after the other and kept for the next tape.
class Arena {
 public:
  struct Mark {
    size_t chunk = 0, used = 0;
  };
  Mark mark() const { return mark_; }
  void rewind(Mark mark) { mark_ = mark; }

  void* allocate(size_t size, size_t align) {
    for (;; ++mark_.chunk, mark_.used = 0) {
      if (mark_.chunk == chunks_.size()) chunks_.emplace_back(std::max(chunk_size, size + align));
      Chunk& chunk = chunks_[mark_.chunk];
      void* p = chunk.data.get() + mark_.used;
      size_t space = chunk.size - mark_.used;
      if (std::align(align, size, p, space)) {
        mark_.used = chunk.size - space + size;
        return p;
      }
    }
  }

 private:
  static constexpr size_t chunk_size = 1 << 16;
  struct Chunk {
    explicit Chunk(size_t n) : data(new std::byte[n]), size(n) {}
    std::unique_ptr<std::byte[]> data;
    size_t size;
  };
  std::vector<Chunk> chunks_;
  Mark mark_;
};

struct Node {
  Op* op;
  const char* name;
  int32_t out;                  // slot of the result
  int32_t first_input, inputs;  // range in Impl::inputs
};

// A tensor's place on the tape.
struct GradSlot {
  Tensor grad;  // undefined until something is added
  Tensor leaf;  // undefined for results of ops: the tape does not keep those alive
  Shape shape;
  DType dtype;
  Device device;

  bool fits(const Tensor& x) const {
    return x.shape() == shape && x.dtype() == dtype && x.device() == device;
  }
};

bool alone(const Tensor& x) { return x.body()->refs == 1 && x.body()->storage.unique(); }

Tensor copy_of(const Tensor& x) {
  Tensor copy = Tensor::empty(x.shape(), x.options());
  copy.copy_(x);
  return copy;
}

void add_in_place(const Tensor& sum, const Tensor& x) {
  dispatch("backward", sum,
           [&]<class D, class T>() { kernels::axpy<D>(sum.ptr<T>(), x.ptr<T>(), 1, sum.numel()); });
}

// An input by its number; a leaf that is none has -1.
std::string whose(int input) { return input < 0 ? "a leaf" : concat("input ", input); }

bool has_nan(const Tensor& x) {
  if (!is_floating(x.dtype())) return false;
  return dispatch("detect_anomaly", x,
                  [&]<class D, class T>() { return kernels::has_nan<D>(x.ptr<T>(), x.numel()); });
}

}  // namespace

struct Tape::Impl {
  uint64_t id = 0;
  TapeOptions options;
  bool ran = false, done = false;  // backward has begun, has ended
  Arena arena;
  Arena::Mark pending;        // where the arena stood before the op that is running forward
  size_t pending_inputs = 0;  // as pending, for `inputs`
  std::vector<Node> nodes;
  std::vector<int32_t> inputs;  // slots; -1 where no gradient is needed
  std::vector<GradSlot> slots;

  // Ready for a new tape; keeps the memory.
  void clear() {
    for (size_t i = nodes.size(); i-- > 0;) destroy(nodes[i]);
    nodes.clear();
    inputs.clear();
    slots.clear();
    arena.rewind({});
    pending = {};
    pending_inputs = 0;
    ran = done = false;
  }
  static void destroy(Node& node) {
    if (node.op) std::exchange(node.op, nullptr)->~Op();
  }
  int32_t add_slot(const Tensor& x, bool leaf) {
    slots.push_back({Tensor(), leaf ? x : Tensor(), x.shape(), x.dtype(), x.device()});
    x.body()->tape = id;
    x.body()->slot = int32_t(slots.size() - 1);
    return x.body()->slot;
  }
};

namespace {
// Implementations of tapes gone by, for the thread's next ones.
std::vector<std::unique_ptr<Tape::Impl>>& spare_tapes() {
  static thread_local std::vector<std::unique_ptr<Tape::Impl>> spare;
  return spare;
}
}  // namespace

Tape::Tape(TapeOptions options) {
  auto& spare = spare_tapes();
  if (spare.empty()) {
    impl_ = std::make_unique<Impl>();
  } else {
    impl_ = std::move(spare.back());
    spare.pop_back();
  }
  impl_->id = next_tape_id.fetch_add(1, std::memory_order_relaxed);
  impl_->options = options;
  scopes.push_back({this, this});
}

Tape::~Tape() {
  leave(this);
  impl_->clear();
  spare_tapes().push_back(std::move(impl_));
}

Tape* Tape::current() {
  Tape* const innermost = scopes.empty() ? nullptr : scopes.back().tape;
  return innermost && !innermost->impl_->ran ? innermost : nullptr;
}

int64_t Tape::num_ops() const { return int64_t(impl_->nodes.size()); }

std::vector<Tensor> Tape::leaves() const {
  std::vector<Tensor> leaves;
  for (const GradSlot& slot : impl_->slots) {
    if (slot.leaf.defined()) leaves.push_back(slot.leaf);
  }
  return leaves;
}

bool Tape::needs_grad(const Tensor& x) const {
  const detail::Body* body = x.body();
  if (!body) return false;
  if (body->recorded && body->tape != impl_->id) {
    for (const Scope& scope : scopes) {
      if (scope.tape && scope.tape->impl_->id == body->tape && !scope.tape->impl_->done) {
        fail("tape: a tensor of shape ", x.shape(),
             " was recorded by an outer tape, which gets no gradient through this one; detach() it to use it "
             "as a constant");
      }
    }
  }
  return body->requires_grad || (body->recorded && body->tape == impl_->id);
}

void* Tape::arena_allocate(size_t size, size_t align) {
  impl_->pending = impl_->arena.mark();
  impl_->pending_inputs = impl_->inputs.size();
  return impl_->arena.allocate(size, align);
}

void Tape::add_input(const Tensor* x) {
  int32_t slot = -1;
  if (x && needs_grad(*x)) slot = x->body()->tape == impl_->id ? x->body()->slot : impl_->add_slot(*x, true);
  impl_->inputs.push_back(slot);
}

Tensor Tape::push(Op* op, const char* name, Tensor y) {
  if (!y.defined()) fail(name, ": forward gave an empty tensor");
  if (impl_->options.detect_anomaly && has_nan(y)) {
    fail_runtime("detect_anomaly: forward of op ", num_ops(), " '", name, "' gave NaN, shape ", y.shape());
  }
  if (y.body()->recorded || y.body()->requires_grad) y = y.detach();
  const int32_t first = int32_t(impl_->pending_inputs);
  const int32_t out = impl_->add_slot(y, false);
  impl_->nodes.push_back({op, name, out, first, int32_t(impl_->inputs.size()) - first});
  y.body()->recorded = true;
  return y;
}

void Tape::abandon() {
  impl_->arena.rewind(impl_->pending);
  impl_->inputs.resize(impl_->pending_inputs);
}

void Tape::backward(const Tensor& y) {
  if (y.numel() != 1) {
    fail("backward: the tensor has shape ", y.shape(),
         "; give a cotangent of that shape, or reduce it to one element");
  }
  backward(y, Tensor::ones(y.shape(), y.options()));
}

void Tape::backward(const Tensor& y, const Tensor& cotangent) {
  run_backward(y, cotangent);
  for (GradSlot& slot : impl_->slots) {
    if (!slot.leaf.defined() || !slot.grad.defined()) continue;
    const Tensor grad = std::move(slot.grad);
    if (slot.leaf.has_grad()) {
      add_in_place(slot.leaf.grad(), grad);
    } else {
      slot.leaf.set_grad(alone(grad) ? grad : copy_of(grad));
    }
  }
}

std::vector<Tensor> Tape::gradients(const Tensor& y, const Tensor& cotangent) {
  run_backward(y, cotangent);
  std::vector<Tensor> grads;
  for (GradSlot& slot : impl_->slots) {
    if (slot.leaf.defined()) grads.push_back(std::move(slot.grad));
  }
  return grads;
}

void Tape::run_backward(const Tensor& y, const Tensor& cotangent) {
  if (impl_->ran) fail("backward: this tape has run backward already; record the forward pass on a new tape");
  if (!y.defined() || y.body()->tape != impl_->id)
    fail("backward: this tape did not record the tensor; does any input require a gradient?");
  if (!(cotangent.shape() == y.shape()) || cotangent.dtype() != y.dtype() ||
      !(cotangent.device() == y.device())) {
    fail("backward: cotangent ", cotangent.shape(), " ", cotangent.dtype(), " does not match ", y.shape(),
         " ", y.dtype());
  }
  for (const GradSlot& slot : impl_->slots) {
    if (slot.leaf.defined() && !slot.fits(slot.leaf)) {
      fail("backward: a leaf was ", slot.dtype, " ", slot.shape, " when it was recorded and is now ",
           slot.leaf.dtype(), " ", slot.leaf.shape());
    }
  }
  impl_->ran = true;
  const NoGrad off;
  impl_->slots[size_t(y.body()->slot)].grad = cotangent;
  for (int64_t i = num_ops() - 1; i >= 0; --i) {
    Node& node = impl_->nodes[size_t(i)];
    const Tensor dy = std::move(impl_->slots[size_t(node.out)].grad);
    if (dy.defined()) {
      Grads grads(*this, i);
      node.op->backward(dy, grads);
    }
    Impl::destroy(node);
  }
  impl_->done = true;
}

bool Grads::needs(int i) const {
  const Node& node = tape_.impl_->nodes[size_t(node_)];
  return i >= 0 && i < node.inputs && tape_.impl_->inputs[size_t(node.first_input + i)] >= 0;
}

void Grads::check_input(int i) const {
  const Node& node = tape_.impl_->nodes[size_t(node_)];
  if (i < 0 || i >= node.inputs)
    fail(node.name, ": backward gives a gradient for input ", i, " of ", node.inputs);
}

void Grads::add(int i, const Tensor& dx) {
  check_input(i);
  const Node& node = tape_.impl_->nodes[size_t(node_)];
  if (needs(i)) add_to_slot(tape_.impl_->inputs[size_t(node.first_input + i)], i, dx);
}

void Grads::add_leaf(const Tensor& leaf, const Tensor& dx) {
  const detail::Body* body = leaf.body();
  const Node& node = tape_.impl_->nodes[size_t(node_)];
  if (!body || !body->requires_grad)
    fail(node.name, ": backward gives a gradient for a leaf that requires none");
  add_to_slot(body->tape == tape_.impl_->id ? body->slot : tape_.impl_->add_slot(leaf, true), -1, dx);
}

void Grads::add_to_slot(int32_t index, int input, const Tensor& dx) {
  GradSlot& slot = tape_.impl_->slots[size_t(index)];
  if (!slot.fits(dx)) {
    fail(tape_.impl_->nodes[size_t(node_)].name, ": backward gives ", whose(input), " a gradient ",
         dx.shape(), " ", dx.dtype(), ", the input is ", slot.shape, " ", slot.dtype);
  }
  check_for_nan(input, dx);
  if (!slot.grad.defined()) {
    slot.grad = dx;
    return;
  }
  if (!alone(slot.grad)) slot.grad = copy_of(slot.grad);  // someone else holds it: leave theirs as it is
  add_in_place(slot.grad, dx);
}

std::pair<Tensor, double> Grads::place(int i) {
  const Node& node = tape_.impl_->nodes[size_t(node_)];
  GradSlot& slot = tape_.impl_->slots[size_t(tape_.impl_->inputs[size_t(node.first_input + i)])];
  if (!slot.grad.defined()) return {Tensor::empty(slot.shape, {slot.dtype, slot.device}), 0};
  if (!alone(slot.grad)) slot.grad = copy_of(slot.grad);
  return {slot.grad, 1};
}

void Grads::check_for_nan(int input, const Tensor& dx) const {
  if (!tape_.impl_->options.detect_anomaly || !has_nan(dx)) return;
  fail_runtime("detect_anomaly: backward of op ", node_, " '", tape_.impl_->nodes[size_t(node_)].name,
               "' gave ", whose(input), " NaN, shape ", dx.shape());
}

void Tape::print(std::ostream& out) const {
  auto name = [&](int32_t slot) -> std::string {
    if (slot < 0) return "_";
    return (impl_->slots[size_t(slot)].leaf.defined() ? "leaf" : "%") + std::to_string(slot);
  };
  out << "tape: " << num_ops() << " ops, " << leaves().size() << " leaves\n";
  for (size_t i = 0; i < impl_->nodes.size(); ++i) {
    const Node& node = impl_->nodes[i];
    const GradSlot& result = impl_->slots[size_t(node.out)];
    out << "  " << i << ": " << name(node.out) << " = " << node.name << '(';
    for (int32_t j = 0; j < node.inputs; ++j) {
      const int32_t slot = impl_->inputs[size_t(node.first_input + j)];
      out << (j ? ", " : "") << name(slot);
      if (slot >= 0) out << ' ' << impl_->slots[size_t(slot)].shape;
    }
    out << ") -> " << result.shape << ' ' << result.dtype << '\n';
  }
}

NoGrad::NoGrad() { scopes.push_back({this, nullptr}); }
NoGrad::~NoGrad() { leave(this); }

}  // namespace altgrad
