// The scheduler: gives the threads of a block their turns, one block after the other.
//
// To ThreadSanitizer each thread is one of its own, and blocks are unordered: what orders is the launch, the block's
// barriers, __syncwarp and the grid's end. Making one of its fibers takes it long, so four sets of them take turns:
// blocks that are neighbours share none.
#include "block.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <random>

#include "sanitizers.h"

namespace altgrad::simulator {

Block block;
Thread* self = nullptr;

Settings& settings() {
  static Settings all = [] {
    const auto number = [](const char* name, uint64_t otherwise) {
      const char* const text = std::getenv(name);
      return text ? std::strtoull(text, nullptr, 10) : otherwise;
    };
    return Settings{.order = number("ALTGRAD_SIMULATOR_ORDER", ascending),
                    .capability = int(number("ALTGRAD_SIMULATOR_SM", Settings().capability))};
  }();
  return all;
}
Counts& mutable_counts() {
  static Counts all;
  return all;
}
const Counts& counts() { return mutable_counts(); }

namespace {

std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Fiber*> free_fibers;
char grid_begin, grid_end;

std::string describe(uint3 i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}
std::string describe(const Thread& t) {
  return "thread " + describe(t.index) + " of block " + describe(blockIdx);
}
std::string describe(const char* what, Location where) {
  return std::string(what) + ", " + where.file + ":" + std::to_string(where.line);
}
std::string in_kernel(const std::string& what) { return std::string(block.launch->name) + ": " + what; }
bool same(const Location& a, const Location& b) { return a.line == b.line && a.file == b.file; }

Fiber* fiber_of([[maybe_unused]] const Thread& t) {
#if SIMULATOR_TSAN
  const size_t i = size_t(&t - block.threads.data()) * 4 + size_t(block.number % 4);
  if (fibers.size() <= i) fibers.resize(i + 1);
  if (!fibers[i]) fibers[i] = std::make_unique<Fiber>();
  return fibers[i].get();
#else
  if (free_fibers.empty()) free_fibers.push_back(fibers.emplace_back(std::make_unique<Fiber>()).get());
  Fiber* const fiber = free_fibers.back();
  free_fibers.pop_back();
  return fiber;
#endif
}

// Runs threads that are fresh, one after the other, until one has to wait; then the scheduler begins another fiber.
// So kernels without barriers never switch.
void run_threads() {
  Fiber::entered();
  for (;;) {
    acquire(&grid_begin);
    try {
      (*block.body)();
      if (!self->has_begun) throw Error(in_kernel(describe(*self) + " has returned without begin_kernel()"));
    } catch (...) {
      if (!block.error) block.error = std::current_exception();
    }
    release(&grid_end);
    self->state = State::done;
    ++block.done;
    if (SIMULATOR_TSAN || block.error || block.next_fresh == block.order.size()) break;
    Fiber* const fiber = std::exchange(self->fiber, nullptr);
    self = &block.threads[size_t(block.order[block.next_fresh++])];
    self->state = State::ready;
    self->fiber = fiber;
    threadIdx = self->index;
  }
  Fiber::leave(true);
  std::terminate();  // nobody resumes a fiber that left for good
}

void give_turn(Thread& t) {
  self = &t;
  threadIdx = t.index;
  if (t.state == State::fresh) {
    t.state = State::ready;
    t.fiber = fiber_of(t);
    t.fiber->begin(&run_threads);
  }
  t.fiber->resume();
  // The fiber may have gone on to other threads than t.
  if (self->state == State::done && !SIMULATOR_TSAN)
    free_fibers.push_back(std::exchange(self->fiber, nullptr));
}

// Who goes on where `self` waits; none where the scheduler has to see to it. Those of its warp come first, so that a warp
// gets ahead of the others as far as barriers let it, and then those after it in the order of turns.
Thread* next_ready() {
  if (block.error) return nullptr;
  const size_t own = thread_number(), first = own / warp_size * warp_size;
  for (size_t i = 1; i < warp_size; ++i)
    if (Thread& t = block.threads[first + (own + i) % warp_size]; t.state == State::ready) return &t;
  if (block.next_fresh < block.order.size()) return nullptr;
  const auto ready_in = [](size_t begin, size_t end) -> Thread* {
    for (size_t i = begin; i < end; ++i)
      if (Thread& t = block.threads[size_t(block.order[i])]; t.state == State::ready) return &t;
    return nullptr;
  };
  Thread* const next = ready_in(self->turn + 1, block.order.size());
  return next ? next : ready_in(0, self->turn);
}

// A thread that waits goes on in the next one itself: by way of the scheduler it would be two switches.
void wait(const char* what, Location where, State state) {
  self->what = what;
  self->where = where;
  self->state = state;
  Thread* const next = next_ready();
  if (!next) return Fiber::leave(false);
  Fiber& own = *std::exchange(self, next)->fiber;
  threadIdx = next->index;
  own.pass_to(*next->fiber);
}

[[noreturn]] void fail_stuck() {
  const auto reason = [](const Thread& t) {
    return describe(t) +
           (t.state == State::done ? " has returned" : " waits in " + describe(t.what, t.where));
  };
  const auto waiting = std::ranges::find(block.threads, State::waiting, &Thread::state);
  const auto other = std::ranges::find_if(block.threads, [&](const Thread& t) {
    return t.state == State::done || t.what != waiting->what || !same(t.where, waiting->where);
  });
  throw Error(in_kernel(reason(*waiting) + "; " + reason(*other)));
}

void run_block() {
  while (block.next_fresh < block.order.size() && !block.error)
    give_turn(block.threads[size_t(block.order[block.next_fresh++])]);
  while (block.done < int(block.threads.size()) && !block.error) {
    bool moved = false;
    for (const int i : block.order) {
      Thread& t = block.threads[size_t(i)];
      if (t.state != State::ready || block.error) continue;
      give_turn(t);
      moved = true;
    }
    if (!moved) fail_stuck();
  }
  if (block.error) std::rethrow_exception(std::exchange(block.error, nullptr));
}

// The numbers below n, as the settings order them.
std::vector<int> in_order(size_t n, std::mt19937_64& random) {
  std::vector<int> order(n);
  std::iota(order.begin(), order.end(), 0);
  if (settings().order == descending) std::ranges::reverse(order);
  if (settings().order > descending) std::ranges::shuffle(order, random);
  return order;
}

void prepare_block(std::mt19937_64& random) {
  for (Thread& t : block.threads) {
    t.state = State::fresh;
    t.has_begun = false;
    t.copies.clear();
    t.copy_group = 0;
  }
  for (Warp& w : block.warps) w.arrived = w.number = 0;
  block.barrier = {};
  if (settings().order > descending || block.number == 0) {
    block.order = in_order(block.threads.size(), random);
    for (size_t i = 0; i < block.order.size(); ++i) block.threads[size_t(block.order[i])].turn = i;
  }
  block.next_fresh = 0;
  block.done = 0;
  reset_shared(block.launch->shared_bytes);
}

}  // namespace

void begin_kernel() { self->has_begun = true; }

void fail(const std::string& what, Location where) {
  throw Error(in_kernel(describe(what.c_str(), where) + ", " + describe(*self)));
}

void run(const Launch& launch, const std::function<void()>& body) {
  gridDim = launch.grid;
  blockDim = launch.block;
  block.launch = &launch;
  block.body = &body;
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  block.threads.assign(threads, {});
  block.warps.assign(threads / warp_size, {});
  for (unsigned i = 0; i < threads; ++i) {
    block.threads[i].index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
  }
  std::mt19937_64 random(settings().order);
  const uint64_t blocks = uint64_t(gridDim.x) * gridDim.y * gridDim.z;
  const std::vector<int> order =
      settings().order == ascending ? std::vector<int>() : in_order(blocks, random);
  ++mutable_counts().launches;
  mutable_counts().threads += int64_t(blocks * threads);
  try {
    for (uint64_t i = 0; i < blocks; ++i) {
      const unsigned at = order.empty() ? unsigned(i) : unsigned(order[i]);
      blockIdx = {at % gridDim.x, at / gridDim.x % gridDim.y, at / gridDim.x / gridDim.y};
      block.number = int64_t(i);
      prepare_block(random);
      release(&grid_begin);
      run_block();
    }
  } catch (...) {
    block.error = nullptr;
    fibers.clear();  // with the threads that stopped in the middle
    free_fibers.clear();
    acquire(&grid_end);
    throw;
  }
  acquire(&grid_end);
}

void block_barrier(Location where) {
  Meeting& barrier = block.barrier;
  ++mutable_counts().barriers;
  if (barrier.arrived == 0) barrier.where = where;
  if (!same(where, barrier.where))
    fail(describe("__syncthreads, where others of the block are at another one", barrier.where) + "; here",
         where);
  void* const address = barrier_address();
  release(address);
  if (++barrier.arrived == int(block.threads.size())) {
    barrier.arrived = 0;
    ++barrier.number;
    for (Thread& t : block.threads) t.state = State::ready;
    if (settings().order != ascending) wait("", where, State::ready);  // its turn comes with the others'
  } else {
    wait("__syncthreads", where, State::waiting);
  }
  acquire(address);
}

bool enter_collective(const char* what, unsigned mask, void* value, Location where) {
  if (mask != ~0u) fail(std::string(what) + ": a mask that is not all lanes", where);
  Warp& warp = own_warp();
  if (warp.arrived == 0) {
    warp.what = what;
    warp.where = where;
  }
  if (!same(where, warp.where))
    fail(std::string(what) + ", where other lanes are at " + describe(warp.what, warp.where) + "; here",
         where);
  warp.values[lane()] = value;
  ++mutable_counts().collectives;
  if (++warp.arrived == warp_size) return true;
  wait(what, where, State::waiting);
  return false;
}

void leave_collective() {
  Warp& warp = own_warp();
  warp.arrived = 0;
  ++warp.number;
  const size_t first = thread_number() / warp_size * warp_size;
  for (size_t i = first; i < first + warp_size; ++i) block.threads[i].state = State::ready;
}

int lane() { return int(thread_number() % warp_size); }

}  // namespace altgrad::simulator
