// The list of the calling thread's scopes, and NoGrad.
#include <altgrad/autograd/internal/scopes.h>
#include <altgrad/autograd/tape.h>

namespace altgrad::detail {
namespace {

std::atomic<uint64_t> next_tape_id{1};

// Usable to the end of the thread, after its thread_local objects and, in the main thread, in static destructors: it
// has no destructor itself.
thread_local constinit Scope* innermost = nullptr;

void drop(Scope* scope) {
  if (scope->holders.fetch_sub(1, std::memory_order_acq_rel) == 1) delete scope;
}

void drop_ended() {
  for (Scope** at = &innermost; *at;) {
    Scope* const scope = *at;
    if (scope->ended()) {
      *at = scope->outer;
      delete scope;
    } else {
      at = &scope->outer;
    }
  }
}

struct ThreadEnd {
  ~ThreadEnd() {
    while (innermost) drop(std::exchange(innermost, innermost->outer));
  }
};

}  // namespace

Scope* push_scope(Tape* tape) {
  static thread_local const ThreadEnd end;
  drop_ended();
  const uint64_t id = tape ? next_tape_id.fetch_add(1, std::memory_order_relaxed) : 0;
  return innermost = new Scope{tape, id, &innermost, innermost};
}

bool pop_scope(Scope* scope) {
  const bool here = scope->thread == &innermost;
  drop(scope);
  if (here) drop_ended();
  return here;
}

const Scope* innermost_scope() {
  const Scope* scope = innermost;
  while (scope && scope->ended()) scope = scope->outer;
  return scope;
}

}  // namespace altgrad::detail

namespace altgrad {

NoGrad::NoGrad() : scope_(detail::push_scope(nullptr)) {}
NoGrad::~NoGrad() { detail::pop_scope(scope_); }

}  // namespace altgrad
