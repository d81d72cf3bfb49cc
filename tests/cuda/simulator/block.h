// The block that runs: its threads, what they wait for, its shared memory. Internal to the simulator.
#pragma once

#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "builtins.h"
#include "fiber.h"
#include "simulator.h"

namespace altgrad::simulator {

constexpr int warp_size = 32;
// Limits of sm_80, in bytes of a block.
// A kernel that wants more than the default asks by cudaFuncSetAttribute, for dynamic memory alone.
constexpr size_t default_shared_limit = 48 << 10, largest_shared_limit = 163 << 10;
// What a block may have where it asks for it: of sm_80, or of sm_86 and sm_89 (CUDA C++ Programming Guide, "Technical
// specifications per compute capability").
inline size_t shared_limit() {
  const int sm = settings().capability;
  return sm == 86 || sm == 89 ? 99 << 10 : largest_shared_limit;
}

enum class State : uint8_t { fresh, ready, waiting, done };

struct Thread {
  uint3 index;
  State state = State::fresh;
  bool has_begun = false;  // the kernel's begin_kernel()
  size_t turn = 0;         // its place in the order
  Fiber* fiber = nullptr;
  const char* what = "";  // it waits for, and where
  Location where;
  std::vector<std::pair<int, AsyncCopy>> copies;  // by group
  int copy_group = 0;
};

// A barrier, or a warp's collective, that threads are on their way to.
struct Meeting {
  int arrived = 0;
  int number = 0;  // of those that were
  const char* what = "";
  Location where;
};

struct Warp : Meeting {
  void* values[warp_size];  // what each lane brought
};

struct Block {
  const Launch* launch = nullptr;
  const std::function<void()>* body = nullptr;
  int64_t number = 0;  // of those that ran in this grid
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Meeting barrier;
  std::vector<int> order;  // of the turns
  size_t next_fresh = 0;   // in `order`
  int done = 0;
  std::exception_ptr error;
};

extern Block block;
extern Thread* self;

inline size_t thread_number() { return size_t(self - block.threads.data()); }
inline Warp& own_warp() { return block.warps[thread_number() / warp_size]; }

[[noreturn]] void fail(const std::string& what, Location where);  // of `self`

// Adds the lane's value to those of its warp. True in the lane that came last: it sees all of them, changes them in
// place and calls leave_collective(). False in the others, when that has happened.
bool enter_collective(const char* what, unsigned mask, void* value, Location where);
void leave_collective();

// Shared memory for the next block, with nothing in it but `dynamic_bytes`.
void reset_shared(size_t dynamic_bytes);
// Addresses in it that stand for the block's barriers and its warps' to ThreadSanitizer, two for each: a thread can
// be past a barrier and release the next one before others have acquired, which must not order what lies between.
void* barrier_address();
void* warp_address();

Counts& mutable_counts();
size_t allowed_dynamic_shared(const void* kernel);
// Runs a kernel on the calling thread. The launch has been checked.
void run(const Launch& launch, const std::function<void()>& body);

}  // namespace altgrad::simulator
