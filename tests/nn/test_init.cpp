// Initialisers, and how layers start: ranges, and moments to five standard deviations of their estimates.
#include <altgrad/nn/init.h>
#include <altgrad/nn/layers.h>

#include <algorithm>
#include <cmath>

#include "catch.h"
#include "values.h"

using namespace altgrad;

namespace {

struct Moments {
  double low, high, mean, variance;
};
Moments moments_of(const Tensor& t) {
  const std::vector<float> v = values<float>(t);
  const auto [low, high] = std::minmax_element(v.begin(), v.end());
  double mean = 0, variance = 0;
  for (float x : v) mean += x / double(v.size());
  for (float x : v) variance += (x - mean) * (x - mean) / double(v.size());
  return {*low, *high, mean, variance};
}

// Uniform in +-bound: within it, nearly reaching it, with its mean and variance.
void check_uniform(const Tensor& t, double bound) {
  const auto [low, high, mean, variance] = moments_of(t);
  const double n = double(t.numel());
  CHECK(low >= -float(bound));
  CHECK(high <= float(bound));
  CHECK(low < -bound * (1 - 20 / n));
  CHECK(high > bound * (1 - 20 / n));
  CHECK(std::abs(mean) < 5 * bound / std::sqrt(3 * n));
  CHECK(std::abs(variance / (bound * bound / 3) - 1) < 5 * std::sqrt(0.8 / n));
}

void check_normal(const Tensor& t, double expected_mean, double std) {
  const auto [low, high, mean, variance] = moments_of(t);
  const double n = double(t.numel());
  CHECK(std::abs(mean - expected_mean) < 5 * std / std::sqrt(n));
  CHECK(std::abs(variance / (std * std) - 1) < 5 * std::sqrt(2 / n));
  CHECK(high > expected_mean + 3 * std);
  CHECK(low < expected_mean - 3 * std);
}

}  // namespace

TEST_CASE("initialisers have their ranges and moments", "[nn][init]") {
  manual_seed(3);
  const Tensor w = here::zeros({200, 300}), t = here::zeros({60000});
  nn::init::uniform_(t, -0.5, 0.5);
  check_uniform(t, 0.5);
  nn::init::normal_(t, 4, 0.02);
  check_normal(t, 4, 0.02);
  nn::init::xavier_uniform_(w);
  check_uniform(w, std::sqrt(6.0 / 500));
  nn::init::kaiming_uniform_(w);
  check_uniform(w, std::sqrt(6.0 / 300));
  nn::init::kaiming_uniform_(w, 2);
  check_uniform(w, std::sqrt(6.0 / (5 * 300)));
  nn::init::constant_(w, 1.5);
  for (float v : values<float>(w)) REQUIRE(v == 1.5f);
  nn::init::uniform_(t, 2, 3);
  CHECK(moments_of(t).low >= 2);
  CHECK(moments_of(t).mean == Approx(2.5).margin(0.01));

  const Tensor ids = here::zeros({2, 2}, {.dtype = DType::i64});
  CHECK_THROWS_AS(nn::init::uniform_(ids, 0, 1), std::invalid_argument);
  CHECK_THROWS_AS(nn::init::normal_(ids, 0, 1), std::invalid_argument);
  CHECK_THROWS_AS(nn::init::constant_(ids, 1), std::invalid_argument);
  CHECK_THROWS_AS(nn::init::uniform_(t, 1, 0), std::invalid_argument);
  CHECK_THROWS_AS(nn::init::normal_(t, 0, -1), std::invalid_argument);
  CHECK_THROWS_AS(nn::init::xavier_uniform_(t), std::invalid_argument);
  CHECK_THROWS_AS(nn::init::kaiming_uniform_(t), std::invalid_argument);
}

TEST_CASE("layers start as PyTorch's do, and the same from the same seed", "[nn][init]") {
  manual_seed(4);
  const nn::Linear linear(100, 600);
  check_uniform(linear.weight(), 0.1);
  check_uniform(*linear.bias(), 0.1);
  check_normal(nn::Embedding(300, 200).weight(), 0, 1);

  manual_seed(4);
  const nn::Linear again(100, 600), other(100, 600);
  const auto a = linear.weight().data<float>(), b = again.weight().data<float>(),
             c = other.weight().data<float>();
  CHECK(std::equal(a.begin(), a.end(), b.begin()));
  CHECK_FALSE(std::equal(a.begin(), a.end(), c.begin()));

  Generator generator(9), twin(9);
  const Generator::State before = default_generator().state();
  const Tensor x = here::zeros({50}), y = here::zeros({50});
  nn::init::normal_(x, 0, 1, generator);
  nn::init::normal_(y, 0, 1, twin);
  CHECK(values<float>(x) == values<float>(y));
  CHECK(default_generator().state() == before);
}

TEST_CASE("initialising a parameter is recorded by no tape", "[nn][init]") {
  Tape tape;
  const nn::Linear layer = on_device(nn::Linear(3, 3));
  nn::init::normal_(layer.weight(), 0, 1);
  CHECK(tape.num_ops() == 0);
}

TEST_CASE("what draws numbers leaves tensors and the generator as they are where it is skipped", "[init]") {
  Generator generator(3);
  const auto before = generator.state();
  const Tensor t = here::full({4, 4}, 7);
  const auto draw = [&] {
    nn::init::uniform_(t, 0, 1, generator);
    nn::init::normal_(t, 0, 1, generator);
    nn::init::xavier_uniform_(t, generator);
    nn::init::kaiming_uniform_(t, 0, generator);
  };
  {
    const nn::init::Skip outer;
    { const nn::init::Skip inner; }
    draw();
    CHECK_THROWS_AS(nn::init::normal_(t, 0, -1), std::invalid_argument);
  }
  CHECK(values(t) == std::vector<double>(16, 7.0));
  CHECK(generator.state() == before);
  draw();
  CHECK(values(t) != std::vector<double>(16, 7.0));
}
