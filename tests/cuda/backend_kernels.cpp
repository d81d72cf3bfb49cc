// Kernels of the simulated device by themselves: wherever memory begins, and in every type that they store.
#include <altgrad/altgrad.h>
#include <altgrad/core/dispatch.h>
#include <altgrad/core/internal/functors.h>
#include <altgrad/core/internal/kernels/elementwise.h>
#include <altgrad/core/internal/kernels/gather.h>
#include <altgrad/core/internal/kernels/random.h>
#include <altgrad/core/internal/kernels/reduce.h>
#include <altgrad/core/internal/kernels/rows.h>

#include <simulator/simulator.h>

#include "catch.h"
#include "changed.h"
#include "values.h"

using namespace altgrad;

namespace {

// What kernels make of (rows, n) numbers that bf16 holds, stored as T, `offset` elements behind where memory begins.
template <class T>
std::vector<Tensor> results_of_kernels(int64_t rows, int64_t n, int64_t offset) {
  using C = Compute<T>;
  Generator generator(11);
  std::vector<Tensor> results;
  const auto behind = [&](const Tensor& t) { return cat({here::zeros({offset}), t}, 0); };
  const auto in = [&](int64_t count, DType dtype) {
    const Tensor numbers = here::randn({count}, {}, generator).to(DType::bf16).to(DType::f32);
    return behind(numbers).to(dtype);
  };
  const auto ids = [&](int64_t high) {
    return cat({here::zeros({offset}).to(DType::i64), Tensor::randint(high, {rows}, device(), generator)}, 0);
  };
  const DType stored = dtype_of<T>, computed = dtype_of<C>;
  const auto at = [&]<class U>(const Tensor& t, U*) { return t.ptr<U>() + offset; };
  const auto run = [&](int64_t count, DType dtype, auto kernel) {
    const Tensor y = behind(here::full({count}, 7)).to(dtype);
    dispatch_device(device(), [&](const auto& on) {
      if constexpr (std::is_same_v<decltype(on), const Cuda&>) kernel(on, y);
    });
    results.push_back(y.to(DType::f64).narrow(0, offset, count));
  };
  T* const t = nullptr;
  C* const c = nullptr;
  int64_t* const i = nullptr;

  const int64_t all = rows * n;
  const Tensor x = in(all, stored), dy = in(all, stored), w = in(n, computed), b = in(n, computed);
  const Tensor targets = ids(n), one = here::ones({}, {computed}),
               moments = here::empty({rows * 3}, {computed}), lse = here::empty({rows * 2}, {computed}),
               rstd = here::empty({rows}, {computed});
  auto* const means = reinterpret_cast<kernels::Moments<C>*>(moments.ptr<C>());
  auto* const sums = reinterpret_cast<kernels::LogSumExp<C>*>(lse.ptr<C>());
  namespace k = kernels;
  run(all, stored, [&](auto& on, auto& y) { k::unary(on, GeluTanh(), at(y, t), at(x, t), all); });
  run(all, stored,
      [&](auto& on, auto& y) { k::unary_grad(on, GeluErf(), at(y, t), at(dy, t), at(x, t), all); });
  run(all, stored, [&](auto& on, auto& y) { k::unary_grad(on, Silu(), at(y, t), at(dy, t), at(x, t), all); });
  run(all, stored, [&](auto& on, auto& y) {
    k::LoopNest rows_of_x;
    rows_of_x.add_loop(rows, n, 0);
    rows_of_x.add_loop(n, 1, 1);
    k::binary_grad<Mul, T>(on, Mul(), nullptr, at(y, t), at(dy, t), at(x, t), at(dy, t), rows_of_x);
  });
  run(all, stored, [&](auto& on, auto& y) { k::axpy(on, at(y, t), at(x, t), 0.5, all); });
  run(all, stored, [&](auto& on, auto& y) { k::dropout(on, at(y, t), at(x, t), 0.3, {3, 4}, all); });
  run(all, stored, [&](auto& on, auto& y) { k::softmax(on, at(y, t), at(x, t), rows, n); });
  run(all, stored, [&](auto& on, auto& y) { k::softmax_grad(on, at(y, t), at(dy, t), at(x, t), rows, n); });
  run(all, stored, [&](auto& on, auto& y) { k::log_softmax(on, at(y, t), at(x, t), rows, n); });
  run(all, stored,
      [&](auto& on, auto& y) { k::log_softmax_grad(on, at(y, t), at(dy, t), at(x, t), rows, n); });
  run(all, stored, [&](auto& on, auto& y) {
    k::layer_norm(on, at(y, t), means, at(x, t), at(w, c), at(b, c), rows, n, 1e-5);
  });
  for (const double beta : {0.0, 1.0}) {
    run(all, stored, [&](auto& on, auto& y) {
      k::layer_norm_grad<T>(on, at(y, t), beta, nullptr, nullptr, at(dy, t), at(x, t), means, at(w, c), rows,
                            n);
    });
  }
  run(n, computed, [&](auto& on, auto& y) {
    k::layer_norm_grad<T>(on, nullptr, 0, at(y, c), nullptr, at(dy, t), at(x, t), means, at(w, c), rows, n);
  });
  run(n, computed, [&](auto& on, auto& dw) {
    const Tensor dx = behind(here::ones({all})).to(stored), db = behind(here::full({n}, 7)).to(computed);
    k::layer_norm_grad<T>(on, at(dx, t), 1, at(dw, c), at(db, c), at(dy, t), at(x, t), means, at(w, c), rows,
                          n);
    results.push_back(dx.to(DType::f64).narrow(0, offset, all));
    results.push_back(db.to(DType::f64).narrow(0, offset, n));
  });
  run(all, stored, [&](auto& on, auto& y) {
    k::rms_norm(on, at(y, t), rstd.ptr<C>(), at(x, t), at(w, c), rows, n, 1e-5);
  });
  run(all, stored, [&](auto& on, auto& y) {
    k::rms_norm_grad<T>(on, at(y, t), 0, nullptr, at(dy, t), at(x, t), rstd.ptr<C>(), at(w, c), rows, n);
  });
  run(rows, computed, [&](auto& on, auto& y) {
    k::cross_entropy(on, at(y, c), sums, at(x, t), at(targets, i), rows, n, -1);
  });
  run(all, stored, [&](auto& on, auto& y) {
    k::cross_entropy_grad(on, at(y, t), one.ptr<C>(), one.ptr<C>(), at(x, t), sums, at(targets, i), rows, n,
                          -1);
  });
  const Tensor loss = here::empty({rows}, {computed});
  run(all, stored, [&](auto& on, auto& y) {
    k::cross_entropy_with_grad(on, loss.ptr<C>(), at(y, t), one.ptr<C>(), at(x, t), at(targets, i), rows, n,
                               -1);
  });
  for (const double factor : {1.0, -0.75}) {
    const Tensor c0 = here::full({}, factor, {computed});
    run(all, stored, [&](auto& on, auto& y) {
      k::unary(on, Neg(), at(y, t), at(x, t), all);
      k::scale(on, at(y, t), c0.ptr<C>(), all);
    });
  }
  run(n, computed, [&](auto& on, auto& y) { k::sum<T>(on, at(y, c), at(x, t), 1, rows, n, 3); });
  run(rows, computed, [&](auto& on, auto& y) { k::sum<T>(on, at(y, c), at(x, t), rows, n, 1, 1); });
  if constexpr (std::is_same_v<T, C>) {
    for (const int64_t high : {int64_t(3), rows}) {
      const Tensor from = ids(high);
      run(high * n, stored, [&](auto& on, auto& y) {
        k::gather_grad(on, at(y, t), 1.0, at(dy, t), at(from, i), 1, high, rows, n);
      });
    }
  }
  return results;
}

// Rows of a warp and of a block, in packs and not, of more blocks than one.
constexpr int64_t row_shapes[][2] = {{1, 1}, {5, 64}, {300, 40}, {3, 65}, {4, 1032}, {2, 4099}};

// Of a loss and its gradient, made at once and one after the other.
template <class T>
void check_loss_with_grad(int64_t rows, int64_t n) {
  using C = Compute<T>;
  const detail::CurrentCuda current(0);
  const Tensor x = here::randn({rows, n}).to(dtype_of<T>), targets = here::randint(n, {rows}),
               one = here::ones({}, {dtype_of<C>}), weight = here::full({}, 0.3, {dtype_of<C>}),
               lse = here::empty({rows, 2}, {dtype_of<C>});
  const int64_t ignore = targets.narrow(0, 0, 1).item<int64_t>();
  const Tensor loss = here::empty({rows}, {dtype_of<C>}), loss_at_once = here::empty({rows}, {dtype_of<C>}),
               dx = here::empty({rows, n}, {dtype_of<T>}), dx_at_once = here::empty({rows, n}, {dtype_of<T>});
  kernels::cross_entropy(current.device(), loss.ptr<C>(),
                         reinterpret_cast<kernels::LogSumExp<C>*>(lse.ptr<C>()), x.ptr<T>(),
                         targets.ptr<int64_t>(), rows, n, ignore);
  kernels::cross_entropy_grad(current.device(), dx.ptr<T>(), one.ptr<C>(), weight.ptr<C>(), x.ptr<T>(),
                              reinterpret_cast<const kernels::LogSumExp<C>*>(lse.ptr<C>()),
                              targets.ptr<int64_t>(), rows, n, ignore);
  kernels::cross_entropy_with_grad(current.device(), loss_at_once.ptr<C>(), dx_at_once.ptr<T>(),
                                   weight.ptr<C>(), x.ptr<T>(), targets.ptr<int64_t>(), rows, n, ignore);
  CHECK(same_bits(loss, loss_at_once));
  CHECK(same_bits(dx, dx_at_once));
}

// Of numbers in [0, 1), so that nothing cancels, against sums in f64. A running sum in f32 of many rows fails.
template <class T>
void check_sums_of_columns(int64_t matrices, int64_t rows, int64_t columns) {
  using C = Compute<T>;
  const detail::CurrentCuda current(0);
  const Tensor x = here::rand({matrices, rows, columns}).to(dtype_of<T>),
               y = here::full({matrices, columns}, 7, {dtype_of<C>});
  kernels::sum(current.device(), y.ptr<C>(), x.ptr<T>(), matrices, rows, columns, 2);
  const std::vector<double> all = values(x.to(DType::f64)), got = values(y.to(DType::f64));
  std::vector<double> expected(got.size());
  for (size_t i = 0; i < all.size(); ++i)
    expected[i / size_t(rows * columns) * size_t(columns) + i % size_t(columns)] += all[i] / 2;
  const double last_bits = std::is_same_v<T, double> ? 1e-13 : 0x1p-22;
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i)
    worst = std::max(worst, std::abs(got[i] - expected[i]) - last_bits * expected[i]);
  CAPTURE(matrices, rows, columns, sizeof(T));
  CHECK(worst <= 0);
}

double largest(const Tensor& t) { return max(altgrad::abs(t)).item<double>(); }

}  // namespace

TEST_CASE("kernels give the same bits wherever memory begins", "[backend]") {
  for (const auto& [rows, n] : row_shapes) {
    const auto f32 = results_of_kernels<float>(rows, n, 0), odd32 = results_of_kernels<float>(rows, n, 1);
    const auto bf16 = results_of_kernels<bfloat16>(rows, n, 0),
               odd16 = results_of_kernels<bfloat16>(rows, n, 1);
    for (size_t i = 0; i < f32.size(); ++i) {
      CAPTURE(rows, n, i);
      CHECK(same_bits(f32[i], odd32[i]));
      if (i < bf16.size()) CHECK(same_bits(bf16[i], odd16[i]));
    }
  }
}

TEST_CASE("kernels give what they give in f64, to the precision of what they store", "[backend]") {
  for (const auto& [rows, n] : row_shapes) {
    const auto f64 = results_of_kernels<double>(rows, n, 0), f32 = results_of_kernels<float>(rows, n, 0),
               bf16 = results_of_kernels<bfloat16>(rows, n, 0);
    for (size_t i = 0; i < f64.size(); ++i) {
      CAPTURE(rows, n, i);
      const double scale = std::max(largest(f64[i]), 1.0);
      CHECK(largest(f32[i] - f64[i]) <= 1e-5 * scale);
      if (i < bf16.size()) CHECK(largest(bf16[i] - f64[i]) <= 0x1p-8 * scale);
    }
  }
}

TEST_CASE("sums of columns are as good as pairwise sums, of any number of rows and columns", "[backend]") {
  const std::vector<std::array<int64_t, 3>> shapes{{1, 1, 1},     {1, 5, 7},       {3, 0, 5},
                                                   {1, 512, 136}, {1, 513, 136},   {2, 1100, 144},
                                                   {5, 700, 3},   {1, 16384, 264}, {1, 100'003, 3}};
  for (const auto& [matrices, rows, columns] : shapes) {
    check_sums_of_columns<float>(matrices, rows, columns);
    check_sums_of_columns<double>(matrices, rows, columns);
    check_sums_of_columns<bfloat16>(matrices, rows, columns);
  }
}

TEST_CASE(
    "a loss that is made with its gradient has the bits of both alone, in rows that are held and longer ones",
    "[backend]") {
  for (const auto& [rows, n] : row_shapes) {
    CAPTURE(rows, n);
    check_loss_with_grad<float>(rows, n);
    check_loss_with_grad<double>(rows, n);
    check_loss_with_grad<bfloat16>(rows, n);
  }
  check_loss_with_grad<float>(2, 30'000);
  check_loss_with_grad<bfloat16>(2, 40'000);
  check_loss_with_grad<bfloat16>(2, 50'304);
}

TEST_CASE("attention is done without tiles of floats where blocks have no shared memory for them",
          "[backend]") {
  for (const auto& [dtype, size] :
       {std::pair{DType::f32, 32}, {DType::f32, 64}, {DType::f32, 128}, {DType::bf16, 36}}) {
    CAPTURE(dtype, size);
    const Tensor qkv = here::randn({2, 33, 3 * size}).to(dtype), dy = here::randn({2, 33, size}).to(dtype);
    const auto run = [&, qkv = qkv, dy = dy] {
      const Tensor x = qkv.clone().requires_grad(true);
      Tape tape;
      const Tensor y = causal_attention(x, 1);
      tape.backward(y, dy);
      const std::pair results(host(y).to(DType::f64), host(x.grad()).to(DType::f64));
      return results;
    };
    const auto [y, dx] = run();
    const Changed changed(simulator::settings().capability, 89);
    const auto [without, dx_without] = run();
    const double tolerance = dtype == DType::f32 ? 1e-5 : 0.05;
    CHECK(max(abs(without - y)).item<double>() < tolerance);
    CHECK(max(abs(dx_without - dx)).item<double>() < tolerance);
  }
}
