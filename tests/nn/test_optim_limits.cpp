// Optimizers where sums lose what they add, counts overflow and settings are no numbers: PyTorch's numbers for
// small betas, and refusals.
#include "catch.h"
#include "errors.h"
#include "values.h"

#include <altgrad/nn/optim.h>

#include <cmath>
#include <limits>

using namespace altgrad;

namespace {

using Values = std::vector<double>;
constexpr int64_t most = std::numeric_limits<int64_t>::max(), least = std::numeric_limits<int64_t>::min();

Tensor parameter(const Values& values, DType dtype = DType::f64) {
  return here::from(values, {int64_t(values.size())}).to(dtype).requires_grad(true);
}
void set_gradient(const Tensor& p, const Values& values) {
  p.set_grad(here::from(values, p.shape()).to(p.dtype()));
}
double value(const Tensor& t, size_t i) { return values(t)[i]; }

// Each to its own size: what is lost is lost in the small ones.
void require_close(const Tensor& got, const Values& expected, double tolerance) {
  for (size_t i = 0; i < expected.size(); ++i) {
    INFO(i << ": " << value(got, i) << ", expected " << expected[i]);
    CHECK(std::abs(value(got, i) - expected[i]) <= tolerance * std::abs(expected[i]));
  }
}

}  // namespace

// torch.optim.AdamW's numbers (2.15, CPU, float64, lr 0.1, eps 1e-8, weight_decay 0.01) after five gradients whose
// sizes differ by up to 1e8: the parameters, exp_avg and exp_avg_sq.
TEST_CASE("AdamW gives PyTorch's numbers for betas of 0 and small ones, where gradients shrink", "[optim]") {
  const Values gradients[] = {
      {1e4, -3, 0.5}, {1e-3, 2, -1e-4}, {-2e-3, 1e-6, 0.25}, {5e-4, -1, 1e3}, {1e-3, 0.75, -1e-3}};
  struct Row {
    double beta1, beta2;
    Values w, m, v;
  };
  const Row rows[] = {
      {0.0,
       0.0,
       {0.19810769144756413, -1.3427741675033358, 1.8904086172718257},
       {0.001, 0.75, -0.001},
       {1e-06, 0.5625, 1e-06}},
      {0.0,
       0.999,
       {0.3979043835077166, -1.2129322175673722, 1.6134696213992012},
       {0.001, 0.75, -0.001},
       {99600.59960010633, 0.01451356596001001, 999.0003113775723}},
      {0.9,
       0.0,
       {-1205148.7687676207, 22969.95550792928, -22224.486242417715},
       {656.1000559, -0.06602991900000002, 90.05294770999998},
       {1e-06, 0.5625, 1e-06}},
      {0.001,
       0.001,
       {0.38456221683331737, -1.2465773076070392, 1.6851407120407116},
       {0.000999507492999, 0.748251001996002, 0.9980012497504004},
       {0.00010089925374699901, 0.562936504004991, 999.0000010614377}},
      {0.5,
       0.1,
       {-0.42454432350385984, -1.1541994981896733, 1.5496707442077615},
       {312.5004375, 0.15625012500000002, 250.04636874999997},
       {9000.0000009594, 0.6006600000000091, 90000.00058590002}},
      {0.9,
       0.999,
       {0.20116053632153857, -1.0848058591591023, 1.6416431356789758},
       {656.1000559, -0.06602991900000002, 90.05294770999998},
       {99600.59960010633, 0.01451356596001001, 999.0003113775723}},
  };
  const DType dtype = GENERATE(DType::f64, DType::f32);
  for (const Row& row : rows) {
    INFO("betas " << row.beta1 << ", " << row.beta2 << (dtype == DType::f32 ? ", f32" : ", f64"));
    const Tensor p = parameter({0.5, -1.25, 2}, dtype);
    optim::AdamW adamw(std::vector{p}, {.lr = 0.1, .betas = {row.beta1, row.beta2}, .weight_decay = 0.01});
    for (const Values& g : gradients) {
      set_gradient(p, g);
      adamw.step();
    }
    const double tolerance = dtype == DType::f32 ? 2e-6 : 1e-13;
    require_close(p, row.w, tolerance);
    require_close(adamw.state_dict().at("exp_avg.0"), row.m, tolerance);
    require_close(adamw.state_dict().at("exp_avg_sq.0"), row.v, tolerance);
  }
}

TEST_CASE("betas of 0 leave the gradient and its square, to the bit", "[optim]") {
  const DType dtype = GENERATE(DType::f64, DType::f32);
  const Tensor p = parameter(Values(67, 1.0), dtype);
  optim::AdamW adamw(std::vector{p}, {.betas = {0, 0}});
  for (const double size : {1e15, 1.0, 1e-15}) {
    Values g(67);
    for (size_t i = 0; i < g.size(); ++i) g[i] = size * (double(i) - 30.3) / 7;
    set_gradient(p, g);
    adamw.step();
    for (size_t i = 0; i < g.size(); ++i) {
      const double x = value(p.grad(), i);
      CHECK(value(adamw.state_dict().at("exp_avg.0"), i) == x);
      CHECK(value(adamw.state_dict().at("exp_avg_sq.0"), i) ==
            (dtype == DType::f32 ? double(float(x) * float(x)) : x * x));
    }
  }
}

TEST_CASE("SGD with momentum takes an infinite gradient as PyTorch does", "[optim]") {
  const Tensor p = parameter({1, 1});
  optim::SGD sgd(std::vector{p}, {.lr = 0.5, .momentum = 0.5});
  set_gradient(p, {INFINITY, 1});
  sgd.step();
  CHECK(value(p, 0) == -INFINITY);
  CHECK(value(p, 1) == 0.5);
}

TEST_CASE("an optimizer takes no other parameters than it was made for", "[optim]") {
  const Tensor p = here::ones({2}).requires_grad(true), other = here::ones({3}).requires_grad(true);
  for (const Tensor& t : {p, other}) t.set_grad(here::ones(t.shape()));
  optim::SGD sgd({p}, {});
  optim::AdamW adamw({p}, {});
  for (optim::Optimizer* opt :
       {static_cast<optim::Optimizer*>(&sgd), static_cast<optim::Optimizer*>(&adamw)}) {
    for (const Tensor& wrong : {other, p.clone(), Tensor()}) {
      opt->groups()[0].params[0] = wrong;
      CHECK(throws([&] { opt->step(); }, {"parameter 0"}));
    }
    opt->groups()[0].params[0] = p;
    opt->groups().push_back({{other}, 0.1, 0.0});
    CHECK(throws([&] { opt->step(); },
                 {"parameter 1 of shape (3) is not one that the optimizer was made for"}));
    opt->groups().pop_back();
    opt->step();
  }
  CHECK(value(other, 0) == 1);
}

TEST_CASE("numbers of updates that no run reaches are refused, loaded or written", "[optim]") {
  const Tensor p = parameter({1, 2}), q = parameter({3});
  for (const int64_t bad : {int64_t(-1), least, most, (int64_t(1) << 62) + 1}) {
    INFO(bad);
    optim::AdamW adamw(std::vector{p, q}, {});
    StateDict state;
    for (const auto& [key, t] : adamw.state_dict()) state[key] = t.clone();
    state["exp_avg.0"].fill_(7);
    state["step"].data<int64_t>()[1] = bad;
    CHECK(throws([&] { adamw.check_state_dict(state); }, {"adamw", "\"step\"", std::to_string(bad)}));
    CHECK(throws([&] { adamw.load_state_dict(state); }, {"adamw", "\"step\""}));
    CHECK(value(adamw.state_dict().at("exp_avg.0"), 0) == 0);

    adamw.state_dict().at("step").data<int64_t>()[1] = bad;
    set_gradient(p, {1, 1});
    set_gradient(q, {1});
    CHECK(throws([&] { adamw.step(); }, {"adamw", "\"step\""}));
    CHECK(value(p, 0) == 1);
    CHECK(adamw.state_dict().at("step").data<int64_t>()[0] == 0);
  }
  optim::AdamW adamw(std::vector{p, q}, {});
  adamw.state_dict().at("step").data<int64_t>()[0] = (int64_t(1) << 62) - 1;
  set_gradient(p, {1, 1});
  adamw.step();
  adamw.step();
  adamw.step();  // counted no further, or its own state would be refused
  CHECK(adamw.state_dict().at("step").data<int64_t>()[0] == int64_t(1) << 62);
  CHECK(std::isfinite(value(p, 0)));
}

TEST_CASE("a state to load with an undefined tensor is refused by name", "[optim]") {
  optim::AdamW adamw(std::vector{parameter({1, 2})}, {});
  StateDict state = adamw.state_dict();
  state["exp_avg.0"] = Tensor();
  CHECK(throws([&] { adamw.load_state_dict(state); }, {"adamw", "\"exp_avg.0\"", "undefined"}));
  state = adamw.state_dict();
  state["more"] = Tensor();
  CHECK(throws([&] { adamw.load_state_dict(state); }, {"adamw", "unexpected", "\"more\""}));
  CHECK(throws(
      [] {
        optim::SGD(std::vector{parameter({1}), Tensor()}, {});
      },
      {"sgd: parameter 1 is undefined"}));
}

TEST_CASE("the cosine schedule at the ends of the integers", "[optim]") {
  const auto lr = [](int64_t warmup, int64_t total, int64_t step) {
    return optim::CosineSchedule{.max_lr = 1, .min_lr = 0.25, .warmup = warmup, .total = total}(step);
  };
  for (const int64_t warmup : {int64_t(0), int64_t(1), most - 1, most}) {
    for (const int64_t total : {least, int64_t(-1), int64_t(0), int64_t(10), most - 1, most}) {
      for (const int64_t step : {int64_t(0), int64_t(5), most / 2, most - 1, most}) {
        INFO(warmup << ' ' << total << ' ' << step);
        const double rate = lr(warmup, total, step);
        CHECK(rate >= 0);
        CHECK(rate <= 1);
        if (step >= warmup && step >= total) CHECK(rate == 0.25);
      }
    }
  }
  CHECK(lr(most, most, most - 1) == Approx(1));
  CHECK(lr(0, most, most / 2) == Approx(0.625));
  CHECK(throws([&] { lr(10, 20, -1); }, {"CosineSchedule", "step -1"}));
  CHECK(throws([&] { lr(10, 20, least); }, {"CosineSchedule", "step"}));
  CHECK(throws([&] { lr(-1, 20, 0); }, {"CosineSchedule", "warmup -1"}));
  CHECK(throws([&] { lr(least, most, most); }, {"CosineSchedule", "warmup"}));
  for (const double bad : {double(NAN), double(INFINITY), -1.0}) {
    CHECK(throws([&] { optim::CosineSchedule{.max_lr = bad}(0); }, {"CosineSchedule: max_lr"}));
    CHECK(throws([&] { optim::CosineSchedule{.min_lr = bad}(0); }, {"CosineSchedule: min_lr"}));
  }
}

TEST_CASE("an optimizer of one's own keeps at most max_state tensors of a parameter, by names that differ",
          "[optim]") {
  struct Greedy final : optim::Optimizer {
    Greedy(const Tensor& p, std::vector<std::string> state)
        : Optimizer("greedy", one_group({p}), 0, 0, std::move(state)) {}
    void step() override { begin_step(); }
  };
  const Tensor p = parameter({1});
  Greedy(p, {"a", "b", "c", "d"}).step();
  CHECK(throws([&] { Greedy(p, {"a", "b", "c", "d", "e"}); }, {"greedy: keeps 5 tensors", "at most 4"}));
  const std::vector<std::string> clashes[] = {{"m", "m"}, {""}, {"step"}};
  for (const auto& state : clashes) {
    CHECK(throws([&] { Greedy(p, state); }, {"greedy: the names", "must differ"}));
  }
}

TEST_CASE("clip_grad_norm of f64 gradients whose squares overflow leaves them, as its header says",
          "[optim]") {
  const Tensor p = parameter({1, 1});
  set_gradient(p, {3e200, 4e200});
  CHECK(std::isinf(nn::clip_grad_norm(std::vector{p}, 1)));
  CHECK(value(p.grad(), 0) == 3e200);
  set_gradient(p, {3e-200, 4e-200});
  CHECK(nn::clip_grad_norm(std::vector{p}, 1) == 0);
  CHECK(value(p.grad(), 0) == 3e-200);
}
