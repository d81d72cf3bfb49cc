// Threads that share leaves, models and functions, each with a tape of its own; tapes and NoGrads that end in another
// thread than they began in. ThreadSanitizer runs these too: kernels have one thread each, as OpenMP's are not seen by it.
#include <altgrad/altgrad.h>

#include <atomic>
#include <functional>
#include <memory>
#include <thread>

#include "allocations.h"
#include "reference.h"
#include "thread_count.h"

using namespace altgrad;
using reference::randn;

namespace {

void in_threads(int n, const std::function<void(int)>& f) {
  std::vector<std::thread> threads;
  for (int i = 0; i < n; ++i) threads.emplace_back(f, i);
  for (std::thread& t : threads) t.join();
}

void in_thread(const std::function<void()>& f) { std::thread(f).join(); }

// Gives a tensor that outlives it.
struct Constant final : Op {
  static constexpr const char* name = "constant";
  Tensor forward(const Tensor&, const Tensor* held) { return *held; }
  void backward(const Tensor& dy, Grads& d) override { d.add(0, dy); }
};

}  // namespace

TEST_CASE("threads take the gradients of shared leaves at the same time", "[threads]") {
  const ThreadCount one(1);
  const Tensor w = randn({4, 3}, 1).requires_grad(true), b = randn({4}, 2).requires_grad(true);
  const auto gradients = [&] {
    Tape tape;
    // An inner tape between two uses, as a checkpoint has one.
    const Tensor x = randn({5, 3}, 3), y = checkpoint([&](const Tensor&t) { return linear(t, w, b); }, x);
    {
      Tape inner;
      inner.gradients(sum(w) * 2.0, here::ones({}, w.options()));
    }
    std::vector<Tensor> grads = tape.gradients(sum(y * linear(x, w)), here::ones({}, w.options()));
    for (const Tensor& leaf : tape.leaves()) grads.push_back(leaf);
    return grads;
  };
  const std::vector<Tensor> expected = gradients();
  REQUIRE(expected.size() == 4);
  std::atomic<int> wrong{0};
  in_threads(4, [&](int) {
    for (int i = 0; i < 500; ++i) {
      const std::vector<Tensor> got = gradients();
      if (got.size() != 4 || !same_bits(got[0], expected[0]) || !same_bits(got[1], expected[1])) ++wrong;
    }
  });
  CHECK(wrong == 0);
  CHECK_FALSE((w.has_grad() || b.has_grad()));
}

TEST_CASE("the backwards of several threads all add to the gradients of shared leaves", "[threads]") {
  const ThreadCount one(1);
  const Tensor w = here::ones({64}, {.dtype = DType::f64}).requires_grad(true),
               v = w.clone().requires_grad(true);
  const Tensor given = here::zeros({64}, w.options());
  w.set_grad(given);
  const int threads = 4, steps = 500;
  in_threads(threads, [&](int thread) {
    for (int i = 0; i < steps; ++i) {
      Tape tape;
      tape.backward(sum(w * double(thread + 1) + v));
    }
  });
  CHECK(values(w.grad()) == std::vector<double>(64, steps * (1 + 2 + 3 + 4)));  // whole numbers: no rounding
  CHECK(values(v.grad()) == std::vector<double>(64, steps * threads));
}

TEST_CASE("threads check the gradients of functions of one model", "[threads]") {
  const ThreadCount one(1);
  const Tensor w = randn({3}, 1).requires_grad(true), grad = randn({3}, 2);
  w.set_grad(grad);
  std::atomic<int> wrong{0};
  in_threads(3, [&](int thread) {
    const auto fn = [&](std::span<const Tensor> in) { return dropout(tanh(in[0] * w), 0.25) * w; };
    for (int i = 0; i < 10; ++i) {
      if (!gradcheck(fn, {randn({2, 3}, uint64_t(thread))}).ok) ++wrong;
    }
  });
  CHECK(wrong == 0);
  CHECK(w.grad().id() == grad.id());
  CHECK(same_bits(grad, randn({3}, 2)));
}

TEST_CASE("a tensor that ops in two threads hand out stays a constant", "[threads]") {
  const ThreadCount one(1);
  const Tensor held = randn({2}, 1);
  in_threads(2, [&](int) {
    const Tensor x = randn({2}, 2).requires_grad(true);
    for (int i = 0; i < 500; ++i) {
      Tape tape;
      tape.backward(sum(apply<Constant>(x, &held)));
    }
  });
  const Tensor x = randn({2}, 2).requires_grad(true);
  Tape tape;
  const Tensor y = apply<Constant>(x, &held);
  CHECK(y.is(held));
  CHECK_NOTHROW(held.requires_grad(true));  // refused for results
}

TEST_CASE("threads generate from, and evaluate, one model in eval mode", "[threads]") {
  const ThreadCount one(1);
  for (const bool quantized : {false, true}) {
    CAPTURE(quantized);
    manual_seed(1);
    models::GPT model = on_device(models::GPT(
        {.n_layer = 2, .n_head = 2, .n_embd = 16, .block_size = 8, .vocab_size = 11, .dropout = 0.1}));
    const Tensor prompt = here::from({1, 2, 3}, {3}), ids = here::from({5, 6, 7, 8}, {1, 4});
    if (quantized) {
      fp8::quantize_model(model, fp8::E4M3,
                          {.input_format = fp8::E4M3, .rounding = fp8::Rounding::stochastic});
      model.loss(ids, ids);  // histories to scale by
    }
    model.eval();
    const auto use = [&] {
      manual_seed(7);
      model.eval();
      Generator generator(3);
      const Tensor tokens = model.generate(prompt, 12, {.generator = &generator});
      return std::pair(tokens, model.loss(ids, ids));
    };
    const auto [tokens, loss] = use();
    std::atomic<int> wrong{0};
    in_threads(3, [&, tokens = tokens, loss = loss](int) {
      for (int i = 0; i < 5; ++i) {
        const auto [t, l] = use();
        if (!same_bits(t, tokens) || !same_bits(l, loss)) ++wrong;
      }
    });
    CHECK(wrong == 0);
    CHECK_FALSE(model.training());
  }
}

TEST_CASE("a tape may end in another thread", "[threads]") {
  const ThreadCount one(1);
  const Tensor x = here::full({}, 3, {.dtype = DType::f64}).requires_grad(true);
  auto outer = std::make_unique<Tape>(), inner = std::make_unique<Tape>();
  Tape* const address = inner.get();
  CHECK(Tape::current() == address);
  SECTION("the innermost") {
    in_thread([&] { inner.reset(); });
    CHECK(Tape::current() == outer.get());
    outer->backward(x * x);
    CHECK(x.grad().item<double>() == 6);
  }
  SECTION("another one") {
    const Tensor y = x * x;
    in_thread([&] { outer.reset(); });
    CHECK(Tape::current() == address);
    inner->backward(y);
    CHECK(x.grad().item<double>() == 6);
  }
  SECTION("having run backward there") {
    const Tensor y = x * x;
    in_thread([&] {
      CHECK(Tape::current() == nullptr);
      inner->backward(y);
      inner.reset();
      Tape own;
      own.backward(x * 10.0);
    });
    CHECK(x.grad().item<double>() == 6 + 10);
    const Tensor constant = y * 2.0;  // its tape is gone
    CHECK(outer->num_ops() == 0);
  }
  SECTION("after its own thread") {
    std::unique_ptr<Tape> made;
    Tensor y;
    in_thread([&] {
      const NoGrad off;
      made = std::make_unique<Tape>();
      y = x * x;
    });
    made->backward(y);
    made.reset();
    CHECK(x.grad().item<double>() == 6);
    CHECK(Tape::current() == address);
  }
}

TEST_CASE("tapes that another thread ends neither pile up nor stay in their thread's way", "[threads]") {
  const ThreadCount one(1);
  const Tensor x = here::full({}, 3, {.dtype = DType::f64}).requires_grad(true);
  std::unique_ptr<Tape> last;
  for (int i = 0; i < 300; ++i) {  // the new one begins before the last one ends
    auto tape = std::make_unique<Tape>();
    const Tensor y = x * x;
    in_thread([&] { last.reset(); });
    CHECK(Tape::current() == tape.get());
    tape->backward(y);
    last = std::move(tape);
  }
  last.reset();
  CHECK(Tape::current() == nullptr);
  CHECK(x.grad().item<double>() == 300 * 6);

  // The thread that ends them does not keep their memory: it has no end of them.
  std::vector<std::unique_ptr<Tape>> tapes;
  const auto make = [&] {
    for (int i = 0; i < 100; ++i) {
      tapes.push_back(std::make_unique<Tape>());
      const Tensor y = x * x;
    }
  };
  make();
  in_thread([&] {
    tapes.clear();
    const int64_t before = heap_allocations();
    Tape own;
    CHECK(heap_allocations() > before);
  });
}

TEST_CASE("a NoGrad that ends in another thread gives recording back", "[threads]") {
  const Tensor x = randn({2}).requires_grad(true);
  Tape tape;
  auto off = std::make_unique<NoGrad>();
  CHECK(Tape::current() == nullptr);
  in_thread([&] { off.reset(); });
  CHECK(Tape::current() == &tape);
  const Tensor y = x * x;
  CHECK(tape.num_ops() == 1);
}

TEST_CASE("thread_local tapes end with their thread", "[threads]") {
  const ThreadCount one(1);
  const Tensor x = here::full({}, 3, {.dtype = DType::f64}).requires_grad(true);
  // One that is there before the thread's first tape ends after all that the library keeps for the thread.
  struct AtEnd {
    const Tensor* x = nullptr;
    std::unique_ptr<Tape> kept;
    ~AtEnd() {
      kept.reset();
      Tape tape;
      tape.backward(*x * *x);
    }
  };
  for (int i = 0; i < 3; ++i) {
    in_thread([&] {
      static thread_local AtEnd end;
      end.x = &x;
      end.kept = std::make_unique<Tape>();
      static thread_local Tape tape;
      tape.backward(x * 5.0);
    });
  }
  CHECK(x.grad().item<double>() == 3 * (5 + 6));
}

TEST_CASE("a repeated step with many leaves asks the heap for nothing", "[threads]") {
  if (!device().is_cpu()) SKIP_TEST("a launch of the simulated device takes memory of the host");
  std::vector<Tensor> leaves;
  for (int i = 0; i < 300; ++i) leaves.push_back(randn({1}, uint64_t(i)).requires_grad(true));
  const auto step = [&](size_t n) {
    Tape tape;
    Tensor y = leaves[0];
    for (size_t i = 0; i < n; ++i) y = y + leaves[i] * leaves[n - 1 - i];
    tape.backward(y);
    if (tape.leaves().size() != n) throw std::logic_error("leaves");
    for (const Tensor& leaf : leaves) leaf.set_grad({});
  };
  step(300);
  const int64_t before = heap_allocations();
  step(300);
  step(3);
  CHECK(heap_allocations() - before == 2 * 1);  // leaves() itself gives a vector
}
