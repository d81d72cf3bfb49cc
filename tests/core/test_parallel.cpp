// Loops shared among threads: every index once, errors out of any thread, and sums over rows against plain loops.
#include <altgrad/autograd/ops.h>
#include <altgrad/core/cpu/parallel.h>

#include "reference.h"
#include "thread_count.h"

#include <atomic>
#include <stdexcept>

using namespace altgrad;
using reference::randn;

namespace {

template <class F>
void on_threads(F&& f) {
  for (const int threads : {1, 2, 3, 5}) {
    const ThreadCount count(threads);
    CAPTURE(threads);
    f();
  }
}

}  // namespace

TEST_CASE("parallel loops do each index once", "[parallel]") {
  on_threads([] {
    for (const int64_t n : {0, 1, 2, 5, 64, 127, 1000}) {
      std::vector<std::atomic<int>> pieces(n), tasks(n);
      parallel_for(n, 7, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) ++pieces[i];
      });
      parallel_tasks(n, [&](int64_t i) { ++tasks[i]; });
      CAPTURE(n);
      for (int64_t i = 0; i < n; ++i) REQUIRE((pieces[i] == 1 && tasks[i] == 1));
    }
  });
}

TEST_CASE("an error in a parallel loop reaches the caller", "[parallel]") {
  on_threads([] {
    const auto last = [](int64_t end) {
      if (end == 100) throw std::runtime_error("the last one");
    };
    CHECK_THROWS_WITH(parallel_for(100, 1, [&](int64_t, int64_t end) { last(end); }), "the last one");
    CHECK_THROWS_WITH(parallel_tasks(100, [&](int64_t i) { last(i + 1); }), "the last one");
  });
}

TEST_CASE("sums over rows are those of plain loops, however they are cut", "[parallel][reduce]") {
  for (const auto& [rows, n] : std::vector<std::pair<int64_t, int64_t>>{
           {40, 513}, {300, 130}, {2100, 64}, {64, 1000}, {63, 1000}, {7, 3000}}) {
    const Tensor x = randn({rows, n}, 1), dy = randn({rows, n}, 2);
    const auto plain = [&, rows = rows, n = n](auto term) {
      std::vector<double> sums(n);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < n; ++c) sums[c] += term(r, c);
      }
      return sums;
    };
    const std::vector<double> v = values(x), g = values(dy);
    std::vector<double> mean(rows), rstd(rows), rms(rows);
    for (int64_t r = 0; r < rows; ++r) {
      double squares = 0, variance = 0;
      for (int64_t c = 0; c < n; ++c)
        mean[r] += v[r * n + c] / double(n), squares += v[r * n + c] * v[r * n + c];
      for (int64_t c = 0; c < n; ++c) variance += (v[r * n + c] - mean[r]) * (v[r * n + c] - mean[r]);
      rstd[r] = 1 / std::sqrt(variance / double(n) + 1e-5),
      rms[r] = 1 / std::sqrt(squares / double(n) + 1e-5);
    }
    const std::vector<double> sums = plain([&, n = n](int64_t r, int64_t c) { return v[r * n + c]; });
    const std::vector<double> db = plain([&, n = n](int64_t r, int64_t c) { return g[r * n + c]; });
    const std::vector<double> dw =
        plain([&, n = n](int64_t r, int64_t c) { return g[r * n + c] * (v[r * n + c] - mean[r]) * rstd[r]; });
    const std::vector<double> dw_rms =
        plain([&, n = n](int64_t r, int64_t c) { return g[r * n + c] * v[r * n + c] * rms[r]; });
    on_threads([&, rows = rows, n = n] {
      const auto off = [](const Tensor& got, const std::vector<double>& expected) {
        return reference::distance(got.to(DType::f64), Tensor::from(expected, got.shape()));
      };
      CAPTURE(rows, n);
      CHECK(off(sum(x, {0}), sums) < 1e-12);
      const Tensor w = Tensor::ones({n}, {.dtype = DType::f64}).requires_grad(true),
                   b = Tensor::zeros({n}, {.dtype = DType::f64}).requires_grad(true),
                   w2 = Tensor::ones({n}, {.dtype = DType::f64}).requires_grad(true);
      Tape layer;
      layer.backward(layer_norm(x, w, b, 1e-5), dy);
      Tape root;
      root.backward(rms_norm(x, w2, 1e-5), dy);
      CHECK(off(w.grad(), dw) < 1e-12);
      CHECK(off(b.grad(), db) < 1e-12);
      CHECK(off(w2.grad(), dw_rms) < 1e-12);
    });
  }
}
