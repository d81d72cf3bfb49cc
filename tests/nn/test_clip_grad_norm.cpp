// Clipping by the norm of all gradients, in f64.
#include "errors.h"
#include "parameters.h"

#include <altgrad/nn/optim.h>

using namespace altgrad;
using namespace optim_tests;

TEST_CASE("clip_grad_norm scales to the norm asked for and gives the norm before", "[optim]") {
  const auto p = two_parameters();
  set_gradient(p[0], {3, 4, 0});
  set_gradient(p[1], {0, 12, 0, 84});
  const double norm = 85;  // 3 4 5, 5 12 13, 13 84 85
  SECTION("above") {
    CHECK(nn::clip_grad_norm(p, 17) == Approx(norm).epsilon(1e-15));
    require_close(values(p[0].grad()), {0.6, 0.8, 0}, 1e-15);
    require_close(values(p[1].grad()), {0, 2.4, 0, 16.8}, 1e-15);
  }
  SECTION("below, the same bits") {
    CHECK(nn::clip_grad_norm(p, 86) == Approx(norm).epsilon(1e-15));
    CHECK(values(p[0].grad()) == Values{3, 4, 0});
  }
  SECTION("parameters without a gradient do not count") {
    p[1].set_grad(Tensor());
    CHECK(nn::clip_grad_norm(p, 1) == Approx(5).epsilon(1e-15));
    require_close(values(p[0].grad()), {0.6, 0.8, 0}, 1e-15);
    CHECK_FALSE(p[1].has_grad());
  }
  SECTION("a norm that is not finite leaves gradients alone") {
    set_gradient(p[0], {3, INFINITY, 0});
    CHECK(std::isinf(nn::clip_grad_norm(p, 1)));
    CHECK(values(p[1].grad()) == Values{0, 12, 0, 84});
    set_gradient(p[0], {3, NAN, 0});
    CHECK(std::isnan(nn::clip_grad_norm(p, 1)));
    CHECK(values(p[1].grad()) == Values{0, 12, 0, 84});
  }
  SECTION("a maximum out of range") {
    CHECK(throws([&] { nn::clip_grad_norm(p, -1); }, {"clip_grad_norm", "-1"}));
    CHECK_THROWS_AS(nn::clip_grad_norm(p, NAN), std::invalid_argument);
  }
}

TEST_CASE("clip_grad_norm sums in f64: squares beyond f32 do not overflow", "[optim]") {
  const Tensor p = parameter({1, 1}, {2}, DType::f32);
  set_gradient(p, {3e30, 4e30});
  CHECK(nn::clip_grad_norm(std::vector{p}, 1) == Approx(5e30));
  require_close(values(p.grad()), {0.6, 0.8}, 1e-6);
}
