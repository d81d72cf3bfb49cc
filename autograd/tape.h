// The tape: what ran forward, to be walked backward. Define a Tape and it records, while it is in scope,
// every op of this thread that a leaf requiring gradients flows into; with no Tape in scope nothing is
// recorded.
//
//   Tape tape;
//   Tensor loss = model.loss(x, y);
//   tape.backward(loss);             // gradients are added to each leaf's grad()
//
// Ops live in the tape's arena and own what their backward needs; gradients live in numbered slots.
// backward() is a plain reverse loop that destroys each op as soon as it has run, so activations are freed on
// the way. A tape's memory is reused by the thread's next tape: after warm-up, recording allocates nothing.
//
// Ops keep handles to their tensors, not copies: a tensor must not be written to between its use and backward.
// Results of a tape that is gone, or has run backward, are constants to later tapes; those of an outer tape that is
// still to run cannot be used without detach().
//
// Threads: a tape records in the thread that made it, and may run backward and end in another one, which then must
// come after. Several threads, each with its own tape, may use the same leaves at a time: recording leaves them as
// they are, and each backward() adds all of its gradient. The order in which threads add is not fixed, and rounding
// follows it: for the same bits every time, take gradients() and add them up in an order of your own. To each thread,
// results of another one's tape are constants. Not safe is to write to a tensor, to grad() too (an optimizer's step,
// zero_grad, set_grad), while another thread uses it.
#pragma once

#include <altgrad/core/tensor.h>

#include <iostream>
#include <memory>
#include <optional>
#include <utility>

ALTGRAD_API_BEGIN
namespace altgrad {

class Grads;
class Tape;

/// An operation with its backward, written side by side:
///
///   struct Softplus final : Op {
///     static constexpr const char* name = "softplus";
///     Tensor x;                                                          // saved for backward
///     Tensor forward(const Tensor& in) { x = in; return relu(in) + log(exp(-abs(in)) + 1.0); }
///     void backward(const Tensor& dy, Grads& d) override { d.add(0, dy * sigmoid(x)); }
///   };
///   Tensor softplus(const Tensor& x) { return apply<Softplus>(x); }
///
/// Ops called inside forward and backward are not recorded. forward may take, besides tensors,
/// std::optional<Tensor>, std::span<const Tensor> and any options; inputs are numbered in the order of the
/// tensors among its arguments.
class Op {
 public:
  virtual ~Op() = default;
  /// dy: the gradient of the result. Calls d.add(i, dx) for each input i with d.needs(i).
  virtual void backward(const Tensor& dy, Grads& d) = 0;

  bool recorded = false;  ///< set before forward; else backward will not run, and forward need not prepare it
};

/// Where an op's backward leaves the gradients of its inputs.
class Grads {
 public:
  /// Does anything want the gradient of input i? Adding one that nothing needs is harmless.
  bool needs(int i) const;
  /// Adds dx to the gradient of input i. Throws std::invalid_argument, naming the op, where shape, dtype or
  /// device differ from the input's.
  void add(int i, const Tensor& dx);
  /// Where input i needs its gradient: f(dx, beta) writes it in place, dx = beta * dx + the gradient, without
  /// reading dx where beta = 0. Throws where there is no input i.
  template <class F>
  void accumulate(int i, F&& f);
  /// Adds dx to the gradient of a leaf that is not among the inputs. Throws as add does.
  void add_leaf(const Tensor& leaf, const Tensor& dx);
  /// Runs the ops of another tape backward from y as if they stood here: each adds to the gradients that the tape's
  /// leaves have so far, in the same order, so to the same bits. `input`, one of those leaves, stands for input 0.
  void run(Tape& inner, const Tensor& y, const Tensor& dy, const Tensor& input);

 private:
  friend class Tape;
  Grads(Tape& tape, int64_t node) : tape_(tape), node_(node) {}
  void add_to_slot(int32_t slot, int input, Tensor dx);
  /// The slot of input i, -1 where it needs no gradient.
  int32_t slot_of(int i) const;
  /// For run(): where on this tape the gradient of a leaf of the inner one is, and that gradient, taken from there.
  int32_t leaf_slot(const Tensor& leaf, const detail::Body* input) const;
  Tensor take(const Tensor& leaf, const detail::Body* input) const;
  /// The gradient of input i so far, held by the tape alone, and 1; or new memory and 0.
  std::pair<Tensor, double> grad_buffer(int i);
  const char* op_name() const;
  void check_for_nan(int input, const Tensor& dx) const;
  void check_input(int i) const;
  Tape& tape_;
  int64_t node_;
};

template <class F>
void Grads::accumulate(int i, F&& f) {
  check_input(i);
  if (!needs(i)) return;
  const auto [dx, beta] = grad_buffer(i);
  f(dx, beta);
  beta == 0 ? add(i, dx) : check_for_nan(i, dx);
}

struct TapeOptions {
  /// Check every result and every gradient for NaN; throw std::runtime_error naming the op, its index and
  /// shape.
  bool detect_anomaly = false;
};

class Tape {
 public:
  Tape() : Tape(TapeOptions{}) {}
  explicit Tape(TapeOptions options);
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// The innermost tape alive in this thread, null where there is none or recording is suspended.
  static Tape* current();

  /// Adds d(y)/d(leaf) to the gradient of every leaf. y must have one element, or a cotangent of its shape be
  /// given. Throws std::invalid_argument where this tape did not record y, has run backward already, or the
  /// cotangent does not match; leaves change only after the last op has run.
  void backward(const Tensor& y);
  void backward(const Tensor& y, const Tensor& cotangent);

  /// As backward, but the leaves stay as they are: their gradients, in the order of leaves() afterwards;
  /// undefined where y does not depend on the leaf. The same bits however many threads use the leaves.
  std::vector<Tensor> gradients(const Tensor& y, const Tensor& cotangent);

  int64_t num_ops() const;
  /// The tensors requiring gradients that recorded ops have used, in order of first use.
  std::vector<Tensor> leaves() const;
  /// A line an op: index, name, inputs, result.
  void print(std::ostream& out = std::cout) const;

  struct Impl;

 private:
  friend class Grads;
  template <class O, class... Args>
  friend Tensor apply(Args&&... args);

  /// Runs all ops backward; the leaves' gradients are in their slots then.
  void run_backward(const Tensor& y, const Tensor& cotangent);
  bool needs_grad(const Tensor& x) const;
  void* arena_allocate(size_t size, size_t align);
  void add_input(const Tensor* x);  ///< null for an absent optional
  /// Takes over an op that has run; gives its result, which is on the tape now.
  Tensor push(Op* op, const char* name, Tensor y);
  /// Forgets inputs added and memory allocated for an op that threw.
  void abandon();

  std::unique_ptr<Impl> impl_;
};

namespace detail {
struct Scope;
}

/// While one is in scope, nothing is recorded in the thread that made it, but by tapes made after it.
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  detail::Scope* const scope_;
};

namespace detail {

/// Calls f(const Tensor*) for every tensor among an op's arguments, null for an absent optional.
template <class F>
void for_each_tensor(F&& f, const Tensor& x) {
  f(&x);
}
template <class F>
void for_each_tensor(F&& f, const std::optional<Tensor>& x) {
  f(x ? &*x : nullptr);
}
template <class F>
void for_each_tensor(F&& f, std::span<const Tensor> xs) {
  for (const Tensor& x : xs) f(&x);
}
template <class F, class Other>
requires(!std::is_convertible_v<const Other&, std::span<const Tensor>>) void for_each_tensor(F&&,
                                                                                             const Other&) {}

/// An op whose effects reach past its inputs (checkpoint) declares `always_record = true`.
template <class O>
concept AlwaysRecorded = O::always_record;

}  // namespace detail

/// Runs O::forward(args...) and, where a tape is recording and an input needs a gradient, records it.
/// The one way into the tape.
template <class O, class... Args>
Tensor apply(Args&&... args) {
  Tape* tape = Tape::current();
  bool record = tape && detail::AlwaysRecorded<O>;
  if (tape && !record) {
    auto look = [&](const Tensor* x) { record = record || (x && tape->needs_grad(*x)); };
    (detail::for_each_tensor(look, args), ...);
  }
  NoGrad off;
  if (!record) return O().forward(std::forward<Args>(args)...);

  O* op = nullptr;
  try {
    op = new (tape->arena_allocate(sizeof(O), alignof(O))) O();
    op->recorded = true;
    Tensor y = op->forward(args...);
    if (y.defined() && !has_gradient(y.dtype())) {  // it carries no gradients
      op->~O();
      tape->abandon();
      return y;
    }
    (detail::for_each_tensor([&](const Tensor* x) { tape->add_input(x); }, args), ...);
    return tape->push(op, O::name, std::move(y));
  } catch (...) {
    if (op) op->~O();
    tape->abandon();
    throw;
  }
}

}  // namespace altgrad
ALTGRAD_API_END
