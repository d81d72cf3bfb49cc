// Captured steps against the same steps made eagerly, to the last bit; what they refuse, and what is left then. On the CPU
// each step is eager.
#include <altgrad/altgrad.h>

#include "errors.h"
#include "values.h"

using namespace altgrad;

namespace {

const bool captures = !device().is_cpu();

// A GPT in training: dropout, and where it is quantized amax histories of the past and stochastic rounding.
struct Training {
  explicit Training(bool quantized = false, std::optional<DType> activations = {})
      : model(seeded_model(activations)) {
    if (quantized) {
      fp8::quantize_model(model, fp8::E4M3,
                          {.input_format = fp8::E4M3,
                           .grad_format = fp8::E5M2,
                           .scaling = fp8::Scaling::delayed,
                           .rounding = fp8::Rounding::stochastic});
    }
    model.to(device());
    opt.emplace(model.decay_groups(0.1), optim::AdamWOptions{.lr = 1e-3});
    parameters = model.parameters();
  }

  static models::GPT seeded_model(std::optional<DType> activations = {}) {
    manual_seed(3);
    return models::GPT({.n_layer = 1,
                        .n_head = 2,
                        .n_embd = 16,
                        .block_size = 8,
                        .vocab_size = 11,
                        .dropout = 0.2,
                        .activations = activations,
                        .gelu = activations ? Gelu::tanh : Gelu::erf});  // as one op with the MLP's products
  }
  Tensor step(const Tensor& x, const Tensor& y) {
    Tape tape;
    const Tensor loss = model.loss(x, y);
    tape.backward(loss);
    nn::clip_grad_norm_(parameters, 1.0);
    opt->step();
    opt->zero_grad();
    return loss;
  }
  optim::CapturedStep captured() {
    return {device(), [this](const Tensor& x, const Tensor& y) { return step(x, y); }};
  }
  Tensor batch(int64_t rows = 2) { return Tensor::randint(11, {rows, 8}, Device::cpu(), batches); }
  // Parameters, histories, what the optimizer keeps, and where the generators stand.
  std::vector<Tensor> state() {
    std::vector<Tensor> all;
    for (const StateDict& dict : {model.state_dict(), opt->state_dict()}) {
      for (const auto& [name, tensor] : dict) all.push_back(host(tensor).detach().copied());
    }
    for (const Generator* g : {&default_generator(), &rounding_generator()})
      all.push_back(Tensor::from({int64_t(g->state().seed), int64_t(g->state().next)}, {2}));
    return all;
  }

  models::GPT model;
  std::optional<optim::AdamW> opt;
  std::vector<Tensor> parameters;
  Generator batches{5};
};

void check_same(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    CHECK(same_bits(a[i], b[i]));
  }
}

// Runs a loop that calls step(x, y) eagerly and captured, and compares all losses and what is left at the end.
void check_same_runs(bool quantized,
                     const std::function<void(Training&, const std::function<void(Tensor, Tensor)>&)>& loop,
                     int expected_captures = 1, std::optional<DType> activations = {}) {
  std::vector<std::vector<Tensor>> runs;
  for (const bool capture : {false, true}) {
    Training training(quantized, activations);
    optim::CapturedStep captured = training.captured();
    std::vector<Tensor> results;
    int seen = 0;
    loop(training, [&](const Tensor& x, const Tensor& y) {
      const bool before = captured.is_captured();
      results.push_back(capture ? captured(x, y) : training.step(x.to(device()), y.to(device())).detach());
      seen += captured.is_captured() && !before;
    });
    if (capture && captures) CHECK(seen == expected_captures);
    for (Tensor& t : training.state()) results.push_back(t);
    runs.push_back(results);
  }
  check_same(runs[0], runs[1]);
}

}  // namespace

TEST_CASE("captured steps in bf16 have the bits of eager ones", "[captured_step]") {
  if (device().is_cpu()) SKIP_TEST("bf16 computes on a GPU only");
  check_same_runs(
      false,
      [](Training& t, const auto& step) {
        for (int i = 0; i < 8; ++i) step(t.batch(), t.batch());
      },
      1, DType::bf16);
}

TEST_CASE(
    "fifty captured steps have the bits of eager ones, with dropout, and with 8 bits and delayed scaling",
    "[captured_step]") {
  for (const bool quantized : {false, true}) {
    CAPTURE(quantized);
    const optim::CosineSchedule lr{1e-2, 1e-3, 10, 50};
    check_same_runs(quantized, [&](Training& t, const auto& step) {
      for (int64_t i = 0; i < 50; ++i) {
        t.opt->set_lr(lr(i));
        step(t.batch(), t.batch());
      }
    });
  }
}

TEST_CASE("a step is captured again when a shape changes", "[captured_step]") {
  check_same_runs(
      true,
      [](Training& t, const auto& step) {
        for (const int64_t rows : {2, 3, 2}) {
          for (int i = 0; i < 4; ++i) step(t.batch(rows), t.batch(rows));
        }
      },
      3);
}

TEST_CASE("a captured step follows weight decays, seeds, loaded states and moved parameters",
          "[captured_step]") {
  check_same_runs(
      true,
      [](Training& t, const auto& step) {
        const auto some = [&](int n) {
          for (int i = 0; i < n; ++i) step(t.batch(), t.batch());
        };
        some(4);
        const StateDict weights = Training(true).model.state_dict(),
                        moments = Training(true).opt->state_dict();
        t.opt->groups()[0].weight_decay = 0.5;
        some(4);
        manual_seed(9);
        some(4);
        t.model.load_state_dict(weights);
        t.opt->load_state_dict(moments);
        some(2);
        t.model.to(Device::cpu());
        t.model.to(device());
        some(4);
      },
      4);
}

TEST_CASE("a captured step follows surgery", "[captured_step]") {
  check_same_runs(
      false,
      [](Training& t, const auto& step) {
        const auto some = [&] {
          for (int i = 0; i < 4; ++i) step(t.batch(), t.batch());
        };
        some();
        fp8::quantize_model(t.model, fp8::E4M3, {.grad_format = fp8::E5M2});
        some();
        fp8::dequantize_model(t.model);
        some();
      },
      3);
}

TEST_CASE("a captured evaluation follows a model that has been elsewhere, and the precision of products",
          "[captured_step]") {
  Training t(false);
  t.model.eval();
  const Tensor x = t.batch(), y = t.batch();
  const auto loss = [&](const Tensor& in, const Tensor& targets) { return t.model.loss(in, targets); };
  optim::CapturedStep step(device(), loss);
  const auto check = [&] {
    for (int i = 0; i < 4; ++i) CHECK(same_bits(step(x, y), loss(x.to(device()), y.to(device()))));
    if (captures) CHECK(step.is_captured());
  };
  check();
  t.model.to(Device::cpu());
  const Tensor taken = here::full({int64_t(1) << 16}, 77);  // where something of the model may have been
  t.model.to(device());
  check();
  {
    const struct Precision {
      Precision() { set_matmul_precision(MatmulPrecision::bf16); }
      ~Precision() { set_matmul_precision(MatmulPrecision::f32); }
    } bf16;
    check();
  }
  check();
}

TEST_CASE("a captured evaluation follows weights that are rounded to codes, and codes follow captured steps",
          "[captured_step]") {
  manual_seed(3);
  auto layer = fp8::QuantizedLinear::from_linear(on_device(nn::Linear(16, 8)), fp8::E4M3,
                                                 {.input_format = std::nullopt});
  layer.eval();
  const Tensor x = here::randn({9, 16}), w = layer.weight();
  const auto rounded = [&] {  // on a tape no codes are kept
    Tape tape;
    return layer(x).detach();
  };
  optim::CapturedStep evaluate(device(), [&](const Tensor& in) { return layer(in); });
  for (int i = 0; i < 6; ++i) {
    CHECK(same_bits(evaluate(x), rounded()));
    w.copy_(w.detach() * (1.25 + 0.125 * i));
  }
  optim::CapturedStep grow(device(), [&](const Tensor& in) { return w.copy_(w.detach() * 1.375), in; });
  for (int i = 0; i < 6; ++i) {
    CHECK(same_bits(layer(x), rounded()));
    grow(x);
  }
  if (captures) CHECK((evaluate.is_captured() && grow.is_captured()));
}

TEST_CASE("results of captured steps are their own", "[captured_step]") {
  Training t;
  optim::CapturedStep step = t.captured();
  const Tensor x = t.batch().to(device()), y = t.batch().to(device());
  std::vector<Tensor> losses;
  std::vector<float> read;
  for (int i = 0; i < 6; ++i) {
    losses.push_back(step(x, y));
    read.push_back(losses.back().item<float>());
  }
  for (size_t i = 0; i < losses.size(); ++i) CHECK(losses[i].item<float>() == read[i]);
  CHECK(read[5] < read[0]);
}

TEST_CASE("gradients are dropped in a captured step, before or after it, or add up", "[captured_step]") {
  for (const int where : {0, 1, 2}) {
    CAPTURE(where);
    std::vector<std::vector<Tensor>> runs;
    for (const bool capture : {false, true}) {
      Training t;
      const auto make_step = [&](const Tensor& x, const Tensor& y) {
        if (where == 0) t.opt->zero_grad();
        Tape tape;
        const Tensor loss = t.model.loss(x, y);
        tape.backward(loss);
        t.opt->step();
        return loss;
      };
      optim::CapturedStep step(capture ? device() : Device::cpu(), make_step);
      std::vector<Tensor> results;
      for (int i = 0; i < 6; ++i) {
        const Tensor x = t.batch().to(device()), y = t.batch().to(device());
        results.push_back(capture ? step(x, y) : make_step(x, y).detach());
        if (where != 1)
          for (const Tensor& p : t.parameters) results.push_back(p.grad().copied());
        if (where == 1) t.opt->zero_grad();
      }
      for (Tensor& s : t.state()) results.push_back(s);
      runs.push_back(results);
    }
    check_same(runs[0], runs[1]);
  }
}

TEST_CASE("a captured step draws from a generator that it was given, and recomputes what was checkpointed",
          "[captured_step]") {
  std::vector<std::vector<Tensor>> runs;
  for (const bool capture : {false, true}) {
    manual_seed(1);
    Generator own(7);
    const Tensor w = here::ones({40}).requires_grad(true);
    optim::SGD opt({w}, {.lr = 0.1, .momentum = 0.9});
    const auto make_step = [&](const Tensor& x) {
      Tape tape;
      const auto noisy = [&](const Tensor& t) { return dropout(dropout(t, 0.5) * w, 0.3); };
      tape.backward(sum(checkpoint(noisy, dropout(x * w, 0.1, own))));
      opt.step();
      opt.zero_grad();
      return Tensor::randn({3}, {.device = device()}, own);
    };
    optim::CapturedStep step(device(), make_step, {&own});
    std::vector<Tensor> results;
    for (int i = 0; i < 6; ++i) {
      const Tensor x = here::full({40}, i + 1);
      results.push_back(capture ? step(x) : make_step(x));
    }
    CHECK(step.is_captured() == (capture && captures));
    results.push_back(w.detach());
    results.push_back(Tensor::from({int64_t(own.state().next)}, {1}));
    runs.push_back(results);
  }
  check_same(runs[0], runs[1]);
}

TEST_CASE("what no replay could repeat throws in the capture, which names it and leaves everything as it was",
          "[captured_step]") {
  Training t(true);
  std::function<void(const Tensor&)> extra = [](const Tensor&) {};
  optim::CapturedStep step(device(), [&](const Tensor& x, const Tensor& y) {
    const Tensor loss = t.step(x, y);
    extra(loss);
    return loss;
  });
  for (int i = 0; i < 2; ++i) step(t.batch(), t.batch());
  CHECK_FALSE(step.is_captured());
  if (!captures) return;
  const std::vector<Tensor> before = t.state();
  const int64_t in_use = memory_stats(device()).in_use;
  Generator other(1);
  optim::CapturedStep inner(device(), [](const Tensor& x) { return x; });
  struct Case {
    std::function<void(const Tensor&)> extra;
    const char* text;
  };
  const Case cases[] = {
      {[](const Tensor& loss) { loss.item<float>(); }, "must not read what it computes"},
      {[](const Tensor& loss) { loss.to(Device::cpu()); }, "must not read what it computes"},
      {[](const Tensor&) { Tensor::ones({2}).to(device()); }, "must not copy from the host"},
      {[](const Tensor&) { synchronize(device()); }, "must not wait"},
      {[&](const Tensor&) { here::rand({2}, {}, other); }, "a generator that it was not given"},
      {[&](const Tensor& loss) { inner(loss); }, "called by a step that is being captured"},
      {[&](const Tensor&) {
         t.step(here::zeros({2, 8}, {DType::i64}), here::zeros({2, 8}, {DType::i64}));
       },
       "two steps of one optimizer"},
      {[](const Tensor&) { fail("its own"); }, "its own"},
      {[&](const Tensor&) {
         Tape tape;
         tape.backward(sum(t.parameters[0]));
         fail("its own");
       },
       "its own"},
  };
  for (const auto& [what, text] : cases) {
    CAPTURE(text);
    extra = what;
    CHECK(throws([&] { step(t.batch(), t.batch()); }, {text}));
    CHECK_FALSE(step.is_captured());
    check_same(t.state(), before);
    for (const Tensor& p : t.parameters) CHECK_FALSE(p.has_grad());
    CHECK(memory_stats(device()).in_use == in_use);
  }
  extra = [](const Tensor&) {};
  for (int i = 0; i < 3; ++i) CHECK(std::isfinite(step(t.batch(), t.batch()).item<float>()));
  CHECK(step.is_captured());
}

TEST_CASE("an optimizer's errors come before a captured step changes anything", "[captured_step]") {
  Training t;
  optim::CapturedStep step = t.captured();
  for (int i = 0; i < 4; ++i) step(t.batch(), t.batch());
  const std::vector<Tensor> before = t.state();
  t.opt->groups()[1].lr = -1;
  CHECK(throws([&] { step(t.batch(), t.batch()); }, {"adamw", "lr", "-1"}));
  if (captures) check_same(t.state(), before);
  t.opt->zero_grad();
  t.opt->set_lr(1e-3);
  CHECK(std::isfinite(step(t.batch(), t.batch()).item<float>()));
  CHECK(step.is_captured() == captures);
}

TEST_CASE("an id out of range in a replayed step is thrown where its loss is read", "[captured_step]") {
  Training t;
  optim::CapturedStep step = t.captured();
  for (int i = 0; i < 4; ++i) step(t.batch(), t.batch());
  const Tensor ids = Tensor::full({2, 8}, 11, {DType::i64}), targets = t.batch();
  CHECK(throws([&] { step(ids, targets).item<float>(); }, {"11"}));
  CHECK(step(t.batch(), t.batch()).numel() == 1);
}

TEST_CASE("a captured step keeps its memory, and gives it back when it is reset", "[captured_step]") {
  Training t;
  optim::CapturedStep step = t.captured();
  const auto now = [] {
    synchronize(device());
    return memory_stats(device());
  };
  for (int i = 0; i < 2; ++i) step(t.batch(), t.batch());
  const MemoryStats eager = now();
  step(t.batch(), t.batch());
  const MemoryStats captured = now();
  if (captures) CHECK(captured.in_use > eager.in_use);
  for (int i = 0; i < 10; ++i) step(t.batch(), t.batch());
  CHECK(now().in_use == captured.in_use);
  CHECK(now().system_allocations == captured.system_allocations);
  empty_cache(device());
  const Tensor others = here::ones({1 << 16});  // lies elsewhere
  const float loss = step(t.batch(), t.batch()).item<float>();
  CHECK(std::isfinite(loss));
  CHECK(sum(others).item<float>() == 1 << 16);
  step.reset();
  CHECK_FALSE(step.is_captured());
  CHECK(now().in_use <= eager.in_use + int64_t(others.nbytes()));
}

TEST_CASE("captured steps check their inputs", "[captured_step]") {
  optim::CapturedStep step(device(), [](const Tensor& x) { return x + x; });
  const Tensor x = here::ones({3});
  CHECK(throws([&] { step(x, x); }, {"got 2 inputs, the function has 1"}));
  CHECK(throws([&] { step(here::ones({3}).requires_grad(true)); }, {"takes part in a gradient"}));
  CHECK(throws([&] { step(Tensor()); }, {"empty"}));
  for (int i = 0; i < 4; ++i) CHECK(values(step(x)) == std::vector<double>{2, 2, 2});
  optim::CapturedStep nothing(device(), [](const Tensor&) { return Tensor(); });
  for (int i = 0; i < 4; ++i) CHECK_FALSE(nothing(x).defined());
}
