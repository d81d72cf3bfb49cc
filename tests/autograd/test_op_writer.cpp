// What an op with kernels of its own is written with (autograd/op_writer.h), by way of an op that is not the library's.
#include <altgrad/altgrad.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <vector>

#include "catch.h"
#include "errors.h"
#include "reference.h"
#include "thread_count.h"
#include "values.h"

using namespace altgrad;

namespace {

// y = a x + b, with a (n), b (n) or null
template <class T>
void scaled_kernel(const Cpu&, T* y, const T* x, const T* a, const T* b, int64_t rows, int64_t n) {
  parallel_for(rows, 1, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin * n; i < end * n; ++i) y[i] = a[i % n] * x[i] + (b ? b[i % n] : T(0));
  });
}

struct Scaled final : Op {
  static constexpr const char* name = "scaled";
  Tensor x, a;
  bool has_b = false;

  Tensor forward(const Tensor& x_in, const Tensor& a_in, const std::optional<Tensor>& b) {
    x = x_in, a = a_in, has_b = b.has_value();
    return run(x, b);
  }
  void backward(const Tensor& dy, Grads& d) override {
    d.add(0, run(dy, {}));
    if (d.needs(1)) d.add(1, reduce_to_shape(dy * x, a.shape()));
    if (has_b) d.add(2, reduce_to_shape(dy, a.shape()));
  }
  Tensor run(const Tensor& in, const std::optional<Tensor>& b) const {
    Tensor y = Tensor::empty(in.shape(), in.options());
    launch(name, AG_KERNEL(scaled_kernel), y, in, a, b, in.shape().product(0, in.dim() - 1), a.numel());
    return y;
  }
};

Tensor scaled(const Tensor& x, const Tensor& a, const std::optional<Tensor>& b = {}) {
  check_same_kind("scaled", x, a);
  check_floating("scaled", x);
  return apply<Scaled>(x, a, b);
}

}  // namespace

TEST_CASE("an op with a kernel of its own has values and gradients in each floating dtype", "[op_writer]") {
  if (!device().is_cpu()) SKIP_TEST("its kernel is for the CPU");
  for (const DType dtype : {DType::f32, DType::f64}) {
    const Tensor x = Tensor::randn({3, 5, 4}, {dtype}), a = Tensor::randn({4}, {dtype}),
                 b = Tensor::randn({4}, {dtype});
    const Tensor difference = abs(scaled(x, a, b) - (x * a + b)) + abs(scaled(x, a) - x * a);
    CHECK(max(difference).item<double>() < 1e-6);
  }
  const TensorOptions f64{DType::f64};
  const auto check =
      gradcheck([](std::span<const Tensor> in) { return scaled(in[0], in[1], in[2]); },
                {Tensor::randn({3, 2, 4}, f64), Tensor::randn({4}, f64), Tensor::randn({4}, f64)});
  INFO(check.message);
  CHECK(check.ok);
}

TEST_CASE("the checks of an op name it and what is wrong", "[op_writer]") {
  const Tensor x = here::ones({2, 3});
  CHECK(throws([&] { scaled(x, x.to(DType::f64)); }, {"scaled: dtypes differ", "f32 (2, 3)", "f64 (2, 3)"}));
  CHECK(throws([&] { scaled(x, Tensor()); }, {"scaled: an input is an empty tensor"}));
  const Tensor ids = x.to(DType::i64), stored = x.to(DType::bf16);
  CHECK(throws([&] { scaled(ids, ids); }, {"scaled: needs a floating dtype, got i64 of shape (2, 3)"}));
  CHECK(throws([&] { scaled(stored, stored); },
               {"scaled: computes in f32 and f64", ".to(DType::f32)", "(2, 3)"}));
  const Tensor on_cpu = host(ids);  // where the kernel is
  CHECK(throws([&] { launch("scaled", AG_KERNEL(scaled_kernel), on_cpu, on_cpu, on_cpu, on_cpu, 2, 3); },
               {"scaled: needs a floating dtype, got i64"}));
  CHECK(throws([&] { launch("scaled", AG_KERNEL(scaled_kernel), x, x, ids, x, 2, 3); },
               {"scaled: dtypes differ", "f32 (2, 3)", "i64 (2, 3)"}));
  CHECK(throws(
      [] {
        launch(
            "scaled", [](auto...) {}, Tensor(), 1);
      },
      {"scaled: launch needs a tensor"}));
}

TEST_CASE("reduce_to_shape sums what broadcasting repeats, and only that", "[op_writer]") {
  const Tensor x = here::arange(24, {DType::f64}).reshape({2, 3, 4});
  CHECK(reduce_to_shape(x, {2, 3, 4}).is(x));
  for (const Shape& shape : {Shape{4}, Shape{3, 1}, Shape{2, 1, 4}, Shape{1, 1, 1}, Shape{}}) {
    Tensor expected = x;
    for (int axis = 0; axis < 3; ++axis) {
      const int own = axis - (3 - shape.dim());
      if (own < 0 || shape[own] == 1) expected = sum(expected, {axis}, true);
    }
    CAPTURE(shape);
    CHECK(values(reduce_to_shape(x, shape)) == values(expected.reshape(shape)));
  }
  for (const Shape& shape : {Shape{5}, Shape{3, 4, 2}, Shape{5, 2, 3, 4}, Shape{4, 3, 2, 1}}) {
    CAPTURE(shape);
    CHECK(throws([&] { reduce_to_shape(x, shape); }, {"reduce_to_shape", concat(shape)}));
  }
}

TEST_CASE("parallel_for gives each index to one piece and passes an exception on", "[op_writer]") {
  if (!device().is_cpu()) SKIP_TEST("threads are the CPU's");
  for (const int threads : {1, 3}) {
    const ThreadCount count(threads);
    std::vector<std::atomic<int>> calls(1000);
    const std::function<void(int64_t, int64_t)> f = [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ++calls[size_t(i)];
    };
    parallel_for(1000, 10, f);
    CHECK(std::all_of(calls.begin(), calls.end(), [](const auto& n) { return n == 1; }));
    const std::function<void(int64_t, int64_t)> bad = [](int64_t, int64_t) { fail("a bad piece"); };
    CHECK(throws([&] { parallel_for(1000, 10, bad); }, {"a bad piece"}));
  }
}

TEST_CASE("copied copies, and no tape records it", "[op_writer]") {
  const Tensor x = here::from({1.5f, -2.f}, {2});
  x.requires_grad(true);
  Tape tape;
  const Tensor same = x.copied(), wide = x.copied({DType::f64});
  CHECK(tape.num_ops() == 0);
  CHECK_FALSE(same.is(x));
  CHECK_FALSE(same.requires_grad());
  CHECK_FALSE(same.is_recorded());
  CHECK((x * 2.0).is_recorded());
  CHECK(values(same) == std::vector<double>{1.5, -2});
  CHECK(wide.dtype() == DType::f64);
  CHECK(values(wide) == std::vector<double>{1.5, -2});
}
