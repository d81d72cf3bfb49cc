#include "fiber.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

#include "sanitizers.h"

// Pushes the registers that a function must preserve, leaves the stack's pointer in *from, and goes on with the stack
// `to`.
extern "C" void altgrad_simulator_switch(void** from, void* to);

#if defined(__x86_64__)
asm(R"(
.text
.globl altgrad_simulator_switch
.type altgrad_simulator_switch, @function
altgrad_simulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size altgrad_simulator_switch, .-altgrad_simulator_switch
)");
// The words of a fresh stack: six registers, the address to return to, and one that aligns the stack as after a call.
constexpr size_t frame_words = 8, return_word = 6;
#elif defined(__aarch64__)
asm(R"(
.text
.globl altgrad_simulator_switch
.type altgrad_simulator_switch, %function
altgrad_simulator_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size altgrad_simulator_switch, .-altgrad_simulator_switch
)");
constexpr size_t frame_words = 20, return_word = 11;
#else
#error "the simulator's switch between stacks is written for x86-64 and aarch64"
#endif

namespace altgrad::simulator {
namespace {

constexpr size_t guard_bytes = 64 << 10;  // a page, whatever its size
constexpr size_t stack_bytes = SIMULATOR_ASAN ? 256 << 10 : 128 << 10;

Fiber* running = nullptr;
void* resumer_sp = nullptr;
size_t fibers_made = 0;
[[maybe_unused]] const void* resumer_stack = nullptr;
[[maybe_unused]] size_t resumer_stack_bytes = 0;
[[maybe_unused]] void* resumer_tsan = nullptr;

}  // namespace

Fiber::Fiber() {
  void* const p = mmap(nullptr, guard_bytes + stack_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  mprotect(p, guard_bytes, PROT_NONE);
  memory_ = static_cast<char*>(p);
  shift_ = fibers_made++ * 1088 % 32768;
#if SIMULATOR_TSAN
  tsan_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
#if SIMULATOR_TSAN
  // There and back, which makes all that it did come before what the destroyer does.
  void* const destroyer = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(tsan_, 0);
  __tsan_switch_to_fiber(destroyer, 0);
  __tsan_destroy_fiber(tsan_);
#endif
  ASAN_UNPOISON_MEMORY_REGION(memory_ + guard_bytes, stack_bytes);  // what it stopped in the middle of
  munmap(memory_, guard_bytes + stack_bytes);
}

void Fiber::begin(void (*main)()) {
  // The functions that it stopped in the middle of have left red zones at the stack's end, where it begins again.
  [[maybe_unused]] constexpr size_t left = 4096;
  ASAN_UNPOISON_MEMORY_REGION(memory_ + guard_bytes + stack_bytes - shift_ - left, left);
  void** const frame = reinterpret_cast<void**>(memory_ + guard_bytes + stack_bytes - shift_) - frame_words;
  std::fill_n(frame, frame_words, nullptr);
  frame[return_word] = reinterpret_cast<void*>(main);
  sp_ = frame;
}

void Fiber::resume() {
  running = this;
#if SIMULATOR_ASAN
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, memory_ + guard_bytes, stack_bytes);
#endif
#if SIMULATOR_TSAN
  resumer_tsan = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(tsan_, __tsan_switch_to_fiber_no_sync);
#endif
  altgrad_simulator_switch(&resumer_sp, sp_);
#if SIMULATOR_ASAN
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

void Fiber::pass_to(Fiber& next) {
  running = &next;
#if SIMULATOR_ASAN
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, next.memory_ + guard_bytes, stack_bytes);
#endif
#if SIMULATOR_TSAN
  __tsan_switch_to_fiber(next.tsan_, __tsan_switch_to_fiber_no_sync);
#endif
  altgrad_simulator_switch(&sp_, next.sp_);
#if SIMULATOR_ASAN
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

void Fiber::entered() {
#if SIMULATOR_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &resumer_stack, &resumer_stack_bytes);
#endif
}

void Fiber::leave([[maybe_unused]] bool for_good) {
#if SIMULATOR_ASAN
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_stack, resumer_stack, resumer_stack_bytes);
#endif
#if SIMULATOR_TSAN
  __tsan_switch_to_fiber(resumer_tsan, __tsan_switch_to_fiber_no_sync);
#endif
  altgrad_simulator_switch(&running->sp_, resumer_sp);
#if SIMULATOR_ASAN
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

}  // namespace altgrad::simulator
