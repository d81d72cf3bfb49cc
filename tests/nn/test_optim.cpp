// Optimizers against plain f64 loops and against PyTorch's numbers; schedule, state.
#include "catch.h"
#include "errors.h"
#include "parameters.h"
#include "thread_count.h"

#include <altgrad/autograd/ops.h>
#include <altgrad/nn/optim.h>

#include <cmath>

using namespace altgrad;
using namespace optim_tests;

namespace {

// Ten steps with gradients that depend on the values, the step and the position; the second parameter gets
// its first one at step `late`.
void run_ten_steps(optim::Optimizer& optimizer, const std::vector<Tensor>& params, int late = 0) {
  for (int step = 0; step < 10; ++step) {
    for (int k = 0; k < int(params.size()); ++k) {
      if (k == 1 && step < late) continue;
      Values g = values(params[k]);
      for (int i = 0; i < int(g.size()); ++i) g[i] = 0.5 * g[i] + 0.25 * ((step * 3 + i * 2 + k) % 5 - 2);
      set_gradient(params[k], g);
    }
    optimizer.step();
    optimizer.zero_grad();
  }
}

// Runs f under each number of threads.
template <class F>
void with_threads(std::initializer_list<int> counts, F&& f) {
  for (int n : counts) {
    const ThreadCount threads(n);
    f(n);
  }
}

// Deterministic noise in [-1, 1).
double noise(int64_t i, int64_t salt) {
  return 2.0 * uniform01(RandomStream{7, uint64_t(salt)}.word(uint64_t(i))) - 1.0;
}
Values noise_values(int64_t n, int64_t salt) {
  Values v(n);
  for (int64_t i = 0; i < n; ++i) v[i] = noise(i, salt);
  return v;
}

}  // namespace

// The numbers are torch.optim's (2.15, CPU, float64) after the ten steps of run_ten_steps.
TEST_CASE("AdamW gives PyTorch's numbers", "[optim]") {
  const optim::AdamWOptions options{.lr = 0.05, .betas = {0.9, 0.99}, .eps = 1e-6, .weight_decay = 0.1};
  const auto p = two_parameters();
  optim::AdamW adamw(p, options);
  SECTION("ten steps") {
    run_ten_steps(adamw, p);
    require_close(values(p[0]), {0.3062917287127282, -0.7664512499488059, 1.4539814056133558}, 1e-13);
    require_close(values(p[1]),
                  {0.5646683003750537, -0.3820973737516115, 0.10404052859318261, 2.377364944462803}, 1e-13);
  }
  SECTION("a parameter without a gradient is left alone, and its first step is its own step 1") {
    run_ten_steps(adamw, p, 4);
    require_close(values(p[0]), {0.3062917287127282, -0.7664512499488059, 1.4539814056133558}, 1e-13);
    require_close(values(p[1]),
                  {0.7156995486857511, -0.5063647590174174, 0.081165518511321, 2.625192194716994}, 1e-13);
    const Tensor steps = adamw.state_dict().at("step");
    CHECK(steps.data<int64_t>()[0] == 10);
    CHECK(steps.data<int64_t>()[1] == 6);
  }
}

TEST_CASE("AdamW parameter groups have their own settings, PyTorch's numbers", "[optim]") {
  const auto p = two_parameters();
  optim::AdamW adamw({{.params = {p[0]}, .weight_decay = 0.0}, {.params = {p[1]}, .lr = 0.01}},
                     {.lr = 0.05, .weight_decay = 0.2});
  run_ten_steps(adamw, p);
  require_close(values(p[0]), {0.326047153911418, -0.8156962200349377, 1.5402746965920278}, 1e-13);
  require_close(values(p[1]),
                {0.897837042079301, -0.6623053249013102, 0.10371867532686865, 2.8433344977589057}, 1e-13);
}

TEST_CASE("SGD gives PyTorch's numbers: plain, with momentum, Nesterov", "[optim]") {
  const auto p = two_parameters();
  const auto run = [&](optim::SGDOptions options, const Values& first, const Values& second) {
    optim::SGD sgd(p, options);
    run_ten_steps(sgd, p);
    require_close(values(p[0]), first, 1e-13);
    require_close(values(p[1]), second, 1e-13);
  };
  SECTION("plain") {
    run({.lr = 0.05, .weight_decay = 0.1}, {0.3654316911073962, -0.9251619857733694, 1.4781292534526582},
        {0.7374228910691428, -0.5496856595134353, 0.07046204034942488, 2.2088905535300754});
  }
  SECTION("momentum") {
    run({.lr = 0.05, .momentum = 0.9, .weight_decay = 0.1},
        {0.05432430300706586, -0.01872310570965059, 0.07380999090794518},
        {0.051524519606260706, -0.08401091782976827, 0.03381102567857184, 0.19923046590559879});
  }
  SECTION("Nesterov") {
    run({.lr = 0.05, .momentum = 0.9, .weight_decay = 0.1, .nesterov = true},
        {0.021503225942322342, -0.0068952834805818585, 0.041031756068818974},
        {0.02577219688865382, -0.04371562162777194, 0.011450886264604667, 0.0999108255951685});
  }
}

// Sizes that fill tasks, straddle them, and are smaller than a vector.
TEST_CASE("optimizers follow plain f64 loops on parameters of all sizes, in f32 and f64", "[optim]") {
  const std::vector<int64_t> sizes = {1, 63, 70001, 0, 7, 32768, 5};
  const DType dtype = GENERATE(DType::f32, DType::f64);
  const bool adam = GENERATE(true, false);
  const double lr = 0.01, decay = 0.1, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, momentum = 0.8;

  std::vector<Tensor> params;
  std::vector<Values> w, m, v;
  for (size_t k = 0; k < sizes.size(); ++k) {
    params.push_back(parameter(noise_values(sizes[k], int64_t(k)), {sizes[k]}, dtype));
    w.push_back(values(params[k]));
    m.emplace_back(sizes[k]);
    v.emplace_back(sizes[k]);
  }
  std::unique_ptr<optim::Optimizer> optimizer;
  if (adam) {
    optimizer = std::make_unique<optim::AdamW>(
        params, optim::AdamWOptions{.lr = lr, .betas = {beta1, beta2}, .eps = eps, .weight_decay = decay});
  } else {
    optimizer = std::make_unique<optim::SGD>(
        params, optim::SGDOptions{.lr = lr, .momentum = momentum, .weight_decay = decay});
  }
  for (int step = 1; step <= 10; ++step) {
    for (size_t k = 0; k < sizes.size(); ++k) {
      set_gradient(params[k], noise_values(sizes[k], int64_t(100 * step + k)));
      const Values g = values(params[k].grad());
      for (size_t i = 0; i < g.size(); ++i) {
        if (adam) {
          m[k][i] = beta1 * m[k][i] + (1 - beta1) * g[i];
          v[k][i] = beta2 * v[k][i] + (1 - beta2) * g[i] * g[i];
          const double m_hat = m[k][i] / (1 - std::pow(beta1, step)),
                       v_hat = v[k][i] / (1 - std::pow(beta2, step));
          w[k][i] = w[k][i] - lr * decay * w[k][i] - lr * m_hat / (std::sqrt(v_hat) + eps);
        } else {
          m[k][i] = momentum * m[k][i] + g[i] + decay * w[k][i];
          w[k][i] -= lr * m[k][i];
        }
      }
    }
    optimizer->step();
  }
  for (size_t k = 0; k < sizes.size(); ++k) {
    require_close(values(params[k]), w[k], dtype == DType::f32 ? 2e-6 : 1e-13);
  }
}

TEST_CASE("an optimizer step has the same bits on 1, 2 and 3 threads", "[optim]") {
  const bool adam = GENERATE(true, false);
  std::vector<std::vector<Tensor>> results;
  with_threads({1, 2, 3}, [&](int) {
    std::vector<Tensor> params;
    for (int64_t n : {100003, 17, 40000, 1}) params.push_back(parameter(noise_values(n, n), {n}, DType::f32));
    std::unique_ptr<optim::Optimizer> optimizer;
    if (adam) optimizer = std::make_unique<optim::AdamW>(params, optim::AdamWOptions{});
    if (!adam) optimizer = std::make_unique<optim::SGD>(params, optim::SGDOptions{.momentum = 0.9});
    for (int step = 0; step < 3; ++step) {
      for (const Tensor& p : params) set_gradient(p, noise_values(p.numel(), p.numel() + step));
      nn::clip_grad_norm(params, 0.5);
      optimizer->step();
    }
    for (const auto& [name, state] : optimizer->state_dict()) params.push_back(state);
    results.push_back(params);
  });
  for (size_t run = 1; run < results.size(); ++run) {
    for (size_t k = 0; k < results[0].size(); ++k) CHECK(same_bits(results[0][k], results[run][k]));
  }
}

TEST_CASE("a clipped step has the bits of clipping and a step, and leaves the gradients", "[optim]") {
  for (const double max_norm : {0.5, 1e9, 0.0}) {  // clips, does not, to nothing
    for (const double largest : {1.0, double(INFINITY)}) {
      CAPTURE(max_norm, largest);
      std::vector<Tensor> apart, at_once;
      for (std::vector<Tensor>* params : {&apart, &at_once}) {
        for (const auto& [n, dtype] : {std::pair{1003, DType::f32}, {17, DType::f64}, {1, DType::f32}})
          params->push_back(on_device(parameter(noise_values(n, n), {n}, dtype)));
      }
      optim::AdamW a(apart, {.lr = 0.05}), b(at_once, {.lr = 0.05});
      for (int step = 0; step < 3; ++step) {
        for (size_t k = 0; k < apart.size(); ++k) {
          std::vector<double> g = noise_values(apart[k].numel(), apart[k].numel() + step);
          g[0] = largest;
          set_gradient(apart[k], g), set_gradient(at_once[k], g);
        }
        const Tensor given = at_once[0].grad().clone();
        const Tensor norm = nn::clip_grad_norm_(apart, max_norm);
        a.step();
        CHECK(same_bits(b.clipped_step(max_norm), norm));
        CHECK(same_bits(at_once[0].grad(), given));
      }
      for (size_t k = 0; k < apart.size(); ++k) CHECK(same_bits(at_once[k], apart[k]));
      CHECK(same_bits(a.state_dict().at("step"), b.state_dict().at("step")));
      for (const double wrong : {-1.0, double(NAN)})
        CHECK(throws([&] { b.clipped_step(wrong); }, {"adamw: max_norm must not be negative"}));
      CHECK(same_bits(a.state_dict().at("step"), b.state_dict().at("step")));
    }
  }
}

TEST_CASE("f32 and f64 parameters share an optimizer", "[optim]") {
  const auto wide = two_parameters(), mixed = two_parameters();
  mixed[0].assign_(mixed[0].detach().to(DType::f32));
  optim::AdamW a(wide, {.lr = 0.05}), b(mixed, {.lr = 0.05});
  run_ten_steps(a, wide);
  run_ten_steps(b, mixed);
  CHECK(mixed[0].dtype() == DType::f32);
  require_close(values(mixed[0]), values(wide[0]), 1e-6);
  CHECK(same_bits(mixed[1], wide[1]));
}

TEST_CASE("optimizer state follows a parameter that changes its dtype in place", "[optim]") {
  const auto p = two_parameters(), reference = two_parameters();
  for (const Tensor& t : p) t.assign_(t.detach().to(DType::f32));
  optim::AdamW adamw(p, {.lr = 0.05}), expected(reference, {.lr = 0.05});
  run_ten_steps(adamw, p);
  for (const Tensor& t : p) t.assign_(t.detach().to(DType::f64));
  CHECK(adamw.state_dict().at("exp_avg.1").dtype() == DType::f64);
  run_ten_steps(adamw, p);
  run_ten_steps(expected, reference);
  run_ten_steps(expected, reference);
  require_close(values(p[0]), values(reference[0]), 1e-6);
  require_close(values(p[1]), values(reference[1]), 1e-6);
}

TEST_CASE("zero_grad drops gradients and a step without any changes nothing", "[optim]") {
  const auto p = two_parameters();
  optim::AdamW adamw(p, {});
  set_gradient(p[0], {1, 2, 3});
  adamw.zero_grad();
  CHECK_FALSE(p[0].has_grad());
  adamw.step();
  CHECK(values(p[0]) == Values{0.5, -1.25, 2.0});
  CHECK(adamw.state_dict().at("step").data<int64_t>()[0] == 0);
}

TEST_CASE("set_lr reaches all groups and the next step", "[optim]") {
  const auto p = two_parameters();
  optim::SGD sgd({{.params = {p[0]}, .lr = 7.0}, {.params = {p[1]}}}, {.lr = 0.5});
  CHECK(sgd.lr() == 7.0);
  sgd.set_lr(0.25);
  CHECK(sgd.lr() == 0.25);
  set_gradient(p[0], {1, 1, 1});
  set_gradient(p[1], {1, 1, 1, 1});
  sgd.step();
  CHECK(values(p[0]) == Values{0.25, -1.5, 1.75});
  CHECK(values(p[1]) == Values{0.75, -1.0, -0.15, 2.75});
  CHECK(throws([&] { sgd.set_lr(-1); }, {"sgd", "lr", "-1"}));
  CHECK_THROWS_AS(sgd.set_lr(INFINITY), std::invalid_argument);
  CHECK(sgd.lr() == 0.25);
}

TEST_CASE("optimizers refuse settings out of range, naming them", "[optim]") {
  const auto p = two_parameters();
  const auto adamw = [&](optim::AdamWOptions options) { optim::AdamW(p, options); };
  const auto sgd = [&](optim::SGDOptions options) { optim::SGD(p, options); };
  CHECK(throws([&] { adamw({.lr = -0.5}); }, {"adamw: lr", "-0.5"}));
  CHECK(throws([&] { adamw({.lr = NAN}); }, {"lr", "nan"}));
  CHECK(throws([&] { adamw({.betas = {1.0, 0.9}}); }, {"betas", "1"}));
  CHECK(throws([&] { adamw({.betas = {0.9, -0.25}}); }, {"betas", "-0.25"}));
  CHECK(throws([&] { adamw({.eps = -1}); }, {"eps"}));
  CHECK(throws([&] { adamw({.weight_decay = -2}); }, {"weight_decay", "-2"}));
  CHECK(throws([&] { sgd({.momentum = -0.5}); }, {"sgd: momentum", "-0.5"}));
  CHECK(throws([&] { sgd({.momentum = NAN}); }, {"momentum"}));
  CHECK(throws([&] { sgd({.nesterov = true}); }, {"nesterov needs momentum"}));
  CHECK(throws([&] { optim::SGD({{.params = {p[0]}, .lr = -3.0}}, {}); }, {"lr", "-3"}));
}

TEST_CASE("optimizers refuse parameters that are none, doubled, tied, or need no gradient", "[optim]") {
  const auto p = two_parameters();
  CHECK(throws([&] { optim::AdamW(std::vector<Tensor>{}, {}); }, {"no parameters"}));
  CHECK(throws([&] { optim::AdamW(std::vector{p[0], p[1], p[0]}, {}); }, {"parameter 2", "(3)"}));
  const Tensor alias = p[1].detach().requires_grad(true);
  CHECK(throws([&] { optim::AdamW({{.params = {p[1]}}, {.params = {alias}}}, {}); }, {"parameter 1"}));
  CHECK(throws([&] { optim::SGD(std::vector{p[0], here::arange(5)}, {}); }, {"parameter 1", "(5)", "i64"}));
}

TEST_CASE("a frozen parameter may be given and is left alone", "[optim]") {
  const auto p = two_parameters();
  p[1].requires_grad(false);
  optim::AdamW adamw(p, {});
  const Values trained = values(p[0]), frozen = values(p[1]);
  Tape tape;
  tape.backward(sum(p[0] * p[0]) + sum(p[1] * p[1]));
  adamw.step();
  CHECK(values(p[0]) != trained);
  CHECK(values(p[1]) == frozen);
}

TEST_CASE("a step refuses groups that were tampered with, and changes nothing", "[optim]") {
  const auto p = two_parameters();
  optim::AdamW adamw({{.params = {p[0]}}, {.params = {p[1]}}}, {});
  set_gradient(p[0], {1, 1, 1});
  set_gradient(p[1], {1, 1, 1, 1});
  const Tensor other = parameter({1}, {1});
  const std::vector<optim::ParamGroup> original = adamw.groups();
  SECTION("a parameter added") {
    adamw.groups()[1].params.push_back(other);
    CHECK(throws([&] { adamw.step(); }, {"adamw: parameter 2", "(1)"}));
    CHECK(throws([&] { adamw.state_dict(); }, {"adamw: parameter 2", "(1)"}));
  }
  SECTION("a parameter removed") {
    adamw.groups()[1].params.clear();
    CHECK(throws([&] { adamw.step(); }, {"2 parameters", "1"}));
  }
  SECTION("a parameter of another shape") {
    adamw.groups()[1].params[0] = other;
    CHECK(throws([&] { adamw.step(); }, {"parameter 1", "(1)"}));
  }
  SECTION("a learning rate out of range") {
    adamw.groups()[1].lr = -1;
    CHECK(throws([&] { adamw.step(); }, {"lr", "-1"}));
  }
  SECTION("a weight decay taken away") {
    adamw.groups()[1].weight_decay.reset();
    CHECK(throws([&] { adamw.step(); }, {"weight_decay"}));
  }
  adamw.groups() = original;
  CHECK(values(p[0]) == Values{0.5, -1.25, 2.0});
  CHECK(adamw.state_dict().at("step").data<int64_t>()[0] == 0);
}

TEST_CASE("an optimizer's state goes to another and it continues bit for bit", "[optim]") {
  const auto p = two_parameters(), q = two_parameters();
  const auto check = [&](optim::Optimizer& a, optim::Optimizer& b) {
    run_ten_steps(a, p);
    for (size_t k = 0; k < p.size(); ++k) q[k].copy_(p[k]);
    b.load_state_dict(a.state_dict());
    run_ten_steps(a, p);
    run_ten_steps(b, q);
    for (size_t k = 0; k < p.size(); ++k) CHECK(same_bits(p[k], q[k]));
    for (const auto& [name, state] : a.state_dict()) CHECK(same_bits(state, b.state_dict().at(name)));
  };
  SECTION("AdamW") {
    optim::AdamW a(p, {.lr = 0.05}), b(q, {.lr = 0.05});
    check(a, b);
    CHECK(a.state_dict().size() == 5);
    CHECK(a.state_dict().at("exp_avg_sq.1").shape() == Shape{2, 2});
  }
  SECTION("SGD") {
    optim::SGD a(p, {.lr = 0.05, .momentum = 0.9}), b(q, {.lr = 0.05, .momentum = 0.9});
    check(a, b);
    CHECK(a.state_dict().contains("momentum_buffer.1"));
  }
}

TEST_CASE("an optimizer refuses a state that does not fit, and changes nothing", "[optim]") {
  const auto p = two_parameters();
  optim::AdamW adamw(p, {.lr = 0.05});
  run_ten_steps(adamw, p);
  StateDict good, before;
  for (const auto& [name, state] : adamw.state_dict()) {
    good[name] = here::zeros(state.shape(), state.options());
    before[name] = state.clone();
  }
  StateDict bad = good;
  std::string key = "exp_avg_sq.1";
  SECTION("missing") { bad.erase(key); }
  SECTION("unexpected") { bad[key = "exp_avg.2"] = here::zeros({3}); }
  SECTION("another shape") { bad[key] = here::zeros({4}, {.dtype = DType::f64}); }
  SECTION("another dtype") { bad[key] = here::zeros({2, 2}); }
  CHECK_THROWS_AS(adamw.load_state_dict(bad), std::invalid_argument);
  CHECK(throws([&] { adamw.load_state_dict(bad); }, {"adamw", key}));
  for (const auto& [name, state] : adamw.state_dict()) CHECK(same_bits(state, before.at(name)));
  adamw.load_state_dict(good);
  CHECK(values(adamw.state_dict().at("exp_avg.0")) == Values{0, 0, 0});
}

TEST_CASE("the cosine schedule has nanoGPT's values", "[optim]") {
  const optim::CosineSchedule lr{.max_lr = 1e-3, .min_lr = 1e-4, .warmup = 100, .total = 2000};
  CHECK(lr(0) == Approx(1e-3 / 101));
  CHECK(lr(49) == Approx(1e-3 * 50 / 101));
  CHECK(lr(99) == Approx(1e-3 * 100 / 101));
  CHECK(lr(100) == 1e-3);
  CHECK(lr(1050) == Approx(5.5e-4));                                      // half way
  CHECK(lr(100 + 1900 / 4) == Approx(5.5e-4 + 4.5e-4 * std::sqrt(0.5)));  // cos(pi / 4)
  CHECK(lr(2000) == 1e-4);
  CHECK(lr(1000000) == 1e-4);
  for (int step = 100; step < 2000; ++step) REQUIRE(lr(step + 1) < lr(step));

  const optim::CosineSchedule plain{.max_lr = 1, .min_lr = 0, .warmup = 0, .total = 10};
  CHECK(plain(0) == 1);
  CHECK(plain(5) == Approx(0.5));
  const optim::CosineSchedule only_warmup{.max_lr = 1, .min_lr = 0.5, .warmup = 10, .total = 10};
  CHECK(only_warmup(9) == Approx(10.0 / 11));
  CHECK(only_warmup(10) == 0.5);
}
