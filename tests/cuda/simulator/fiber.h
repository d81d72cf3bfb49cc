// A stack of its own for each thread of a block that waits for others. A switch is a handful of instructions:
// swapcontext would make two system calls, and the kernels of a test switch millions of times.
#pragma once

#include <cstddef>

namespace altgrad::simulator {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next resume() runs main() from its beginning; it ends by leave(), never by returning. What was left on the
  // stack is dropped.
  void begin(void (*main)());
  // Called outside of fibers: goes on in this one until it leaves.
  void resume();

  // Called in the running fiber, this one: stops for now and goes on in another one, which has entered before.
  void pass_to(Fiber& next);

  // Called first in main(), and then wherever the running fiber stops for now, or `for_good`.
  static void entered();
  static void leave(bool for_good);

 private:
  char* memory_;  // a page that faults, then the stack
  size_t shift_;  // of the stack's end, so that the ends of many do not fall on the same lines of a cache
  void* sp_ = nullptr;  // where it stopped
  [[maybe_unused]] void* tsan_ = nullptr;
};

}  // namespace altgrad::simulator
