// Fills through a second tensor: parameters are made once, so clarity goes before memory here. Bounds are made in the
// default floating-point environment, as all numbers that kernels get.
#include <altgrad/autograd/ops.h>
#include <altgrad/core/dispatch.h>
#include <altgrad/nn/init.h>

#include <cmath>
#include <utility>

namespace altgrad::nn::init {
namespace {

thread_local bool skipped = false;

void check_weight(const char* name, const Tensor& t) {
  if (t.dim() != 2) fail(name, ": needs a weight (out, in), got ", t.shape());
}

}  // namespace

Skip::Skip() : before_(std::exchange(skipped, true)) {}
Skip::~Skip() { skipped = before_; }

void uniform_(const Tensor& t, double low, double high, Generator& generator) {
  const DefaultFloatEnvironment environment;
  check_floating("uniform_", t);
  if (!(low <= high)) fail("uniform_: low ", low, " is not below high ", high);
  if (skipped) return;
  t.copy_(Tensor::rand(t.shape(), t.options(), generator) * (high - low) + low);
}

void normal_(const Tensor& t, double mean, double std, Generator& generator) {
  const DefaultFloatEnvironment environment;
  check_floating("normal_", t);
  if (!(std >= 0)) fail("normal_: std ", std, " is negative");
  if (skipped) return;
  t.copy_(Tensor::randn(t.shape(), t.options(), generator) * std + mean);
}

void constant_(const Tensor& t, double value) {
  check_floating("constant_", t);
  t.fill_(value);
}

void xavier_uniform_(const Tensor& t, Generator& generator) {
  const DefaultFloatEnvironment environment;
  check_weight("xavier_uniform_", t);
  const double bound = std::sqrt(6.0 / double(t.size(0) + t.size(1)));
  uniform_(t, -bound, bound, generator);
}

void kaiming_uniform_(const Tensor& t, double a, Generator& generator) {
  const DefaultFloatEnvironment environment;
  check_weight("kaiming_uniform_", t);
  const double bound = std::sqrt(6.0 / ((1 + a * a) * double(t.size(1))));
  uniform_(t, -bound, bound, generator);
}

}  // namespace altgrad::nn::init
