// Tensors, shapes, memory, printing, Eigen interop.
#include <altgrad/altgrad.h>
#include <altgrad/core/eigen.h>

#include "allocations.h"
#include "catch.h"
#include "errors.h"
#include "values.h"

#include <numeric>
#include <thread>

using namespace altgrad;

namespace {
std::string printed(const Tensor& t) { return concat(t); }
}  // namespace

TEST_CASE("factories give the shape, dtype and values asked for", "[core]") {
  const auto a = here::zeros({2, 3});
  CHECK(a.shape() == Shape{2, 3});
  CHECK(a.dtype() == DType::f32);
  CHECK(a.device() == device());
  CHECK(Tensor::zeros({2, 3}).device() == Device::cpu());
  CHECK(values<float>(a) == std::vector<float>(6, 0.f));
  CHECK(values<double>(Tensor::full({3}, 0.5, {.dtype = DType::f64, .device = device()})) ==
        std::vector<double>{0.5, 0.5, 0.5});
  CHECK(values<int64_t>(here::arange(4)) == std::vector<int64_t>{0, 1, 2, 3});
  CHECK(values<uint8_t>(here::ones({2}, {DType::u8})) == std::vector<uint8_t>{1, 1});
  CHECK(Tensor::from({1, 2, 3}, {3}).dtype() == DType::i64);
  CHECK(Tensor::from({1., 2.}, {2}).dtype() == DType::f64);
  const std::vector<float> source{1, 2, 3, 4};
  CHECK(values<float>(Tensor::from(source, {2, 2})) == source);
  CHECK(values<float>(Tensor::from(std::span(source), {4})) == source);
  CHECK(here::zeros({}).numel() == 1);
  CHECK(here::zeros({0, 5}).numel() == 0);
  CHECK_THROWS_WITH(Tensor::from({1.f, 2.f}, {3}), "from: 2 values do not fill shape (3)");
}

TEST_CASE("tensors are 64-byte aligned handles that share a body", "[core]") {
  CHECK(sizeof(Tensor) == sizeof(void*));
  for (int64_t n : {1, 3, 17, 1000, 70000})
    CHECK(reinterpret_cast<uintptr_t>(here::zeros({n}).raw()) % 64 == 0);
  const auto a = Tensor::zeros({2, 2});
  const Tensor b = a;
  b.data<float>()[3] = 5;
  CHECK(a.data<float>()[3] == 5);
  CHECK(a.is(b));
  CHECK(a.reshape({4}).is(a));
  CHECK_FALSE(a.clone().is(a));
}

TEST_CASE("element access checks dtype and number", "[core]") {
  const auto a = here::ones({2, 3});
  CHECK_THROWS_WITH(a.data<double>(), ContainsSubstring("data<f64>") && ContainsSubstring("f32") &&
                                          ContainsSubstring("(2, 3)"));
  CHECK_THROWS_WITH(a.item<float>(), ContainsSubstring("item") && ContainsSubstring("(2, 3)"));
  CHECK(here::full({1, 1}, 2.5).item<double>() == 2.5);
  CHECK(here::full({}, 7, {DType::i64}).item<int64_t>() == 7);
  CHECK_THROWS_AS(Tensor().shape(), std::invalid_argument);
  CHECK_THROWS_WITH(a.size(2), "size: axis 2 is out of range for shape (2, 3)");
  CHECK(a.size(-1) == 3);
  CHECK_THROWS_WITH(a.grad(), ContainsSubstring("no gradient"));
  CHECK_THROWS_WITH(here::arange(3).requires_grad(true), ContainsSubstring("i64"));
}

TEST_CASE("shapes refuse nonsense", "[core]") {
  CHECK_THROWS_WITH((Shape{2, -1}), ContainsSubstring("negative size -1"));
  CHECK_THROWS_WITH((Shape{1, 1, 1, 1, 1, 1, 1, 1, 1}), ContainsSubstring("9 dimensions"));
  CHECK_THROWS_WITH((Shape{int64_t(1) << 40, int64_t(1) << 40}), ContainsSubstring("too many"));
  CHECK(Shape({2, 3}).inserted(-1, 7) == Shape{2, 3, 7});
  CHECK(Shape({2, 3}).inserted(0, 7) == Shape{7, 2, 3});
  CHECK(Shape({2, 3}).erased(-2) == Shape{3});
  CHECK(Shape({2, 3}).with(1, 9) == Shape{2, 9});
  CHECK_FALSE(Shape{2} == Shape{2, 1});
}

TEST_CASE("conversions between all dtypes", "[core]") {
  const auto x = here::from({0.f, 1.f, 2.f, 200.f}, {4});
  for (DType t : {DType::f32, DType::f64, DType::i64, DType::u8, DType::bf16}) {
    const Tensor y = x.to(t);
    CHECK(y.dtype() == t);
    CHECK(values<float>(y.to(DType::f32)) == values<float>(x));
  }
  CHECK(x.to(DType::f32).is(x));
  const auto y = here::empty({4}, {DType::f64});
  y.copy_(x);
  CHECK(values<double>(y) == std::vector<double>{0, 1, 2, 200});
  CHECK_THROWS_WITH(y.copy_(here::zeros({5})), ContainsSubstring("(5)") && ContainsSubstring("(4)"));
}

TEST_CASE("a build without CUDA says so and changes nothing", "[core]") {
  if (cuda_device_count() > 0) SKIP_TEST("there is a CUDA device");
  CHECK_THROWS_WITH(Tensor::zeros({2}, {.device = Device::cuda()}),
                    ContainsSubstring("altgrad was built without CUDA"));
  CHECK_THROWS_AS(Tensor::zeros({2}).to(Device::cuda(1)), std::runtime_error);
}

TEST_CASE("freed memory is reused and the statistics follow", "[core]") {
  if (!device().is_cpu()) SKIP_TEST("the CPU's regions and slabs");
  empty_cache();
  const MemoryStats start = memory_stats();
  constexpr int64_t size = 320 << 20;  // a region of its own, so that empty_cache has left none
  {
    const auto a = Tensor::empty({size / 4 - 24});
    const MemoryStats held = memory_stats();
    CHECK(held.in_use - start.in_use == size);
    CHECK(held.system_allocations == start.system_allocations + 1);
    CHECK(held.peak >= held.in_use);
  }
  const MemoryStats freed = memory_stats();
  CHECK(freed.in_use == start.in_use);
  CHECK(freed.cached - start.cached == size);
  const auto b = Tensor::empty({size / 4});
  CHECK(memory_stats().system_allocations == freed.system_allocations);
  CHECK(memory_stats().cached == start.cached);
  reset_peak_memory();
  CHECK(memory_stats().peak == memory_stats().in_use);
  // a class wastes at most an eighth, or less than 64 bytes
  for (int64_t bytes = 65; bytes < 1 << 20; bytes = bytes * 5 / 4 + 3) {
    const int64_t before = memory_stats().in_use;
    const auto t = Tensor::empty({bytes}, {DType::u8});
    const int64_t used = memory_stats().in_use - before;
    CHECK(used >= bytes);
    CHECK(used <= std::max<int64_t>(bytes + bytes / 8, bytes + 63));
  }
}

TEST_CASE("empty_cache gives back all memory but what lies beside living tensors", "[core]") {
  if (!device().is_cpu()) SKIP_TEST("the CPU's regions and slabs");
  constexpr int64_t slab = 32 << 20;
  empty_cache();
  const int64_t before = memory_stats().cached;
  for (const int64_t bytes : {1 << 20, 8 << 20}) {  // of slabs, of regions
    {
      std::vector<Tensor> tensors;
      for (int64_t i = 0; i < 100; ++i) tensors.push_back(Tensor::zeros({bytes}, {DType::u8}));
      for (size_t i = 0; i < tensors.size(); ++i) {  // none in another's memory
        const auto* data = tensors[i].ptr<uint8_t>();
        CHECK(reinterpret_cast<uintptr_t>(data) % 64 == 0);
        CHECK(std::all_of(data, data + bytes, [](uint8_t x) { return x == 0; }));
        tensors[i].fill_(double(i + 1));
      }
      for (size_t i = 0; i < tensors.size(); ++i) CHECK(tensors[i].ptr<uint8_t>()[bytes - 1] == i + 1);
    }
    CHECK(memory_stats().cached >= 100 * bytes);
    empty_cache();
    CHECK(memory_stats().cached - before < slab);
  }
  const auto survivor = Tensor::ones({1 << 18});  // in a slab of freed blocks
  empty_cache();
  CHECK(survivor.ptr<float>()[(1 << 18) - 1] == 1);
}

TEST_CASE("asking for more memory than there is throws and leaves the rest alone", "[core]") {
#if defined(__SANITIZE_ADDRESS__)
  SKIP_TEST("AddressSanitizer aborts on such requests");
#endif
  const auto a = here::ones({4});
  CHECK_THROWS_WITH(here::empty({int64_t(1) << 50}),
                    ContainsSubstring(concat("out of memory on ", device())));
  CHECK(values<float>(a) == std::vector<float>(4, 1.f));
}

TEST_CASE("tensors made in one thread may die in another", "[core]") {
  std::vector<Tensor> made;
  std::thread([&] {
    for (int i = 0; i < 100; ++i) made.push_back(here::full({16}, i));
  }).join();
  for (int i = 0; i < 100; ++i) CHECK(values<float>(made[size_t(i)])[15] == float(i));
  made.clear();
}

TEST_CASE("making and dropping tensors does not touch the heap after warm-up", "[core]") {
  if (!device().is_cpu()) SKIP_TEST("a launch of the simulated device takes memory of the host");
  auto use = [] {
    const auto a = Tensor::zeros({32, 32});
    return a.alias({1024}).ptr<float>()[3];
  };
  use();
  const int64_t before = heap_allocations();
  for (int i = 0; i < 100; ++i) use();
  CHECK(heap_allocations() == before);
}

TEST_CASE("tensors print readably", "[core]") {
  const std::string end = device().is_cpu() ? ")" : concat(", ", device(), ")");
  CHECK(printed(here::from({1.f, 2.5f, 3.f, 4.f}, {2, 2})) ==
        "tensor([[1, 2.5],\n        [3, 4]], shape=(2, 2), f32" + end);
  CHECK(printed(here::full({}, 3, {DType::i64})) == "tensor(3, shape=(), i64" + end);
  CHECK(printed(here::zeros({0})) == "tensor([], shape=(0), f32" + end);
  CHECK(printed(here::arange(1000)) == "tensor([0, 1, 2, ..., 997, 998, 999], shape=(1000), i64" + end);
  CHECK(printed(here::from({int64_t(1) << 53 | 1}, {1})) ==
        "tensor([9007199254740993], shape=(1), i64" + end);
  CHECK(printed(Tensor()) == "tensor()");
  const std::string large = printed(here::zeros({100, 100}));
  CHECK(std::count(large.begin(), large.end(), '\n') == 6);
  CHECK_THAT(large, ContainsSubstring("...") && ContainsSubstring("shape=(100, 100)"));
}

TEST_CASE("Eigen sees a tensor's memory and gives copies back", "[core]") {
  if (!device().is_cpu()) SKIP_TEST("Eigen reads memory of the host");
  const auto x = Tensor::from({1.f, 2.f, 3.f, 4.f, 5.f, 6.f}, {2, 3});
  Eigen::Map<RowMatrixXf> m = as_matrix(x);
  CHECK(m.rows() == 2);
  CHECK(m(1, 0) == 4);
  m(1, 0) = 40;
  CHECK(x.data<float>()[3] == 40);
  const Tensor t = from_matrix(m);
  CHECK_FALSE(t.is(x));
  CHECK(values<float>(t) == values<float>(x));
  const Eigen::MatrixXd column_major = m.cast<double>();
  CHECK(values<double>(from_matrix(column_major)) == std::vector<double>{1, 2, 3, 40, 5, 6});
  CHECK(as_matrix(x.reshape({1, 2, 3})).rows() == 2);
  CHECK_THROWS_AS(as_matrix<double>(x), std::invalid_argument);
  CHECK_THROWS_AS(as_matrix(Tensor::zeros({})), std::invalid_argument);
}

TEST_CASE("integers and floats meet exactly, or with an error", "[tensor]") {
  const int64_t big = 9007199254740993;  // no double
  CHECK(here::from({big}, {1}).item<int64_t>() == big);
  CHECK(throws([&] { here::from({big}, {1}).item<int>(); }, {"item"}));
  CHECK(throws([&] { here::from({1e30}, {1}).item<int64_t>(); }, {"item"}));
  CHECK(throws([&] { here::full({1}, NAN).item<int64_t>(); }, {"item"}));
  CHECK(here::full({1}, -2.75).item<int>() == -2);
  CHECK(throws([&] { here::full({1}, 300, {.dtype = DType::u8}); }, {"fill", "300"}));
  CHECK(throws([&] { here::full({1}, NAN, {.dtype = DType::i64}); }, {"fill"}));
  CHECK(throws([&] { here::arange(257, {.dtype = DType::u8}); }, {"arange"}));
  const Tensor x = here::from({-1.5, 300.0, double(NAN), 1e30, -1e30, 7.9}, {6});
  const Tensor bytes = x.to(DType::u8), wide = x.to(DType::i64);
  const std::vector<uint8_t> expected = {0, 255, 0, 255, 0, 7};
  CHECK(values<uint8_t>(bytes) == expected);
  const std::vector<int64_t> expected_wide = {-1, 300, 0, INT64_MAX, INT64_MIN, 7};
  CHECK(values<int64_t>(wide) == expected_wide);
}
