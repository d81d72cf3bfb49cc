// The tape: its nodes and slots in memory, recording, and the walk back.
#include <altgrad/autograd/tape.h>

#include <altgrad/autograd/internal/arena.h>
#include <altgrad/autograd/internal/common.h>
#include <altgrad/autograd/internal/scopes.h>
#include <altgrad/core/internal/kernels/elementwise.h>

#include <pthread.h>

#include <algorithm>
#include <mutex>
#include <ostream>

namespace altgrad {
namespace {

using detail::body_of;

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

bool is_uniquely_owned(const Tensor& x) { return body_of(x)->refs == 1 && body_of(x)->storage.unique(); }

// Gradients of bf16 are added on the CPU, too, for what it moves and converts.
void add_in_place(const Tensor& sum, const Tensor& x) {
  check_same_kind("backward", sum, x);
  dispatch_all(sum, [&]<class T>(const auto& device) {
    if constexpr (has_gradient(dtype_of<T>)) kernels::axpy(device, sum.ptr<T>(), x.ptr<T>(), 1, sum.numel());
  });
}

// Held while a leaf's gradient is taken or given, and while the process forks, so that no child inherits it locked.
constinit std::mutex leaf_gradients;
[[maybe_unused]] const int fork_handlers = pthread_atfork(
    [] { leaf_gradients.lock(); }, [] { leaf_gradients.unlock(); }, [] { leaf_gradients.unlock(); });

// Adds to the gradient that a leaf has, in place. Another thread's tape may do so at the same time: the leaf's is taken
// away for as long as it is written to, and one that has been given to the leaf meanwhile is added, too.
void add_to_leaf(const Tensor& leaf, Tensor grad) {
  for (bool own = is_uniquely_owned(grad);; own = true) {
    Tensor there;
    {
      const std::lock_guard lock(leaf_gradients);
      there = std::exchange(body_of(leaf)->grad, Tensor());
      if (!there.defined() && own) return leaf.set_grad(grad);
    }
    if (there.defined()) {
      add_in_place(there, grad);
    } else {
      there = grad.copied();
    }
    grad = std::move(there);
  }
}

// An input by its number; a leaf that is none has -1.
std::string input_label(int input) { return input < 0 ? "a leaf" : concat("input ", input); }

bool has_nan(const Tensor& x) {
  return has_gradient(x.dtype()) &&
         detail::has_nan("detect_anomaly", detail::as_dtype(x, compute_dtype(x.dtype())));
}

}  // namespace

struct Tape::Impl {
  detail::Scope* scope = nullptr;
  uint64_t id = 0;  // the scope's
  TapeOptions options;
  detail::Arena arena;
  detail::Arena::Mark pending;  // where the arena stood before the op that is running forward
  size_t pending_inputs = 0;    // as pending, for `inputs`
  std::vector<Node> nodes;
  std::vector<int32_t> inputs;  // slots; -1 where no gradient is needed
  std::vector<GradSlot> slots;
  int64_t leaves = 0;               // among the slots
  std::vector<int32_t> leaf_table;  // their slots, by the hash of the leaf's body; -1: free
  Grads* outer = nullptr;           // the op that runs this tape backward (Grads::run), and the leaf
  const detail::Body* outer_input = nullptr;  // that stands for its input 0

  // Ready for a new tape; keeps the memory.
  void clear() {
    for (size_t i = nodes.size(); i-- > 0;) destroy(nodes[i]);
    nodes.clear();
    inputs.clear();
    slots.clear();
    leaves = 0;
    leaf_table.clear();
    outer = nullptr;
    outer_input = nullptr;
    arena.rewind({});
    pending = {};
    pending_inputs = 0;
  }
  static void destroy(Node& node) {
    if (node.op) std::exchange(node.op, nullptr)->~Op();
  }

  int32_t add_slot(const Tensor& x, const Tensor& leaf) {
    slots.push_back({Tensor(), leaf, x.shape(), x.dtype(), x.device()});
    return int32_t(slots.size() - 1);
  }
  int32_t add_result(const Tensor& y) {
    body_of(y)->tape = id;
    return body_of(y)->slot = add_slot(y, Tensor());
  }
  // The slot of a leaf, a new one at its first use. Which one it is stands here and not in the leaf, which other tapes
  // and threads use.
  int32_t leaf_slot(const Tensor& x) {
    if (2 * size_t(leaves) >= leaf_table.size()) grow_leaf_table();
    int32_t& entry = leaf_entry(body_of(x));
    if (entry < 0) {
      entry = add_slot(x, x);
      ++leaves;
      if (outer) slots.back().grad = outer->take(x, outer_input);
    }
    return entry;
  }
  // Where the slot of the body's leaf stands, or is to stand.
  int32_t& leaf_entry(const detail::Body* body) {
    const size_t mask = leaf_table.size() - 1;  // the size is a power of two
    for (size_t i = reinterpret_cast<uintptr_t>(body) * 0x9E3779B97F4A7C15 >> 32;; ++i) {
      int32_t& entry = leaf_table[i & mask];
      if (entry < 0 || body_of(slots[size_t(entry)].leaf) == body) return entry;
    }
  }
  void grow_leaf_table() {
    leaf_table.assign(std::max<size_t>(16, 2 * leaf_table.size()), -1);
    for (size_t i = 0; i < slots.size(); ++i) {
      if (slots[i].leaf.defined()) leaf_entry(body_of(slots[i].leaf)) = int32_t(i);
    }
  }
};

namespace {
// Implementations of tapes gone by, for the thread's next ones. Tapes may be made and end after it has.
struct SpareTapes {
  std::vector<std::unique_ptr<Tape::Impl>> tapes;
  ~SpareTapes() { alive = false; }
  static thread_local constinit bool alive;
};
thread_local constinit bool SpareTapes::alive = true;
thread_local SpareTapes spare;
}  // namespace

Tape::Tape(TapeOptions options) {
  if (!SpareTapes::alive || spare.tapes.empty()) {
    impl_ = std::make_unique<Impl>();
  } else {
    impl_ = std::move(spare.tapes.back());
    spare.tapes.pop_back();
  }
  impl_->options = options;
  impl_->scope = detail::push_scope(this);
  impl_->id = impl_->scope->id;
}

Tape::~Tape() {
  const bool made_here = detail::pop_scope(impl_->scope);
  impl_->clear();
  if (made_here && SpareTapes::alive) spare.tapes.push_back(std::move(impl_));
}

Tape* Tape::current() {
  const detail::Scope* const innermost = detail::innermost_scope();
  return innermost && !innermost->ran ? innermost->tape : nullptr;
}

int64_t Tape::num_ops() const { return int64_t(impl_->nodes.size()); }

std::vector<Tensor> Tape::leaves() const {
  std::vector<Tensor> leaves;
  leaves.reserve(size_t(impl_->leaves));
  for (const GradSlot& slot : impl_->slots) {
    if (slot.leaf.defined()) leaves.push_back(slot.leaf);
  }
  return leaves;
}

bool Tape::needs_grad(const Tensor& x) const {
  const detail::Body* body = body_of(x);
  if (!body) return false;
  if (!body->tape) return body->requires_grad;
  if (body->tape == impl_->id) return true;
  for (const detail::Scope* scope = detail::innermost_scope(); scope; scope = scope->outer) {
    if (scope->id == body->tape && !scope->ended() && !scope->done) {
      fail("tape: a tensor of shape ", x.shape(),
           " was recorded by an outer tape, which gets no gradient through this one; detach() it to use it "
           "as a constant");
    }
  }
  return false;
}

void* Tape::arena_allocate(size_t size, size_t align) {
  impl_->pending = impl_->arena.mark();
  impl_->pending_inputs = impl_->inputs.size();
  return impl_->arena.allocate(size, align);
}

void Tape::add_input(const Tensor* x) {
  int32_t slot = -1;
  if (x && needs_grad(*x)) slot = body_of(*x)->tape ? body_of(*x)->slot : impl_->leaf_slot(*x);
  impl_->inputs.push_back(slot);
}

Tensor Tape::push(Op* op, const char* name, Tensor y) {
  if (!y.defined()) fail(name, ": forward gave an empty tensor");
  if (impl_->options.detect_anomaly && has_nan(y)) {
    fail_runtime("detect_anomaly: forward of op ", num_ops(), " '", name, "' gave NaN, shape ", y.shape());
  }
  // A tensor that somebody else holds, be it an input, a constant or what the op keeps, stays as it is.
  if (body_of(y)->refs != 1 || y.requires_grad()) y = y.detach();
  const int32_t first = int32_t(impl_->pending_inputs);
  const int32_t out = impl_->add_result(y);
  impl_->nodes.push_back({op, name, out, first, int32_t(impl_->inputs.size()) - first});
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
    if (slot.leaf.defined() && slot.grad.defined()) add_to_leaf(slot.leaf, std::move(slot.grad));
  }
}

std::vector<Tensor> Tape::gradients(const Tensor& y, const Tensor& cotangent) {
  run_backward(y, cotangent);
  std::vector<Tensor> grads;
  grads.reserve(size_t(impl_->leaves));
  for (GradSlot& slot : impl_->slots) {
    if (slot.leaf.defined()) grads.push_back(std::move(slot.grad));
  }
  return grads;
}

void Tape::run_backward(const Tensor& y, const Tensor& cotangent) {
  if (impl_->scope->ran)
    fail("backward: this tape has run backward already; record the forward pass on a new tape");
  if (!y.defined() || body_of(y)->tape != impl_->id)
    fail("backward: this tape did not record the tensor; does any input require a gradient?");
  if (!(cotangent.shape() == y.shape()) || cotangent.dtype() != y.dtype() ||
      !(cotangent.device() == y.device())) {
    fail("backward: cotangent ", cotangent.shape(), " ", cotangent.dtype(), " on ", cotangent.device(),
         " does not match ", y.shape(), " ", y.dtype(), " on ", y.device());
  }
  for (const GradSlot& slot : impl_->slots) {
    if (slot.leaf.defined() && !slot.fits(slot.leaf)) {
      fail("backward: a leaf was ", slot.dtype, " ", slot.shape, " on ", slot.device,
           " when it was recorded and is now ", slot.leaf.dtype(), " ", slot.leaf.shape(), " on ",
           slot.leaf.device());
    }
  }
  impl_->scope->ran = true;
  const NoGrad off;
  impl_->slots[size_t(body_of(y)->slot)].grad = cotangent;
  for (int64_t i = num_ops() - 1; i >= 0; --i) {
    Node& node = impl_->nodes[size_t(i)];
    const Tensor dy = std::move(impl_->slots[size_t(node.out)].grad);
    if (dy.defined()) {
      Grads grads(*this, i);
      node.op->backward(dy, grads);
    }
    Impl::destroy(node);
  }
  impl_->scope->done = true;
}

const char* Grads::op_name() const { return tape_.impl_->nodes[size_t(node_)].name; }

int32_t Grads::slot_of(int i) const {
  const Node& node = tape_.impl_->nodes[size_t(node_)];
  return i >= 0 && i < node.inputs ? tape_.impl_->inputs[size_t(node.first_input + i)] : -1;
}

bool Grads::needs(int i) const { return slot_of(i) >= 0; }

void Grads::check_input(int i) const {
  const int inputs = tape_.impl_->nodes[size_t(node_)].inputs;
  if (i < 0 || i >= inputs) fail(op_name(), ": backward gives a gradient for input ", i, " of ", inputs);
}

void Grads::add(int i, const Tensor& dx) {
  check_input(i);
  if (const int32_t slot = slot_of(i); slot >= 0) add_to_slot(slot, i, dx);
}

void Grads::add_leaf(const Tensor& leaf, const Tensor& dx) {
  if (!leaf.defined() || !leaf.requires_grad())
    fail(op_name(), ": backward gives a gradient for a leaf that requires none");
  add_to_slot(tape_.impl_->leaf_slot(leaf), -1, dx);
}

void Grads::run(Tape& inner, const Tensor& y, const Tensor& dy, const Tensor& input) {
  check_input(0);
  Tape::Impl& run = *inner.impl_;
  run.outer = this, run.outer_input = body_of(input);
  for (GradSlot& slot : run.slots) {
    if (slot.leaf.defined()) slot.grad = take(slot.leaf, body_of(input));
  }
  inner.run_backward(y, dy);
  for (GradSlot& slot : run.slots) {
    if (!slot.leaf.defined() || !slot.grad.defined()) continue;
    const int32_t index = leaf_slot(slot.leaf, body_of(input));
    if (index >= 0) add_to_slot(index, body_of(slot.leaf) == body_of(input) ? 0 : -1, std::move(slot.grad));
  }
}

int32_t Grads::leaf_slot(const Tensor& leaf, const detail::Body* input) const {
  return body_of(leaf) == input ? slot_of(0) : tape_.impl_->leaf_slot(leaf);
}

Tensor Grads::take(const Tensor& leaf, const detail::Body* input) const {
  const int32_t slot = leaf_slot(leaf, input);
  return slot < 0 ? Tensor() : std::move(tape_.impl_->slots[size_t(slot)].grad);
}

void Grads::add_to_slot(int32_t index, int input, Tensor dx) {
  GradSlot& slot = tape_.impl_->slots[size_t(index)];
  if (!slot.fits(dx)) {
    fail(op_name(), ": backward gives ", input_label(input), " a gradient ", dx.shape(), " ", dx.dtype(),
         " on ", dx.device(), ", the input is ", slot.shape, " ", slot.dtype, " on ", slot.device);
  }
  check_for_nan(input, dx);
  if (!slot.grad.defined()) {
    slot.grad = std::move(dx);
    return;
  }
  if (!is_uniquely_owned(slot.grad))
    slot.grad = slot.grad.copied();  // someone else holds it: leave theirs as it is
  add_in_place(slot.grad, dx);
}

std::pair<Tensor, double> Grads::grad_buffer(int i) {
  GradSlot& slot = tape_.impl_->slots[size_t(slot_of(i))];
  if (!slot.grad.defined()) return {Tensor::empty(slot.shape, {slot.dtype, slot.device}), 0};
  if (!is_uniquely_owned(slot.grad)) slot.grad = slot.grad.copied();
  return {slot.grad, 1};
}

void Grads::check_for_nan(int input, const Tensor& dx) const {
  if (!tape_.impl_->options.detect_anomaly || !has_nan(dx)) return;
  fail_runtime("detect_anomaly: backward of op ", node_, " '", op_name(), "' gave ", input_label(input),
               " NaN, shape ", dx.shape());
}

void Tape::print(std::ostream& out) const {
  auto name = [&](int32_t slot) -> std::string {
    if (slot < 0) return "_";
    return (impl_->slots[size_t(slot)].leaf.defined() ? "leaf" : "%") + std::to_string(slot);
  };
  out << concat("tape: ", num_ops(), " ops, ", impl_->leaves, " leaves\n");  // whatever the stream's locale
  for (size_t i = 0; i < impl_->nodes.size(); ++i) {
    const Node& node = impl_->nodes[i];
    const GradSlot& result = impl_->slots[size_t(node.out)];
    out << "  " << std::to_string(i) << ": " << name(node.out) << " = " << node.name << '(';
    for (int32_t j = 0; j < node.inputs; ++j) {
      const int32_t slot = impl_->inputs[size_t(node.first_input + j)];
      out << (j ? ", " : "") << name(slot);
      if (slot >= 0) out << ' ' << impl_->slots[size_t(slot)].shape;
    }
    out << ") -> " << result.shape << ' ' << result.dtype << '\n';
  }
}

}  // namespace altgrad
