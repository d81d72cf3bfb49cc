// Kernels run as on a GPU: right results, with the same bits in any order of threads and blocks, at odd sizes. And
// that the orders are what they say.
#include "kernels.h"

#include <simulator/simulator.h>

#include <cmath>
#include <numeric>
#include <set>

#include "buffer.h"
#include "catch.h"

using namespace altgrad;
using simulator::settings;

namespace {

struct Order {
  explicit Order(uint64_t order) { settings().order = order; }
  ~Order() { settings().order = simulator::ascending; }
};

std::vector<float> numbers(size_t n) {
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = std::sin(float(i) * 1.7f) * float(1 + i % 13);
  return values;
}

// What run() gives in each of four orders; the same bits in all.
template <class F>
auto in_all_orders(F&& run) {
  const Order first(simulator::ascending);
  const auto expected = run();
  for (const uint64_t order : {simulator::descending, uint64_t(2), uint64_t(12345)}) {
    CAPTURE(order);
    const Order o(order);
    CHECK(run() == expected);
  }
  return expected;
}

}  // namespace

TEST_CASE("elementwise kernels, at sizes around a block's", "[kernels]") {
  for (const size_t n : {1, 31, 128, 129, 1000}) {
    const std::vector<float> x = numbers(n);
    std::vector<float> expected = numbers(n);
    for (size_t i = 0; i < n; ++i) expected[i] += 0.5f * x[i];
    const Buffer<float> dx(x), y(n);
    for (const auto f : {cuda::axpy, cuda::axpy_by_lambda}) {
      const auto got = in_all_orders([&] {
        y.set(x);
        f(y, dx, 0.5f, int64_t(n), nullptr);
        return y.host();
      });
      for (size_t i = 0; i < n; ++i) REQUIRE(got[i] == Approx(expected[i]));
    }
  }
}

TEST_CASE("sums of blocks have the same bits in any order", "[kernels]") {
  for (const int threads : {32, 96, 256}) {
    for (const size_t n : {1, 33, 1000}) {
      const size_t rows = 5;
      const std::vector<float> x = numbers(rows * n);
      const Buffer<float> dx(x), y(rows);
      const auto got = in_all_orders([&] {
        cuda::row_sums<float>(y, dx, int64_t(rows), int64_t(n), threads);
        return y.host();
      });
      for (size_t r = 0; r < rows; ++r) {
        const double sum = std::accumulate(x.begin() + long(r * n), x.begin() + long((r + 1) * n), 0.0);
        CHECK(got[r] == Approx(sum).margin(1e-3));
      }
    }
  }
}

TEST_CASE("threads hand values on through shared memory, arrays and dynamic", "[kernels]") {
  const std::vector<float> x = numbers(3 * 128);
  const Buffer<float> dx(x), y(x.size());
  for (const bool dynamic : {false, true}) {
    const auto got = in_all_orders([&] {
      cuda::turn(y, dx, 3, dynamic);
      return y.host();
    });
    for (size_t i = 0; i < x.size(); ++i) REQUIRE(got[i] == x[i / 128 * 128 + (i + 1) % 128]);
  }
}

TEST_CASE("lanes of a warp exchange values, through memory and by shuffles", "[kernels]") {
  std::vector<int> x(32), expected(32);
  for (int i = 0; i < 32; ++i) x[size_t(i)] = i * i % 17 - 5;
  std::partial_sum(x.begin(), x.end(), expected.begin());
  const Buffer<int> dx(x), y(32), all(192);
  for (const auto scan : {cuda::scan_by_memory, cuda::scan_by_shuffles}) {
    CHECK(in_all_orders([&] {
            scan(y, dx, nullptr);
            return y.host();
          }) == expected);
  }
  const auto got = in_all_orders([&] {
    cuda::votes(all, dx);
    return all.host();
  });
  unsigned positive = 0;
  for (int i = 0; i < 32; ++i) positive |= unsigned(x[size_t(i)] > 0) << i;
  for (size_t i = 0; i < 32; ++i) {
    CHECK(got[i] == x[(i + 1) % 32]);
    CHECK(got[32 + i] == x[i ^ 5]);
    CHECK(got[64 + i] == x[i + 3 < 32 ? i + 3 : i]);
    CHECK(unsigned(got[96 + i]) == positive);
    CHECK(got[128 + i] == 1);
    CHECK(got[160 + i] == 0);
  }
}

TEST_CASE("atomics count each thread once", "[kernels]") {
  std::vector<unsigned> x(1000);
  std::iota(x.begin(), x.end(), 1u);
  const Buffer<unsigned> dx(x), counts(4);
  CHECK(in_all_orders([&] {
          counts.set({0, 0, 0, 0});
          cuda::count(counts, dx, 1000);
          return counts.host();
        }) == std::vector<unsigned>{500500, 1000, 7, 1000});
}

TEST_CASE("asynchronous copies have come when the thread has waited, and not before", "[kernels]") {
  const std::vector<float> x = numbers(256);
  const Buffer<float> dx(x), y(256);
  CHECK(in_all_orders([&] {
          cuda::copy_through_shared(y, dx, true);
          return y.host();
        }) == x);
  cuda::copy_through_shared(y, dx, false);
  const std::vector<float> early = y.host();
  CHECK(std::equal(x.begin(), x.begin() + 128, early.begin()));
  CHECK(std::isnan(early[128]));
}

TEST_CASE("grids and blocks of three dimensions", "[kernels]") {
  const Buffer<int64_t> y(2 * 3 * 4 * 64);
  const auto got = in_all_orders([&] {
    cuda::number_threads(y, dim3(2, 3, 4), dim3(4, 8, 2));
    return y.host();
  });
  for (size_t i = 0; i < got.size(); ++i) REQUIRE(got[i] == int64_t(i));
}

TEST_CASE("threads and blocks get their turns ascending, descending, or at random from a seed", "[kernels]") {
  const Buffer<unsigned> y(4 * 64), counter(1);
  const auto tickets = [&](uint64_t order) {
    const Order o(order);
    counter.set({0});
    cuda::take_tickets(y, counter, 4, 64);
    return y.host();
  };
  std::vector<unsigned> ascending(4 * 64);
  std::iota(ascending.begin(), ascending.end(), 0u);
  CHECK(tickets(simulator::ascending) == ascending);
  CHECK(tickets(simulator::descending) == std::vector<unsigned>(ascending.rbegin(), ascending.rend()));
  std::set<std::vector<unsigned>> random;
  for (const uint64_t seed : {2, 3, 4}) {
    random.insert(tickets(seed));
    CHECK(tickets(seed) == tickets(seed));
  }
  CHECK(random.size() == 3);
}

TEST_CASE("a warp gets ahead of the others as far as barriers let it", "[kernels]") {
  const Buffer<unsigned> y(4 * 8), counter(1);
  for (const uint64_t order : {simulator::ascending, simulator::descending, uint64_t(2), uint64_t(3)}) {
    const Order o(order);
    counter.set({0});
    cuda::take_warp_tickets(y, counter, 4);
    const std::vector<unsigned> warps = y.host();
    for (size_t i = 0; i < warps.size(); ++i) CHECK(warps[i] == warps[i / 8 * 8]);
  }
}

TEST_CASE("limits of sm_80: blocks, grids and shared memory", "[kernels]") {
  const auto refused = [](dim3 grid, dim3 block, size_t bytes = 0) {
    try {
      cuda::launch_empty(grid, block, bytes);
    } catch (const simulator::Error&) {
      return true;
    }
    return false;
  };
  CHECK_FALSE(refused(1, 1024));
  CHECK(refused(1, 1056));
  CHECK(refused(1, 33));
  CHECK(refused(1, dim3(1, 1, 96)));
  CHECK_FALSE(refused(dim3(1, 65535), 32));
  CHECK(refused(dim3(1, 65536), 32));
  CHECK(refused(dim3(1, 1, 65536), 32));
  CHECK(refused(1, 32, (48 << 10) + 1));
  REQUIRE(cuda::allow_shared(100 << 10) == cudaSuccess);
  CHECK_FALSE(refused(1, 32, 100 << 10));
  CHECK(refused(1, 32, (100 << 10) + 1));
  CHECK(cuda::allow_shared((163 << 10) + 1) == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
}

TEST_CASE("a product by tensor cores is exact where its sums are", "[kernels]") {
  const int m = 64, n = 96, k = 80;
  const auto bf16 = [](int x) { return uint16_t(std::bit_cast<uint32_t>(float(x) / 128) >> 16); };
  std::vector<uint16_t> a, b;
  std::vector<float> expected(size_t(m * n));
  const auto of_a = [](int i, int p) { return (i * 37 + p * 11) % 255 - 127; };
  const auto of_b = [](int j, int p) { return (j * 53 + p * 29 + 7) % 255 - 127; };
  for (int i = 0; i < m * k; ++i) a.push_back(bf16(of_a(i / k, i % k)));
  for (int j = 0; j < n * k; ++j) b.push_back(bf16(of_b(j / k, j % k)));
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < n; ++j) {
      int sum = 0;
      for (int p = 0; p < k; ++p) sum += of_a(i, p) * of_b(j, p);
      expected[size_t(i * n + j)] = float(sum) / (128 * 128);
    }
  }
  const Buffer<uint16_t> da(a), db(b);
  const Buffer<float> c(expected.size());
  CHECK(in_all_orders([&] {
          cuda::matmul_bf16(c, da, db, m, n, k);
          return c.host();
        }) == expected);
}
