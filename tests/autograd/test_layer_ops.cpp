// The ops that layers are made of, against slow loops and closed forms, at sizes that are odd, one and zero.
#include <altgrad/autograd/ops.h>

#include <limits>

#include "errors.h"
#include "reference.h"

using namespace altgrad;
using reference::at;
using reference::distance;
using reference::for_each_index;
using reference::Index;
using reference::make;
using reference::randn;

namespace {
constexpr double inf = std::numeric_limits<double>::infinity();
}  // namespace

TEST_CASE("matmul is the triple loop, for matrices, vectors and batches", "[ops]") {
  struct Case {
    Shape a, b, shape;
  };
  const std::vector<Case> cases = {
      {{1, 1}, {1, 1}, {1, 1}},
      {{3, 5}, {5, 2}, {3, 2}},
      {{17, 33}, {33, 65}, {17, 65}},
      {{1, 64}, {64, 1}, {1, 1}},
      {{129, 7}, {7, 3}, {129, 3}},
      {{0, 3}, {3, 2}, {0, 2}},
      {{3, 0}, {0, 2}, {3, 2}},
      {{3, 2}, {2, 0}, {3, 0}},
      {{5}, {5}, {}},
      {{0}, {0}, {}},
      {{5}, {5, 2}, {2}},
      {{3, 5}, {5}, {3}},
      {{4, 3, 5}, {5}, {4, 3}},
      {{5}, {4, 5, 2}, {4, 2}},
      {{4, 3, 5}, {4, 5, 2}, {4, 3, 2}},
      {{4, 3, 5}, {5, 2}, {4, 3, 2}},
      {{3, 5}, {4, 5, 2}, {4, 3, 2}},
      {{1, 3, 5}, {4, 5, 2}, {4, 3, 2}},
      {{4, 3, 5}, {1, 5, 2}, {4, 3, 2}},
      {{2, 1, 3, 5}, {4, 5, 2}, {2, 4, 3, 2}},
      {{4, 3, 5}, {2, 1, 5, 2}, {2, 4, 3, 2}},
      {{2, 4, 3, 5}, {1, 4, 5, 2}, {2, 4, 3, 2}},
      {{0, 3, 5}, {5, 2}, {0, 3, 2}},
      {{3, 5}, {0, 5, 2}, {0, 3, 2}},
      {{1, 3, 5}, {0, 5, 2}, {0, 3, 2}},
      {{1, 1, 3, 5}, {5, 2}, {1, 1, 3, 2}},
  };
  for (const Case& c : cases) {
    CAPTURE(c.a, c.b);
    const Tensor a = randn(c.a, 1), b = randn(c.b, 2), dy = randn(c.shape, 3);
    a.requires_grad(true), b.requires_grad(true);
    Tape tape;
    const Tensor y = matmul(a, b);
    tape.backward(y, dy);
    REQUIRE(y.shape() == c.shape);

    // Each product a[..., i, l] b[..., l, j], wherever it goes.
    const bool row = c.a.dim() == 1, column = c.b.dim() == 1;
    const int64_t k = c.a.size(-1);
    const int lead = c.shape.dim() - !row - !column;
    const std::vector<double> x_a = values(a), x_b = values(b), x_dy = values(dy);
    std::vector<double> sums(size_t(y.numel())), da(size_t(a.numel())), db(size_t(b.numel()));
    const auto offset = [](const Shape& shape, Index index) {  // as reference::at
      int64_t o = 0;
      for (int axis = 0; axis < shape.dim(); ++axis) {
        o = o * shape[axis] + (shape[axis] == 1 ? 0 : index[index.size() - size_t(shape.dim() - axis)]);
      }
      return size_t(o);
    };
    size_t at_y = 0;
    for_each_index(c.shape, [&](const Index& i) {
      const Index batch(i.begin(), i.begin() + lead);
      for (int64_t l = 0; l < k; ++l) {
        Index in_a = batch, in_b = batch;
        if (!row) in_a.push_back(i[size_t(lead)]);
        in_a.push_back(l);
        in_b.push_back(l);
        if (!column) in_b.push_back(i.back());
        const size_t p = offset(c.a, in_a), q = offset(c.b, in_b);
        sums[at_y] += x_a[p] * x_b[q];
        da[p] += x_dy[at_y] * x_b[q];
        db[q] += x_dy[at_y] * x_a[p];
      }
      ++at_y;
    });
    CHECK(distance(y.detach(), here::from(sums, c.shape)) < 1e-13);
    CHECK(distance(a.grad(), here::from(da, c.a)) < 1e-13);
    CHECK(distance(b.grad(), here::from(db, c.b)) < 1e-13);
  }
}

TEST_CASE("linear is x w^T + b at every size", "[ops]") {
  for (const auto& [rows, in, out] : std::vector<std::array<int64_t, 3>>{
           {1, 1, 1}, {3, 5, 7}, {64, 65, 33}, {1, 64, 100}, {0, 3, 2}, {3, 0, 2}, {3, 2, 0}}) {
    CAPTURE(rows, in, out);
    const Tensor x = randn({rows, in}, 1), w = randn({out, in}, 2), b = randn({out}, 3);
    const auto expected = [&, rows = rows, in = in, out = out](bool bias) {
      return make({rows, out}, [&](const Index& i) {
        double total = bias ? at(b, {i[1]}) : 0;
        for (int64_t l = 0; l < in; ++l) total += at(x, {i[0], l}) * at(w, {i[1], l});
        return total;
      });
    };
    CHECK(distance(linear(x, w, b), expected(true)) < 1e-13);
    CHECK(distance(linear(x, w), expected(false)) < 1e-13);
    CHECK(distance(linear(x.to(DType::f32), w.to(DType::f32), b.to(DType::f32)), expected(true)) < 3e-6);
    CHECK(linear(x.reshape({1, rows, in}), w, b).shape() == Shape{1, rows, out});
  }
}

TEST_CASE("softmax and log_softmax are their formulas and survive large values", "[ops]") {
  for (const Shape& shape :
       {Shape{3, 1}, Shape{2, 7}, Shape{1, 129}, Shape{2, 3, 5}, Shape{0, 3}, Shape{3, 0}, Shape{5}}) {
    const Tensor x = randn(shape, 4) * 3.0;
    for (int axis = 0; axis < shape.dim(); ++axis) {
      CAPTURE(shape, axis);
      const Tensor expected = make(shape, [&](const Index& i) {
        double total = 0;
        for (int64_t j = 0; j < shape[axis]; ++j) {
          Index other = i;
          other[size_t(axis)] = j;
          total += std::exp(at(x, other));
        }
        return std::exp(at(x, i)) / total;
      });
      CHECK(distance(softmax(x, axis), expected) < 1e-14);
      CHECK(distance(exp(log_softmax(x, axis)), expected) < 1e-14);
      CHECK(distance(softmax(x, axis - shape.dim()), softmax(x, axis)) == 0);
    }
  }
  const Tensor large = here::from({1e4f, 1e4f, -1e4f, 3e38f, 0.f, -3e38f}, {2, 3});
  CHECK(values(softmax(large)) == std::vector<double>{0.5, 0.5, 0, 1, 0, 0});
  const std::vector<double> logs = values(log_softmax(large));
  CHECK(logs[0] == Approx(std::log(0.5)));
  CHECK(logs[3] == 0);
  const Tensor masked = here::from({0.0, -inf, 0.0}, {3});
  CHECK(values(softmax(masked)) == std::vector<double>{0.5, 0, 0.5});
}

TEST_CASE("layer_norm and rms_norm are their formulas", "[ops]") {
  for (const auto& [rows, n] :
       std::vector<std::array<int64_t, 2>>{{1, 1}, {3, 5}, {2, 64}, {65, 33}, {0, 4}, {1, 257}}) {
    CAPTURE(rows, n);
    const double eps = 1e-3;
    const Tensor x = randn({rows, n}, 1) * 2.0 + 3.0, w = randn({n}, 2), b = randn({n}, 3);
    const auto moment = [&, n = n](int64_t row, double centre) {
      double s = 0;
      for (int64_t j = 0; j < n; ++j) s += (at(x, {row, j}) - centre) * (at(x, {row, j}) - centre);
      return s / double(n);
    };
    const auto average = [&, n = n](int64_t row) {
      double s = 0;
      for (int64_t j = 0; j < n; ++j) s += at(x, {row, j});
      return s / double(n);
    };
    const Tensor layer = make({rows, n}, [&](const Index& i) {
      const double m = average(i[0]);
      return (at(x, i) - m) / std::sqrt(moment(i[0], m) + eps) * at(w, {i[1]}) + at(b, {i[1]});
    });
    CHECK(distance(layer_norm(x, w, b, eps), layer) < 1e-13);
    CHECK(distance(layer_norm(x, w, {}, eps), layer - host(b)) < 1e-13);
    const Tensor rms = make({rows, n}, [&](const Index& i) {
      return at(x, i) / std::sqrt(moment(i[0], 0) + eps) * at(w, {i[1]});
    });
    CHECK(distance(rms_norm(x, w, eps), rms) < 1e-13);
    CHECK(distance(layer_norm(x.to(DType::f32), w.to(DType::f32), b.to(DType::f32), eps), layer) < 5e-6);
  }
}

TEST_CASE("add_layer_norm gives the bits of a sum and its layer_norm, and of their gradients", "[ops]") {
  std::vector<DType> dtypes = {DType::f32, DType::f64};
  if (!device().is_cpu()) dtypes.push_back(DType::bf16);
  for (const DType dtype : dtypes) {
    const DType of_weights = compute_dtype(dtype);
    for (const Shape& shape :
         {Shape{5, 33}, Shape{2, 3, 64}, Shape{3, 1031}, Shape{2, 4096}, Shape{0, 4}, Shape{3, 0}}) {
      for (const bool other_shape : {false, true}) {
        CAPTURE(dtype, shape, other_shape);
        const int64_t n = shape[shape.dim() - 1];
        std::vector<std::vector<Tensor>> results;
        for (const bool at_once : {false, true}) {
          manual_seed(5);
          const auto leaf = [&](const Shape& of, DType in) {
            return here::randn(of).to(in).requires_grad(true);
          };
          const Tensor x = leaf(shape, dtype), r = leaf(other_shape ? Shape{n} : shape, dtype),
                       w = leaf({n}, of_weights), b = leaf({n}, of_weights);
          const Tensor dsum = here::randn(shape).to(dtype), dy = here::randn(shape).to(dtype);
          Tape tape;
          Tensor s = x + r, y = layer_norm(s, w, b);
          if (at_once) std::tie(s, y) = add_layer_norm(x, r, w, b);
          tape.backward(sum(s * dsum) + sum(y * dy));
          results.push_back({s, y, x.grad(), r.grad(), w.grad(), b.grad()});
        }
        for (size_t i = 0; i < results[0].size(); ++i) {
          CAPTURE(i);
          CHECK(same_bits(results[1][i], results[0][i]));
        }
      }
    }
  }
  const Tensor x = here::ones({2, 3});
  CHECK(throws([&] { add_layer_norm(x, x.to(DType::f64), here::ones({3})); }, {"add: "}));
  CHECK(throws([&] { add_layer_norm(x, x, here::ones({4})); }, {"layer_norm: weight (4)"}));
}

TEST_CASE("layer_norm keeps its accuracy far from zero", "[ops]") {
  const Tensor x = (randn({4, 64}) * 0.5 + 1000.0).to(DType::f32), one = here::ones({64});
  const Tensor exact = layer_norm(x.to(DType::f64), one.to(DType::f64));
  CHECK(distance(layer_norm(x, one), exact) < 1e-3);
}

TEST_CASE("embedding and index_select pick, and add their gradients back", "[ops]") {
  const Tensor w = randn({5, 3}), ids = here::from({4, 0, 4, 4}, {2, 2});
  w.requires_grad(true);
  Tape tape;
  const Tensor y = embedding(ids, w), dy = randn({2, 2, 3}, 2);
  CHECK(distance(y.detach(), make({2, 2, 3}, [&](const Index& i) {
                   return at(w, {int64_t(at(ids, {i[0], i[1]})), i[2]});
                 })) == 0);
  tape.backward(y, dy);
  CHECK(distance(w.grad(), make({5, 3}, [&](const Index& i) {
                   double total = 0;
                   for_each_index({2, 2}, [&](const Index& j) {
                     if (int64_t(at(ids, j)) == i[0]) total += at(dy, {j[0], j[1], i[1]});
                   });
                   return total;
                 })) < 1e-15);
  CHECK(embedding(here::zeros({}, {.dtype = DType::i64}), w).shape() == Shape{3});
  CHECK(embedding(here::zeros({0, 2}, {.dtype = DType::i64}), w).shape() == Shape{0, 2, 3});

  const Tensor x = randn({2, 4, 3}), some = here::from({3, 3, 0}, {3});
  CHECK(distance(index_select(x, -2, some), make({2, 3, 3}, [&](const Index& i) {
                   return at(x, {i[0], int64_t(at(some, {i[1]})), i[2]});
                 })) == 0);
  CHECK(index_select(x, 0, here::zeros({0}, {.dtype = DType::i64})).shape() == Shape{0, 4, 3});
}

TEST_CASE("cross_entropy is the mean of -log softmax over the targets counted", "[ops]") {
  for (const auto& [rows, n] : std::vector<std::array<int64_t, 2>>{{1, 1}, {6, 5}, {33, 65}}) {
    CAPTURE(rows, n);
    Generator generator(4);
    const Tensor x = randn({rows, n}, 1), targets = here::randint(n, {rows}, Device::cpu(), generator);
    const Tensor log_p = log_softmax(x);
    double total = 0, counted = 0, some = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t target = int64_t(at(targets, {r}));
      total -= at(log_p, {r, target});
      if (target != 0) some -= at(log_p, {r, target}), ++counted;
    }
    CHECK(cross_entropy(x, targets).item<double>() == Approx(total / double(rows)).epsilon(1e-13));
    if (counted > 0)
      CHECK(cross_entropy(x, targets, 0).item<double>() == Approx(some / counted).epsilon(1e-13));
  }
  // An ignored target may be anything, and its row has no gradient; nothing counted is NaN.
  const Tensor x = randn({2, 3}), targets = here::from({-100, 1}, {2});
  x.requires_grad(true);
  Tape tape;
  tape.backward(cross_entropy(x, targets));
  CHECK(values(x.grad().narrow(0, 0, 1)) == std::vector<double>{0, 0, 0});
  CHECK(at(x.grad(), {1, 1}) < 0);
  CHECK(std::isnan(cross_entropy(x, here::from({-100, -100}, {2})).item<double>()));
  CHECK(
      std::isnan(cross_entropy(here::ones({0, 3}), here::zeros({0}, {.dtype = DType::i64})).item<double>()));
  CHECK(cross_entropy(randn({3}), here::full({}, 2, {.dtype = DType::i64})).shape() == Shape{});
  // Large logits neither overflow nor cancel.
  const Tensor large = here::from({1e4f, 1e4f + 1, 1e4f}, {1, 3});
  CHECK(cross_entropy(large, here::from({1}, {1})).item<double>() ==
        Approx(std::log(1 + 2 * std::exp(-1.0))).epsilon(1e-6));
}

TEST_CASE("mse_loss is the mean of squares", "[ops]") {
  const Tensor x = here::from({1.0, 2.0, 5.0}, {3}), t = here::from({1.0, 0.0, 2.0}, {3});
  CHECK(mse_loss(x, t).item<double>() == Approx(13.0 / 3));
}
