// Processes: children of fork() compute, whatever threads the parent has; tapes and ops work in static destructors.
#include <altgrad/altgrad.h>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <thread>

#include "reference.h"
#include "thread_count.h"

using namespace altgrad;
using reference::randn;

namespace {

bool is_child = false;

// The exit status of a child that runs f; 100 and the signal's number where one ended it.
int status_of_child(const std::function<void()>& f) {
  const pid_t child = fork();
  if (child == 0) {
    is_child = true;
    alarm(60);
    const int silent =
        open("/dev/null", O_WRONLY);  // what the parent has not printed yet is not the child's to print
    dup2(silent, 1), dup2(silent, 2);
    f();
    _exit(99);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? 100 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace

// LeakSanitizer asks for it. A child lacks the threads by which its parent reaches some of OpenMP's memory.
extern "C" int __lsan_is_turned_off() { return is_child; }

TEST_CASE("a child computes what its parent does, on as many threads", "[fork]") {
#if defined(__SANITIZE_ADDRESS__) && defined(__clang__)
  SKIP_TEST("another thread's lock of AddressSanitizer's allocator stays locked in a child (until LLVM 17)");
#endif
  const ThreadCount two(2);
  const Tensor a = randn({256, 256}, 1, DType::f32), w = randn({256, 256}, 2, DType::f32).requires_grad(true);
  const auto step = [&] {
    Tape tape;
    return tape.gradients(sum(gelu(matmul(a, w))), Tensor::ones({}, w.options()))[0];
  };
  const Tensor expected = step();
  const auto child = [&] { _exit(same_bits(step(), expected) ? 0 : 1); };

  std::atomic<bool> stop{false};
  std::vector<std::thread>
      others;  // with OpenMP threads of their own, in the middle of allocations and backwards
  for (int i = 0; i < 2; ++i) {
    others.emplace_back([&] {
      while (!stop) {
        Tape tape;
        tape.backward(sum(matmul(a, w)));
      }
    });
  }
  int wrong = 0;
  for (int i = 0; i < 10 && !wrong; ++i) wrong += status_of_child(child) != 0;
  std::thread([&] {
    if (!wrong) wrong += status_of_child(child) != 0;  // before its first product
    step();
    for (int i = 0; i < 5 && !wrong; ++i) wrong += status_of_child(child) != 0;
    wrong += !same_bits(step(), expected);
  }).join();
  stop = true;
  for (std::thread& t : others) t.join();
  CHECK(wrong == 0);
  CHECK(same_bits(step(), expected));
  if (!wrong) CHECK(status_of_child([&] { _exit(status_of_child(child)); }) == 0);  // and a child of a child
}

TEST_CASE("static tapes end, and ops run, when the program does", "[fork]") {
  const int status = status_of_child([] {
    // Destroyed in the reverse order, after the main thread's thread_local objects.
    static struct Last {
      const Tensor w = Tensor::ones({64, 64}).requires_grad(true);
      ~Last() {
        Tape tape;
        tape.backward(sum(matmul(w, w)));
        if (w.grad().data<float>()[5] != 128) _exit(1);
      }
    } last;
    static Tape tape;
    const Tensor y = matmul(last.w, last.w);  // kernels have memory of the thread now
    static const Tape inner;
    std::exit(0);
  });
  CHECK(status == 0);
}
