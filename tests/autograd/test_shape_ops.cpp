// Ops that move elements, against index arithmetic, for every dtype.
#include <altgrad/autograd/ops.h>

#include "errors.h"
#include "reference.h"

using namespace altgrad;
using reference::at;
using reference::distance;
using reference::Index;
using reference::make;
using reference::randn;

namespace {
constexpr DType dtypes[] = {DType::f32, DType::f64, DType::i64, DType::u8, DType::bf16};
Tensor counting(const Shape& shape, DType dtype) {
  return here::arange(shape.numel()).alias(shape).to(dtype);
}
}  // namespace

TEST_CASE("reshape shares memory and fills in one size", "[ops][shape]") {
  const Tensor x = counting({2, 6}, DType::f32);
  CHECK(x.reshape({3, 4}).is(x));
  CHECK(x.reshape({3, -1}).shape() == Shape{3, 4});
  CHECK(x.reshape({-1}).shape() == Shape{12});
  CHECK(x.reshape({2, -1, 6}).shape() == Shape{2, 1, 6});
  CHECK(x.reshape(Shape{12, 1}).shape() == Shape{12, 1});
  CHECK(here::ones({1}).reshape(Shape{}).shape() == Shape{});
  CHECK(here::ones({0, 3}).reshape({3, -1}).shape() == Shape{3, 0});
  CHECK(here::ones({0, 3}).reshape({5, 0}).shape() == Shape{5, 0});
  CHECK(throws([&] { x.reshape({1, 1, 1, 1, 1, 1, 1, 1, -1}); }, {"reshape"}));
}

TEST_CASE("narrow, transpose, permute, clone and cat move every element to its place", "[ops][shape]") {
  for (const DType dtype : dtypes) {
    CAPTURE(name_of(dtype));
    const Tensor x = counting({3, 4, 5}, dtype);
    const auto check = [&](const Tensor& y, const Shape& shape, auto&& from) {
      CHECK(y.dtype() == dtype);
      CHECK_FALSE(y.is(x));
      CHECK(distance(y, make(shape, [&](const Index& i) { return at(x, from(i)); })) == 0);
    };
    check(x.narrow(0, 1, 2), {2, 4, 5}, [](const Index& i) { return Index{i[0] + 1, i[1], i[2]}; });
    check(x.narrow(-2, 3, 1), {3, 1, 5}, [](const Index& i) { return Index{i[0], i[1] + 3, i[2]}; });
    check(x.narrow(2, 0, 5), {3, 4, 5}, [](const Index& i) { return i; });
    check(x.narrow(1, 4, 0), {3, 0, 5}, [](const Index& i) { return i; });
    check(x.transpose(), {3, 5, 4}, [](const Index& i) { return Index{i[0], i[2], i[1]}; });
    check(x.transpose(0, -1), {5, 4, 3}, [](const Index& i) { return Index{i[2], i[1], i[0]}; });
    check(x.transpose(1, 1), {3, 4, 5}, [](const Index& i) { return i; });
    check(x.permute({1, 2, 0}), {4, 5, 3}, [](const Index& i) { return Index{i[2], i[0], i[1]}; });
    check(x.permute(std::vector<int>{-1, 0, 1}), {5, 3, 4}, [](const Index& i) {
      return Index{i[1], i[2], i[0]};
    });
    check(x.clone(), {3, 4, 5}, [](const Index& i) { return i; });
    check(cat({x.narrow(1, 2, 2), x.narrow(1, 0, 2)}, 1), {3, 4, 5}, [](const Index& i) {
      return Index{i[0], (i[1] + 2) % 4, i[2]};
    });
    check(cat({x, x}, -1), {3, 4, 10}, [](const Index& i) { return Index{i[0], i[1], i[2] % 5}; });
    check(cat({x}, 0), {3, 4, 5}, [](const Index& i) { return i; });
    check(stack({x, x}), {2, 3, 4, 5}, [](const Index& i) { return Index{i[1], i[2], i[3]}; });
    check(stack({x, x, x}, -1), {3, 4, 5, 3}, [](const Index& i) { return Index{i[0], i[1], i[2]}; });
    check(stack({x}, 1), {3, 1, 4, 5}, [](const Index& i) { return Index{i[0], i[2], i[3]}; });
  }
}

TEST_CASE("moving elements works in eight dimensions and without elements", "[ops][shape]") {
  const Tensor x = counting({2, 1, 3, 2, 1, 2, 2, 2}, DType::f64);
  const Tensor y = x.permute({7, 0, 6, 1, 5, 2, 4, 3});
  CHECK(distance(y, make({2, 2, 2, 1, 2, 3, 1, 2}, [&](const Index& i) {
                   return at(x, {i[1], i[3], i[5], i[7], i[6], i[4], i[2], i[0]});
                 })) == 0);
  CHECK(same_bits(y.permute({1, 3, 5, 7, 6, 4, 2, 0}), x));
  CHECK(throws([&] { stack({x, x}); }, {"9 dimensions"}));
  CHECK(here::ones({0, 3}).transpose().shape() == Shape{3, 0});
  CHECK(here::ones({}).clone().shape() == Shape{});
  CHECK(here::ones({}).permute({}).shape() == Shape{});
  CHECK(cat({here::ones({0, 3}), here::ones({0, 3})}).shape() == Shape{0, 3});
  CHECK(here::ones({0, 3}).narrow(0, 0, 0).shape() == Shape{0, 3});
  CHECK(here::ones({0, 4, 3}).narrow(1, 1, 2).shape() == Shape{0, 2, 3});
}

TEST_CASE("to changes dtype, carries gradients between floating ones, and is the tensor itself otherwise",
          "[ops][shape]") {
  const Tensor x = here::from({1.25f, -2.75f}, {2}).requires_grad(true);
  CHECK(x.to(DType::f32).id() == x.id());
  CHECK(x.to(device()).id() == x.id());
  Tape tape;
  const Tensor y = x.to(DType::f64) * 3.0;
  CHECK(y.dtype() == DType::f64);
  tape.backward(sum(y * y));
  CHECK(x.grad().dtype() == DType::f32);
  CHECK(values(x.grad()) == std::vector<double>{22.5, -49.5});

  Tape integers;
  CHECK(values(x.to(DType::i64)) == std::vector<double>{1, -2});
  CHECK(integers.num_ops() == 0);
}

TEST_CASE("writing to a clone leaves the source alone", "[ops][shape]") {
  const Tensor x = here::ones({3}), y = x.clone();
  y.fill_(2);
  CHECK(values(x) == std::vector<double>{1, 1, 1});
}

TEST_CASE("views and copies of one gradient do not disturb each other", "[ops][shape]") {
  // Backwards hand one gradient to several inputs, as it is or reshaped: adding to one must leave the others.
  const Tensor x = randn({2, 3}, 1), z = randn({6}, 2);
  x.requires_grad(true), z.requires_grad(true);
  Tape tape;
  const Tensor r = x.reshape({6});
  const Tensor y = (r + z) + r * 2.0 + z * z + (z + r).reshape({2, 3}).reshape({6});
  tape.backward(y, here::ones({6}, {.dtype = DType::f64}));
  CHECK(distance(x.grad(), here::full({2, 3}, 4, {.dtype = DType::f64})) == 0);
  CHECK(distance(z.grad(), z.detach() * 2.0 + 2.0) < 1e-15);
  CHECK_FALSE(x.grad().is(z.grad()));

  // Here x's gradient is an alias of z's when the second part is added to it.
  x.set_grad(Tensor()), z.set_grad(Tensor());
  Tape second;
  const Tensor twice = x * 2.0, flat = x.reshape({6}), total = z + flat;
  second.backward(total + twice.reshape({6}), here::ones({6}, {.dtype = DType::f64}));
  CHECK(distance(x.grad(), here::full({2, 3}, 3, {.dtype = DType::f64})) == 0);
  CHECK(distance(z.grad(), here::full({6}, 1, {.dtype = DType::f64})) == 0);
}
