// The scopes of a thread: its tapes and NoGrads, the innermost first. Two hold each of them: the thread's list, and the
// Tape or NoGrad itself, which may end out of order, in another thread, or when its own thread is gone. So nobody
// writes to another thread's list: it drops what it alone still holds.
#pragma once

#include <altgrad/core/memory.h>

#include <atomic>
#include <cstdint>

namespace altgrad {

class Tape;

namespace detail {

struct Scope {
  Tape* const tape;  // null for a NoGrad
  const uint64_t id;
  const void* const thread;  // that made it
  Scope* outer;              // for that thread alone
  std::atomic<int> holders{2};
  std::atomic<bool> ran{false}, done{false};  // the tape's backward has begun, has ended

  bool ended() const { return holders.load(std::memory_order_acquire) == 1; }
  static void* operator new(size_t size) { return pool_allocate(size); }
  static void operator delete(void* p) { pool_free(p, sizeof(Scope)); }
};

// A new innermost scope of the calling thread; each tape's has an id of its own, that of a NoGrad is 0.
Scope* push_scope(Tape* tape);
// What the owner of the scope calls when it ends. Has this thread made it?
bool pop_scope(Scope* scope);
// The calling thread's innermost scope that has not ended, null where there is none.
const Scope* innermost_scope();

}  // namespace detail
}  // namespace altgrad
