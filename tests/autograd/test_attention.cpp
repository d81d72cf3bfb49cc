// Causal attention on packed qkv against the same thing with the T x T matrix written out in ops.
#include <altgrad/autograd/ops.h>

#include "reference.h"
#include "thread_count.h"

using namespace altgrad;
using reference::distance;
using reference::randn;

namespace {

// softmax(q k^T / sqrt(head size), later keys hidden) v, head by head
Tensor explicit_attention(const Tensor& qkv, int64_t heads) {
  const int64_t B = qkv.size(0), T = qkv.size(1), C = qkv.size(2) / 3, size = C / heads;
  const auto part = [&](int which) {
    return qkv.narrow(2, which * C, C).reshape({B, T, heads, size}).transpose(1, 2);  // (B, heads, T, size)
  };
  const Tensor rows = here::arange(T, {.dtype = qkv.dtype()}).reshape({T, 1}), columns = rows.reshape({1, T});
  const Tensor scores = matmul(part(0), part(1).transpose()) / std::sqrt(double(size));
  const Tensor hidden = where(greater(columns, rows), here::full({}, -INFINITY, qkv.options()), scores);
  return matmul(softmax(hidden), part(2)).transpose(1, 2).reshape({B, T, C});
}

struct Result {
  Tensor y, grad;
};
template <class F>
Result run(F&& attention, const Tensor& qkv, int64_t heads) {
  const Tensor x = qkv.clone();
  x.requires_grad(true);
  Tape tape;
  const Tensor y = attention(x, heads);
  tape.backward(y, randn(y.shape(), 8).to(y.dtype()));
  return {y, x.grad()};
}

struct Sizes {
  int64_t batch, length, heads, head_size;
};
const std::vector<Sizes> sizes = {{1, 1, 1, 1},   {2, 1, 3, 4},    {1, 2, 1, 3},  {2, 7, 2, 5},
                                  {1, 31, 1, 8},  {1, 32, 2, 8},   {2, 33, 1, 8}, {1, 64, 2, 32},
                                  {1, 65, 3, 16}, {1, 100, 1, 64}, {3, 17, 2, 1}, {1, 130, 1, 2}};

}  // namespace

TEST_CASE("causal attention agrees with the T x T matrix written out", "[attention]") {
  for (const auto& [B, T, heads, size] : sizes) {
    CAPTURE(B, T, heads, size);
    const Tensor qkv = randn({B, T, 3 * heads * size}, 5) * 1.5;
    const Result plain = run(explicit_attention, qkv, heads), fused = run(causal_attention, qkv, heads);
    CHECK(distance(fused.y, plain.y) < 1e-13);
    CHECK(distance(fused.grad, plain.grad) < 1e-12);
    const Result narrow = run(causal_attention, qkv.to(DType::f32), heads);
    CHECK(distance(narrow.y, plain.y) < 5e-6);
    CHECK(distance(narrow.grad, plain.grad) < 2e-5);
  }
}

TEST_CASE("attention looks at no later position", "[attention]") {
  const int64_t T = 70;
  const Tensor qkv = randn({1, T, 24}),
               changed = cat({qkv.narrow(1, 0, 40), qkv.narrow(1, 40, 30) + 10.0}, 1);
  const Tensor a = causal_attention(qkv, 2), b = causal_attention(changed, 2);
  CHECK(same_bits(a.narrow(1, 0, 40), b.narrow(1, 0, 40)));
  CHECK(distance(a.narrow(1, 40, 1), b.narrow(1, 40, 1)) > 1e-3);
}

TEST_CASE("attention survives scores that overflow exp", "[attention]") {
  const Tensor qkv = (randn({1, 40, 12}) * 100.0).to(DType::f32);
  const Result fused = run(causal_attention, qkv, 1), plain = run(explicit_attention, qkv.to(DType::f64), 1);
  CHECK(distance(fused.y, plain.y) < 1e-4);
  for (double v : values(fused.grad)) CHECK(std::isfinite(v));
}

TEST_CASE("attention of an empty batch or sequence is empty", "[attention]") {
  CHECK(causal_attention(here::ones({0, 4, 6}), 2).shape() == Shape{0, 4, 2});
  CHECK(causal_attention(here::ones({2, 0, 6}), 2).shape() == Shape{2, 0, 2});
  const Tensor none = here::ones({2, 0, 6}).requires_grad(true);
  Tape tape;
  const Tensor y = causal_attention(none, 1);
  tape.backward(y, here::ones({2, 0, 2}));
  CHECK(none.grad().shape() == Shape{2, 0, 6});
}

TEST_CASE("attention gives the same bits on any number of threads", "[attention]") {
  const auto on_threads = [](int threads, const Tensor& qkv, int64_t heads) {
    const ThreadCount count(threads);
    return run(causal_attention, qkv, heads);
  };
  for (const auto& [batch, length, heads] :
       {std::array<int64_t, 3>{3, 70, 4}, std::array<int64_t, 3>{1, 300, 1}}) {
    const Tensor qkv = randn({batch, length, 12 * heads}, 2, DType::f32);
    const Result one = on_threads(1, qkv, heads);
    for (const int threads : {2, 3, 8}) {  // more threads than heads share a head's strips
      CAPTURE(length, threads);
      const Result many = on_threads(threads, qkv, heads);
      CHECK(same_bits(one.y, many.y));
      CHECK(same_bits(one.grad, many.grad));
    }
  }
}

TEST_CASE("attention keeps no T x T matrix in memory", "[attention]") {
  const int64_t T = 512;
  const Tensor qkv = randn({1, T, 24}, 1, DType::f32);
  qkv.requires_grad(true);
  Tape tape;
  const int64_t before = memory_stats().in_use;
  const Tensor y = causal_attention(qkv, 8);
  CHECK(memory_stats().in_use - before < 8 * T * T * int64_t(sizeof(float)) / 50);
}
