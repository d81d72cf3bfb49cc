// The library on the simulated device, where the test decides what no GPU lets it decide: the order of threads, how
// much memory there is, and that nobody waits.
#include <altgrad/altgrad.h>
#include <altgrad/core/dispatch.h>
#include <altgrad/fp8/internal/kernels.h>

#include <cuda_runtime_api.h>
#include <simulator/simulator.h>

#include <functional>
#include <memory>

#include "attention.h"
#include "changed.h"
#include "errors.h"
#include "values.h"

using namespace altgrad;

namespace {

enum class Layers { plain, simulated, native };

// A step of training with all that a GPT has, and its results: the loss and all gradients.
std::vector<Tensor> results_of_a_step(DType dtype, Layers layers) {
  manual_seed(3);
  models::GPT model({.n_layer = 1,
                     .n_head = 2,
                     .n_embd = 24,
                     .block_size = 40,
                     .vocab_size = 37,
                     .dropout = 0.1,
                     .activations = dtype == DType::bf16 ? std::optional(dtype) : std::nullopt,
                     .gelu = dtype == DType::bf16 ? Gelu::tanh : Gelu::erf});
  if (layers != Layers::plain) {
    fp8::quantize_model(
        model, fp8::E4M3,
        {.input_format = fp8::E4M3, .grad_format = fp8::E5M2, .native_fp8 = layers == Layers::native});
  }
  if (dtype == DType::f64) model.to(dtype);
  model.to(device());
  optim::AdamW opt(model.parameters(), {});
  const Tensor x = here::randint(37, {2, 40}), y = here::randint(37, {2, 40});
  Tape tape;
  const Tensor loss = model.loss(x, y);
  tape.backward(loss);
  const Tensor norm = nn::clip_grad_norm_(model.parameters(), 0.1);
  opt.step();
  std::vector<Tensor> results = {loss, norm};
  for (const Tensor& p : model.parameters()) {
    results.push_back(p);
    results.push_back(p.grad());
  }
  for (const Tensor& t : results) t.to(Device::cpu());
  return results;
}

// Of kernels that a GPT has none of, and at sizes of several blocks.
std::vector<Tensor> results_of_ops(DType dtype) {
  Generator generator(5);
  const TensorOptions options{dtype, device()};
  const Tensor x = Tensor::randn({70, 301}, options, generator).requires_grad(true),
               w = Tensor::randn({301}, options, generator).requires_grad(true),
               wide = Tensor::randn({3, 2056}, options, generator).requires_grad(true),
               ids = Tensor::randint(70, {99}, device(), generator);
  // So many positions to a row that threads share them, and more of either than blocks take in one turn.
  const Tensor few = Tensor::randn({5, 40}, options, generator).requires_grad(true),
               many = Tensor::randint(5, {900}, device(), generator),
               weights = Tensor::randn({900, 40}, options, generator);
  Tape tape;
  const Tensor y = rms_norm(x, w) * softmax(x) + log_softmax(x), z = index_select(y, 0, ids);
  const Tensor total = sum(z) + mean(max(x, {1})) + var(x) + mean(layer_norm(where(greater(x, w), x, w), w)) +
                       cross_entropy(wide, ids.narrow(0, 0, 3)) * 0.3 +
                       sum(index_select(few, 0, many) * weights);
  tape.backward(total);
  return {total,
          x.grad(),
          w.grad(),
          wide.grad(),
          few.grad(),
          argmax(x),
          fp8::encode(x.detach(), fp8::E5M2, 0.1f)};
}

// By tiles, over several blocks, and with a head that is narrower than its tiles.
std::vector<Tensor> results_of_attention(DType dtype) {
  std::vector<Tensor> results;
  for (const int64_t size : {32, 88}) {
    const AttentionSizes s = {1, 130, 2, size};
    const AttentionResults of = run_attention(randn_as(dtype, {s.batch, s.length, 3 * s.channels()}, 1),
                                              randn_as(dtype, {s.batch, s.length, s.channels()}, 2), s);
    results.insert(results.end(), {of.y, of.lse, of.dqkv});
  }
  return results;
}

// Tiles of codes, several to a block, which at first looks for their amax alone.
std::vector<Tensor> results_of_rounding_to_codes() {
  const int64_t rows = 450, columns = 144;
  manual_seed(3);
  const Tensor x = here::randn({rows, columns}), scale = here::empty({}), sums = here::empty({columns}),
               y = here::empty({rows, columns}, {DType::u8}), y_t = here::empty({columns, rows}, {DType::u8});
  const fp8::AmaxHistory history(2, device());
  const detail::CurrentCuda current(0);
  kernels::quantize(current.device(),
                    kernels::Codes{y.ptr<uint8_t>(), y_t.ptr<uint8_t>(), kernels::Fp8::e5m2, rows, columns,
                                   sums.ptr<float>()},
                    x.ptr<float>(), scale.ptr<float>(), history.memory(true),
                    {fp8::Scaling::window, float(fp8::E5M2.max()), true},
                    {fp8::Rounder<float>(fp8::E5M2), {}}, x.numel());
  return {y, y_t, scale, sums};
}

// Token by token: attention over a cache, products of one row from a weight's codes.
std::vector<Tensor> results_of_generation() {
  manual_seed(3);
  models::GPT model =
      on_device(models::GPT({.n_layer = 1, .n_head = 2, .n_embd = 24, .block_size = 24, .vocab_size = 37}));
  fp8::quantize_model(model, fp8::E4M3, {.input_format = fp8::E4M3});
  model.eval();
  models::KVCache cache(2, 24);
  const std::vector<int64_t> sequences = {0, 1};
  const Tensor ids = here::randint(37, {2, 20});
  std::vector<Tensor> logits = {cache.extend(model, ids.narrow(1, 0, 17), sequences)};
  for (int64_t i = 17; i < 20; ++i) logits.push_back(cache.extend(model, ids.narrow(1, i, 1), sequences));
  return logits;
}

void check_in_all_orders(const std::function<std::vector<Tensor>()>& run) {
  std::vector<Tensor> first;
  for (const uint64_t order : {simulator::ascending, simulator::descending, uint64_t(7), uint64_t(8)}) {
    const Changed changed(simulator::settings().order, order);
    const std::vector<Tensor> now = run();
    synchronize(device());
    if (first.empty()) first = now;
    for (size_t i = 0; i < now.size(); ++i) {
      CAPTURE(order, i);
      CHECK(same_bits(now[i], first[i]));
    }
  }
}

}  // namespace

TEST_CASE("kernels give the same bits in any order of threads and blocks", "[backend]") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    check_in_all_orders([=] { return results_of_a_step(dtype, Layers::simulated); });
    check_in_all_orders([=] { return results_of_ops(dtype); });
  }
  for (const Layers layers : {Layers::plain, Layers::simulated, Layers::native})
    check_in_all_orders([=] { return results_of_a_step(DType::bf16, layers); });
  check_in_all_orders(results_of_generation);
  for (const DType dtype : {DType::bf16, DType::f32})
    check_in_all_orders([=] { return results_of_attention(dtype); });
  check_in_all_orders(results_of_rounding_to_codes);
}

TEST_CASE("a step waits for nothing until its loss is read", "[backend]") {
  models::GPT model = on_device(models::GPT(
      {.n_layer = 1, .n_head = 2, .n_embd = 16, .block_size = 8, .vocab_size = 11, .dropout = 0.1}));
  fp8::quantize_model(model, fp8::E4M3, {.input_format = fp8::E4M3, .grad_format = fp8::E5M2});
  optim::AdamW opt(model.parameters(), {});
  for (int step = 0; step < 5; ++step) {
    const int64_t before = simulator::counts().waits;
    const Tensor x = Tensor::randint(11, {2, 8}).to(device()), y = Tensor::randint(11, {2, 8}).to(device());
    Tape tape;
    const Tensor loss = model.loss(x, y);
    tape.backward(loss);
    nn::clip_grad_norm_(model.parameters(), 1.0);
    opt.step();
    opt.zero_grad();
    if (step > 0) CHECK(simulator::counts().waits == before);
    CHECK(loss.item<float>() > 0);
    CHECK(simulator::counts().waits > before);
  }
}

TEST_CASE("gelu and silu keep their input on a GPU, and are one kernel each way", "[backend]") {
  using Function = Tensor (*)(const Tensor&);
  for (const Function f : {Function([](const Tensor& x) { return gelu(x); }), Function(silu)}) {
    const int64_t n = 1 << 16;
    const Tensor x = here::randn({n}).requires_grad(true), dy = here::randn({n});
    synchronize(device());
    const int64_t launches = simulator::counts().launches, in_use = memory_stats(device()).in_use;
    Tape tape;
    const Tensor y = f(x);
    CHECK(memory_stats(device()).in_use - in_use == int64_t(y.nbytes()));
    tape.backward(y, dy);
    synchronize(device());
    CHECK(simulator::counts().launches - launches == 2);
  }
}

TEST_CASE("cross_entropy on a GPU has made its gradient in forward, and lets go of the logits", "[backend]") {
  const Tensor x = here::randn({200, 130}).requires_grad(true), targets = here::randint(130, {200});
  const auto gradient = [&](double dy) {
    x.set_grad({});
    const Tensor cotangent = here::full({}, dy);
    Tape tape;
    const Tensor loss = cross_entropy(x, targets);
    CHECK(same_bits(loss, cross_entropy(x.detach(), targets)));
    synchronize(device());
    const int64_t before = simulator::counts().launches;
    tape.backward(loss, cotangent);
    synchronize(device());
    CHECK(simulator::counts().launches == before + 1);
    return x.grad();
  };
  const Tensor of_one = gradient(1);
  CHECK(same_bits(gradient(0.25), of_one * 0.25));
  CHECK(same_bits(gradient(-3), of_one * -3.0));

  const int64_t before = memory_stats(device()).in_use;
  Tape tape;
  const Tensor loss = cross_entropy(x * 2.0, targets);
  const int64_t held = memory_stats(device()).in_use - before;
  CHECK(held >= int64_t(x.nbytes()));
  CHECK(held < int64_t(x.nbytes()) * 3 / 2);
}

TEST_CASE("the gradients of layer_norm in short rows are two launches, each as it is without the others",
          "[backend]") {
  const Tensor dy = here::randn({300, 96}), x = here::randn({300, 96}), w = here::randn({96}),
               b = here::randn({96});
  const auto run = [&](bool of_x, bool of_parameters) -> std::vector<Tensor> {
    x.requires_grad(of_x), w.requires_grad(of_parameters), b.requires_grad(of_parameters);
    for (const Tensor& t : {x, w, b}) t.set_grad({});
    Tape tape;
    const Tensor y = layer_norm(x, w, b);
    synchronize(device());
    const int64_t before = simulator::counts().launches;
    tape.backward(y, dy);
    synchronize(device());
    CHECK(simulator::counts().launches == before + (of_parameters ? 2 : 1));
    std::vector<Tensor> gradients;
    for (const Tensor& t : {x, w, b}) gradients.push_back(t.has_grad() ? t.grad() : Tensor());
    return gradients;
  };
  const std::vector<Tensor> all = run(true, true), of_x = run(true, false), of_parameters = run(false, true);
  CHECK(same_bits(all[0], of_x[0]));
  CHECK(same_bits(all[1], of_parameters[1]));
  CHECK(same_bits(all[2], of_parameters[2]));
  CHECK(max(altgrad::abs(all[2] - sum(dy, {0}))).item<double>() < 1e-5);
}

TEST_CASE("captured steps wait for nothing between two reads, and give the same bits in any order of threads",
          "[backend]") {
  std::vector<Tensor> first;
  for (const uint64_t order : {simulator::ascending, simulator::descending, uint64_t(7)}) {
    const Changed changed(simulator::settings().order, order);
    manual_seed(3);
    models::GPT model(
        {.n_layer = 1, .n_head = 2, .n_embd = 16, .block_size = 8, .vocab_size = 11, .dropout = 0.1});
    fp8::quantize_model(model, fp8::E4M3, {.input_format = fp8::E4M3, .grad_format = fp8::E5M2});
    model.to(device());
    optim::AdamW opt(model.parameters(), {});
    optim::CapturedStep step(device(), [&](const Tensor& x, const Tensor& y) {
      Tape tape;
      const Tensor loss = model.loss(x, y);
      tape.backward(loss);
      nn::clip_grad_norm_(model.parameters(), 1.0);
      opt.step();
      opt.zero_grad();
      return loss;
    });
    for (int read = 0; read < 3; ++read) {
      const int64_t before = simulator::counts().waits;
      std::vector<Tensor> losses;
      for (int i = 0; i < 5; ++i)
        losses.push_back(step(Tensor::randint(11, {2, 8}), Tensor::randint(11, {2, 8})));
      CHECK(simulator::counts().waits == before);
      for (Tensor& loss : losses) loss = loss.to(Device::cpu());
      CHECK(simulator::counts().waits > before);
      if (order == simulator::ascending) first.insert(first.end(), losses.begin(), losses.end());
      for (int i = 0; i < 5; ++i) CHECK(same_bits(losses[size_t(i)], first[size_t(5 * read + i)]));
    }
    CHECK(step.is_captured());
  }
}

TEST_CASE("what is copied to the device may be changed at once, also where staging is full", "[backend]") {
  for (const int64_t n : {1, 1000, 3'000'001}) {
    const Tensor from = Tensor::arange(n);
    const Tensor to = from.to(device());
    from.fill_(-1);
    CHECK(same_bits(to, Tensor::arange(n)));
  }
}

TEST_CASE("out of memory gives cached memory back first, names all sizes, and is survived", "[backend]") {
  empty_cache(device());
  const int64_t in_use = memory_stats(device()).in_use;
  const Changed changed(simulator::settings().memory, size_t(in_use) + (size_t(16) << 20));
  const int64_t most = 15 << 20;
  { here::empty({most / 2}, {DType::u8}); }  // stays in the cache
  const Tensor large = here::empty({most}, {DType::u8});
  CHECK(throws<std::runtime_error>([&] { here::empty({most}, {DType::u8}); },
                                   {"out of memory on cuda:0", "asked for 15728640 bytes"}));
  CHECK(sum(here::ones({10})).item<float>() == 10);
}

TEST_CASE("a device that a kernel has broken is an error of each call, and no destructor throws",
          "[backend]") {
  const auto throws_of_it = [](const auto& f) {
    return throws<std::runtime_error>(f, {"an illegal memory access was encountered"});
  };
  const Tensor x = here::ones({1000});
  auto step = std::make_unique<optim::CapturedStep>(device(), [](const Tensor& a) { return a + a; });
  for (int i = 0; i < 4; ++i) (*step)(x);
  CHECK(step->is_captured());
  {
    const Changed changed(simulator::settings().is_lost, true);
    CHECK(throws_of_it([&] { x + x; }));
    CHECK(throws_of_it([&] { (*step)(x); }));
    CHECK(cudaPeekAtLastError() == cudaSuccess);  // what was thrown is not left for others as well
    CHECK(throws_of_it([&] { x.to(Device::cpu()); }));
    CHECK(throws_of_it([&] { here::zeros({1 << 22}); }));
    CHECK(throws_of_it([&] { synchronize(device()); }));
    step.reset();
    empty_cache(device());
  }
  {
    const Changed changed(simulator::settings().is_lost, false);
    int calls = 0;
    optim::CapturedStep breaks(device(), [&](const Tensor& a) {
      simulator::settings().is_lost = ++calls == 3;  // while it is captured
      return a + a;
    });
    breaks(x), breaks(x);
    CHECK(throws_of_it([&] { breaks(x); }));
  }
  CHECK(values(x + x) == std::vector<double>(1000, 2));  // no earlier error is reported again
}

TEST_CASE("two devices have their own memory, and what lies on one is no operand on the other", "[backend]") {
  const Changed changed(simulator::settings().devices, 2);
  const Device second = Device::cuda(1);
  const Tensor x = here::randn({1000}), there = x.to(second);
  CHECK(there.device() == second);
  CHECK(memory_stats(second).in_use > 0);
  CHECK(same_bits(there + there, x * 2.0));
  CHECK(same_bits(there.to(device()), x));
  CHECK(throws([&] { x + there; }, {"add", "cuda:0", "cuda:1"}));
  const Tensor leaf = here::ones({2}).requires_grad(true);
  Tape tape;
  const Tensor y = leaf * 2.0;
  CHECK(throws([&] { tape.backward(y, Tensor::ones({2}, {.device = second})); },
               {"cotangent (2) f32 on cuda:1 does not match (2) f32 on cuda:0"}));

  optim::CapturedStep step(device(), [&](const Tensor& a) { return there.copy_(there * 2.0), a; });
  step(x), step(x);
  CHECK(throws([&] { step(x); }, {"captured step of cuda:0 must not work on cuda:1"}));
  CHECK(same_bits(there, x * 4.0));
  const Tensor other = there.clone();
  optim::CapturedStep copies(device(), [&](const Tensor& a) { return there.copy_(other), a; });
  copies(x), copies(x);
  CHECK(throws([&] { copies(x); }, {"captured step of cuda:0 must not work on cuda:1"}));
  optim::CapturedStep waits(device(), [&](const Tensor& a) { return synchronize(second), a; });
  waits(x), waits(x);
  CHECK(throws([&] { waits(x); }, {"captured step of cuda:0 must not work on cuda:1"}));
}

TEST_CASE("a device that is not there is named, with those that are, and so is one that is too old",
          "[backend]") {
  CHECK(throws<std::runtime_error>([] { Tensor::ones({2}, {.device = Device::cuda(7)}); },
                                   {"cuda:7 is not there", "1 CUDA device"}));
  {
    const Changed more(simulator::settings().devices, 3), old(simulator::settings().capability, 75);
    CHECK(throws<std::runtime_error>([] { Tensor::ones({2}, {.device = Device::cuda(2)}); },
                                     {"cuda:2 has compute capability 7.5", "8.0 or higher"}));
  }
  const Changed changed(simulator::settings().devices, 0);
  CHECK(cuda_device_count() == 0);
  CHECK(throws<std::runtime_error>([] { Tensor::ones({2}, {.device = Device::cuda(7)}); },
                                   {"cuda:7 is not there", "no CUDA-capable device"}));
}

namespace {
template <class T>
void double_it(const Cpu&, T* y, const T* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = 2 * x[i];
}
}  // namespace

TEST_CASE("a kernel for the CPU alone is an error where it is called with a GPU's tensors", "[backend]") {
  const auto run = [](const Tensor& x) {
    const Tensor y = Tensor::empty(x.shape(), x.options());
    launch("double_it", AG_KERNEL(double_it), y, x, x.numel());
    return y;
  };
  CHECK(values(run(Tensor::ones({2}))) == std::vector<double>{2, 2});
  CHECK(throws<std::runtime_error>([&] { run(here::ones({2})); },
                                   {"double_it", "no kernel for f32 on cuda:0"}));
}
