// Random numbers: reproducible, independent of threads, of the right distribution.
#include <altgrad/altgrad.h>

#include "catch.h"
#include "thread_count.h"
#include "values.h"

#include <cmath>
#include <set>

using namespace altgrad;

TEST_CASE("philox gives the known answers of Random123 (kat_vectors: all zeros, all ones)", "[core]") {
  using Words = std::array<uint32_t, 4>;
  CHECK(philox({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}) == Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
}

TEST_CASE("the same seed gives the same numbers, whatever the number of threads", "[core]") {
  std::vector<std::vector<double>> runs;
  for (int n : {1, 2, 3}) {
    const ThreadCount threads(n);
    manual_seed(42);
    std::vector<double> run = values<double>(here::randn({30001}, {DType::f64}));
    for (float v : values<float>(here::rand({70001}))) run.push_back(v);
    for (float v : values<float>(dropout(here::ones({50001}), 0.3))) run.push_back(v);
    for (int64_t v : values<int64_t>(here::randint(100, {20001}))) run.push_back(double(v));
    runs.push_back(run);
  }
  CHECK(runs[0] == runs[1]);
  CHECK(runs[0] == runs[2]);
}

TEST_CASE("a generator's state brings its numbers back", "[core]") {
  Generator g(7);
  here::rand({5}, {}, g);
  const auto state = g.state();
  const auto first = values<float>(here::randn({9}, {}, g));
  CHECK(values<float>(here::randn({9}, {}, g)) != first);
  g.set_state(state);
  CHECK(values<float>(here::randn({9}, {}, g)) == first);
  Generator other(8);
  CHECK(values<float>(here::randn({9}, {}, other)) != first);
}

TEST_CASE("a tensor's numbers do not depend on its length", "[core]") {
  for (int64_t n : {1, 2, 3, 5, 8}) {
    Generator a(3), b(3);
    const auto shorter = values<double>(here::randn({n}, {DType::f64}, a));
    auto longer = values<double>(here::randn({100}, {DType::f64}, b));
    longer.resize(size_t(n));
    CHECK(shorter == longer);
  }
}

TEST_CASE("uniform and normal numbers have their moments", "[core]") {
  manual_seed(1);
  const int64_t n = 400000;
  for (DType t : {DType::f32, DType::f64}) {
    const Tensor u = here::rand({n}, {t}).to(DType::f64), z = here::randn({n}, {t}).to(DType::f64);
    double sum = 0, squares = 0, low = 1, high = 0;
    for (double v : values(u)) sum += v, squares += v * v, low = std::min(low, v), high = std::max(high, v);
    CHECK(sum / double(n) == Approx(0.5).margin(5 * 0.2887 / std::sqrt(double(n))));
    CHECK(squares / double(n) == Approx(1.0 / 3).margin(5 * 0.2981 / std::sqrt(double(n))));
    CHECK(low >= 0);
    CHECK(high < 1);
    double m1 = 0, m2 = 0, m3 = 0, m4 = 0, lag = 0, last = 0;
    for (double v : values(z))
      m1 += v, m2 += v * v, m3 += v * v * v, m4 += v * v * v * v, lag += v * last, last = v;
    const double margin = 5 / std::sqrt(double(n));
    CHECK(m1 / double(n) == Approx(0).margin(margin));
    CHECK(m2 / double(n) == Approx(1).margin(margin * std::sqrt(2)));
    CHECK(m3 / double(n) == Approx(0).margin(margin * std::sqrt(15)));
    CHECK(m4 / double(n) == Approx(3).margin(margin * std::sqrt(96)));
    CHECK(lag / double(n) == Approx(0).margin(margin));
  }
}

TEST_CASE("integers are spread evenly below their bound", "[core]") {
  manual_seed(2);
  std::vector<int> counts(7);
  for (int64_t v : values<int64_t>(here::randint(7, {70000}))) {
    REQUIRE(v >= 0);
    REQUIRE(v < 7);
    ++counts[size_t(v)];
  }
  for (int c : counts) CHECK(c == Approx(10000).margin(5 * std::sqrt(10000 * 6 / 7.)));
  CHECK_THROWS_AS(here::randint(0, {3}), std::invalid_argument);
  CHECK_THROWS_AS(here::rand({3}, {DType::i64}), std::invalid_argument);
}
