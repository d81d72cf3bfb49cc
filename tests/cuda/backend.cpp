// The library on the simulated device, where the test decides what no GPU lets it decide: the order of threads, how
// much memory there is, and that nobody waits.
#include <altgrad/altgrad.h>
#include <altgrad/core/dispatch.h>
#include <altgrad/core/internal/functors.h>
#include <altgrad/core/internal/kernels/elementwise.h>
#include <altgrad/core/internal/kernels/gather.h>
#include <altgrad/core/internal/kernels/gemm.h>
#include <altgrad/core/internal/kernels/random.h>
#include <altgrad/core/internal/kernels/reduce.h>
#include <altgrad/core/internal/kernels/rows.h>

#include <simulator/simulator.h>

#include <functional>
#include <thread>

#include "attention.h"
#include "errors.h"
#include "values.h"

using namespace altgrad;

namespace {

// A setting of the simulator, put back at the end.
template <class T>
class Changed {
 public:
  Changed(T& setting, T value) : setting_(setting), before_(std::exchange(setting, value)) {}
  ~Changed() { setting_ = before_; }
  Changed(const Changed&) = delete;
  Changed& operator=(const Changed&) = delete;

 private:
  T& setting_;
  T before_;
};

// A step of training with all that a GPT has, and its results: the loss and all gradients.
std::vector<Tensor> results_of_a_step(DType dtype) {
  manual_seed(3);
  models::GPT model(
      {.n_layer = 1, .n_head = 2, .n_embd = 24, .block_size = 40, .vocab_size = 37, .dropout = 0.1});
  fp8::quantize_model(model, fp8::E4M3, {.input_format = fp8::E4M3, .grad_format = fp8::E5M2});
  model.to(dtype);
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
               ids = Tensor::randint(70, {99}, device(), generator);
  Tape tape;
  const Tensor y = rms_norm(x, w) * softmax(x) + log_softmax(x), z = index_select(y, 0, ids);
  const Tensor total = sum(z) + mean(max(x, {1})) + var(x) + mean(layer_norm(where(greater(x, w), x, w), w));
  tape.backward(total);
  return {total, x.grad(), w.grad(), argmax(x), fp8::encode(x.detach(), fp8::E5M2, 0.1f)};
}

// By tiles, over several blocks, and with a head that is narrower than its tiles.
std::vector<Tensor> results_of_attention() {
  std::vector<Tensor> results;
  for (const int64_t size : {32, 88}) {
    const AttentionSizes s = {1, 130, 2, size};
    const AttentionResults of = run_attention(randn_bf16({s.batch, s.length, 3 * s.channels()}, 1),
                                              randn_bf16({s.batch, s.length, s.channels()}, 2), s);
    results.insert(results.end(), {of.y, of.lse, of.dqkv});
  }
  return results;
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
    check_in_all_orders([=] { return results_of_a_step(dtype); });
    check_in_all_orders([=] { return results_of_ops(dtype); });
  }
  check_in_all_orders(results_of_attention);
}

namespace {

// What kernels make of (rows, n) numbers that bf16 holds, stored as T, `offset` elements behind where memory begins.
template <class T>
std::vector<Tensor> results_of_kernels(int64_t rows, int64_t n, int64_t offset) {
  using C = Compute<T>;
  Generator generator(11);
  std::vector<Tensor> results;
  const auto behind = [&](const Tensor& t) { return cat({here::zeros({offset}), t}, 0); };
  const auto in = [&](int64_t count, DType dtype) {
    const Tensor numbers = here::randn({count}, {}, generator).to(DType::bf16).to(DType::f32);
    return behind(numbers).to(dtype);
  };
  const auto ids = [&](int64_t high) {
    return cat({here::zeros({offset}).to(DType::i64), Tensor::randint(high, {rows}, device(), generator)}, 0);
  };
  const DType stored = dtype_of<T>, computed = dtype_of<C>;
  const auto at = [&]<class U>(const Tensor& t, U*) { return t.ptr<U>() + offset; };
  const auto run = [&](int64_t count, DType dtype, auto kernel) {
    const Tensor y = behind(here::full({count}, 7)).to(dtype);
    dispatch_device(device(), [&](const auto& on) {
      if constexpr (std::is_same_v<decltype(on), const Cuda&>) kernel(on, y);
    });
    results.push_back(y.to(DType::f64).narrow(0, offset, count));
  };
  T* const t = nullptr;
  C* const c = nullptr;
  int64_t* const i = nullptr;

  const int64_t all = rows * n;
  const Tensor x = in(all, stored), dy = in(all, stored), w = in(n, computed), b = in(n, computed);
  const Tensor targets = ids(n), one = here::ones({}, {computed}),
               moments = here::empty({rows * 3}, {computed}), lse = here::empty({rows * 2}, {computed}),
               rstd = here::empty({rows}, {computed});
  auto* const means = reinterpret_cast<kernels::Moments<C>*>(moments.ptr<C>());
  auto* const sums = reinterpret_cast<kernels::LogSumExp<C>*>(lse.ptr<C>());
  namespace k = kernels;
  run(all, stored, [&](auto& on, auto& y) { k::unary(on, GeluTanh(), at(y, t), at(x, t), all); });
  run(all, stored, [&](auto& on, auto& y) {
    k::LoopNest rows_of_x;
    rows_of_x.add_loop(rows, n, 0);
    rows_of_x.add_loop(n, 1, 1);
    k::binary_grad<Mul, T>(on, Mul(), nullptr, at(y, t), at(dy, t), at(x, t), at(dy, t), rows_of_x);
  });
  run(all, stored, [&](auto& on, auto& y) { k::axpy(on, at(y, t), at(x, t), 0.5, all); });
  run(all, stored, [&](auto& on, auto& y) { k::dropout(on, at(y, t), at(x, t), 0.3, {3, 4}, all); });
  run(all, stored, [&](auto& on, auto& y) { k::softmax(on, at(y, t), at(x, t), rows, n); });
  run(all, stored, [&](auto& on, auto& y) { k::softmax_grad(on, at(y, t), at(dy, t), at(x, t), rows, n); });
  run(all, stored, [&](auto& on, auto& y) { k::log_softmax(on, at(y, t), at(x, t), rows, n); });
  run(all, stored,
      [&](auto& on, auto& y) { k::log_softmax_grad(on, at(y, t), at(dy, t), at(x, t), rows, n); });
  run(all, stored, [&](auto& on, auto& y) {
    k::layer_norm(on, at(y, t), means, at(x, t), at(w, c), at(b, c), rows, n, 1e-5);
  });
  for (const double beta : {0.0, 1.0}) {
    run(all, stored, [&](auto& on, auto& y) {
      k::layer_norm_grad<T>(on, at(y, t), beta, nullptr, nullptr, at(dy, t), at(x, t), means, at(w, c), rows,
                            n);
    });
  }
  run(n, computed, [&](auto& on, auto& y) {
    k::layer_norm_grad<T>(on, nullptr, 0, at(y, c), nullptr, at(dy, t), at(x, t), means, at(w, c), rows, n);
  });
  run(all, stored, [&](auto& on, auto& y) {
    k::rms_norm(on, at(y, t), rstd.ptr<C>(), at(x, t), at(w, c), rows, n, 1e-5);
  });
  run(all, stored, [&](auto& on, auto& y) {
    k::rms_norm_grad<T>(on, at(y, t), 0, nullptr, at(dy, t), at(x, t), rstd.ptr<C>(), at(w, c), rows, n);
  });
  run(rows, computed, [&](auto& on, auto& y) {
    k::cross_entropy(on, at(y, c), sums, at(x, t), at(targets, i), rows, n, -1);
  });
  run(all, stored, [&](auto& on, auto& y) {
    k::cross_entropy_grad(on, at(y, t), one.ptr<C>(), one.ptr<C>(), at(x, t), sums, at(targets, i), rows, n,
                          -1);
  });
  run(n, computed, [&](auto& on, auto& y) { k::sum<T>(on, at(y, c), at(x, t), 1, rows, n, 3); });
  run(rows, computed, [&](auto& on, auto& y) { k::sum<T>(on, at(y, c), at(x, t), rows, n, 1, 1); });
  if constexpr (std::is_same_v<T, C>) {
    for (const int64_t high : {int64_t(3), rows}) {
      const Tensor from = ids(high);
      run(high * n, stored, [&](auto& on, auto& y) {
        k::gather_grad(on, at(y, t), 1.0, at(dy, t), at(from, i), 1, high, rows, n);
      });
    }
  }
  return results;
}

// Rows of a warp and of a block, in packs and not, of more blocks than one.
constexpr int64_t row_shapes[][2] = {{1, 1}, {5, 64}, {300, 40}, {3, 65}, {4, 1032}, {2, 4099}};

double largest(const Tensor& t) { return max(altgrad::abs(t)).item<double>(); }

}  // namespace

TEST_CASE("kernels give the same bits wherever memory begins", "[backend]") {
  for (const auto& [rows, n] : row_shapes) {
    const auto f32 = results_of_kernels<float>(rows, n, 0), odd32 = results_of_kernels<float>(rows, n, 1);
    const auto bf16 = results_of_kernels<bfloat16>(rows, n, 0),
               odd16 = results_of_kernels<bfloat16>(rows, n, 1);
    for (size_t i = 0; i < f32.size(); ++i) {
      CAPTURE(rows, n, i);
      CHECK(same_bits(f32[i], odd32[i]));
      if (i < bf16.size()) CHECK(same_bits(bf16[i], odd16[i]));
    }
  }
}

TEST_CASE("kernels give what they give in f64, to the precision of what they store", "[backend]") {
  for (const auto& [rows, n] : row_shapes) {
    const auto f64 = results_of_kernels<double>(rows, n, 0), f32 = results_of_kernels<float>(rows, n, 0),
               bf16 = results_of_kernels<bfloat16>(rows, n, 0);
    for (size_t i = 0; i < f64.size(); ++i) {
      CAPTURE(rows, n, i);
      const double scale = std::max(largest(f64[i]), 1.0);
      CHECK(largest(f32[i] - f64[i]) <= 1e-5 * scale);
      if (i < bf16.size()) CHECK(largest(bf16[i] - f64[i]) <= 0x1p-8 * scale);
    }
  }
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

TEST_CASE("two devices have their own memory, and what lies on one is no operand on the other", "[backend]") {
  const Changed changed(simulator::settings().devices, 2);
  const Device second = Device::cuda(1);
  const Tensor x = here::randn({1000}), there = x.to(second);
  CHECK(there.device() == second);
  CHECK(memory_stats(second).in_use > 0);
  CHECK(same_bits(there + there, x * 2.0));
  CHECK(same_bits(there.to(device()), x));
  CHECK(throws([&] { x + there; }, {"add", "cuda:0", "cuda:1"}));
}

TEST_CASE("a device that is not there is named, with those that are", "[backend]") {
  CHECK(throws<std::runtime_error>([] { Tensor::ones({2}, {.device = Device::cuda(7)}); },
                                   {"cuda:7 is not there", "1 CUDA device"}));
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

TEST_CASE("linear is one product on a GPU, its bias included, wherever that lies", "[backend]") {
  const detail::CurrentCuda current(0);
  const Tensor x = here::randn({9, 12}), w = here::randn({5, 12}), many = here::randn({16});
  const Tensor plain = linear(x, w), y = here::empty({9, 5});
  for (int64_t offset = 0; offset < 8; ++offset) {
    synchronize(device());
    const int64_t before = simulator::counts().launches;
    kernels::linear(current.device(), y.ptr<float>(), x.ptr<float>(), w.ptr<float>(),
                    many.ptr<float>() + offset, 9, 5, 12);
    synchronize(device());
    CHECK(simulator::counts().launches == before + 1);
    CHECK(same_bits(y, plain + many.narrow(0, offset, 5)));
  }
}

TEST_CASE("products of bf16 into bf16 are rounded once, to C's own values and the bias's", "[backend]") {
  const detail::CurrentCuda current(0);
  const int64_t m = 7, n = 13, k = 21;
  for (const bool trans_a : {false, true}) {
    for (const double beta : {0.0, 1.0, -0.5}) {
      for (const bool has_bias : {false, true}) {
        for (const int64_t terms : {k, int64_t(0)}) {
          CAPTURE(trans_a, beta, has_bias, terms);
          const auto rounded = [](const Shape& shape) { return here::randn(shape).to(DType::bf16); };
          const Tensor a = rounded(trans_a ? Shape{terms, m} : Shape{m, terms}), b = rounded({terms, n}),
                       c = rounded({m, n}), bias = here::randn({n});
          const auto exact = [](const Tensor& t) { return t.to(DType::f64); };
          Tensor sum = matmul(trans_a ? exact(a).permute({1, 0}) : exact(a), exact(b));
          if (beta != 0) sum = sum + exact(c) * beta;
          if (has_bias) sum = sum + exact(bias.to(DType::bf16));
          kernels::gemm(current.device(), c.ptr<bfloat16>(), a.ptr<bfloat16>(), b.ptr<bfloat16>(),
                        has_bias ? bias.ptr<float>() : nullptr,
                        {.m = m, .n = n, .k = terms, .trans_a = trans_a, .beta = beta});
          const std::vector<double> got = values(exact(c)), expected = values(sum);
          for (size_t i = 0; i < got.size(); ++i)
            CHECK(std::abs(got[i] - expected[i]) <= 0x1.01p-8 * std::abs(expected[i]) + 1e-5);
        }
      }
    }
  }
}

TEST_CASE("threads share the plans of products, each with a bias of its own", "[backend]") {
  const Tensor x = here::ones({4, 8}), w = here::ones({6, 8});
  std::vector<std::thread> threads;
  std::vector<std::vector<Tensor>> results(4);
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      const Tensor bias = here::full({6}, i);
      for (int j = 0; j < 50; ++j) results[size_t(i)].push_back(linear(x, w, bias));
    });
  }
  for (std::thread& t : threads) t.join();
  for (int i = 0; i < 4; ++i) {
    for (const Tensor& y : results[size_t(i)]) CHECK(values(y) == std::vector<double>(24, 8 + i));
  }
}

namespace {
// y, dx, dw and db of a layer.
std::vector<Tensor> results_of_layer(bool native, int64_t rows, int64_t in, int64_t out,
                                     const fp8::Format& weight, const fp8::Format& input,
                                     const fp8::Format& grad) {
  manual_seed(7);
  nn::Linear linear = on_device(nn::Linear(in, out));
  auto layer = fp8::QuantizedLinear::from_linear(
      linear, weight, {.input_format = input, .grad_format = grad, .native_fp8 = native});
  const Tensor x = here::randn({rows, in}).requires_grad(true);
  Tape tape;
  const Tensor y = layer(x);
  tape.backward(y, here::randn({rows, out}));
  return {y, x.grad(), layer.weight().grad(), layer.bias()->grad()};
}
}  // namespace

TEST_CASE("native FP8 multiplies what the simulated formats multiply, at any sizes", "[backend]") {
  const Changed changed(simulator::settings().minor, 9);
  using fp8::E4M3, fp8::E5M2;
  for (const auto& [rows, in, out] : std::vector<std::array<int64_t, 3>>{
           {96, 64, 160}, {16, 16, 16}, {1, 48, 32}, {37, 70, 3}, {64, 130, 80}}) {
    for (const auto& [weight, input, grad] :
         {std::tuple{E4M3, E4M3, E5M2}, std::tuple{E4M3, E4M3, E4M3}, std::tuple{E5M2, E4M3, E4M3}}) {
      CAPTURE(rows, in, out, weight.name, input.name, grad.name);
      const auto simulated = results_of_layer(false, rows, in, out, weight, input, grad),
                 native = results_of_layer(true, rows, in, out, weight, input, grad);
      for (size_t i = 0; i < native.size(); ++i) {
        const std::vector<double> got = values(native[i]), expected = values(simulated[i]);
        double worst = 0, largest = 0;
        for (size_t j = 0; j < got.size(); ++j) {
          const double off = std::abs(got[j] - expected[j]);
          worst = off <= worst ? worst : off;  // NaN counts
          largest = std::max(largest, std::abs(expected[j]));
        }
        CAPTURE(i);
        CHECK(worst <= 1e-6 * largest);
      }
    }
  }
}

TEST_CASE("in native FP8 E5M2 keeps its Inf, and NaN stays", "[backend]") {
  const Changed changed(simulator::settings().minor, 9);
  const Tensor one = here::ones({}),
               x = here::from({1.f, INFINITY, -INFINITY, NAN, -57344.f, 0x1p-16f}, {6, 1});
  const fp8::QTensor a{x.to(DType::bf16), one, fp8::E5M2, false, true},
      b{here::ones({1, 1}).to(DType::bf16), one, fp8::E4M3, true, true};
  for (const bool transposed : {false, true}) {
    const fp8::QTensor left =
        transposed ? fp8::QTensor{a.values.reshape({1, 6}), one, fp8::E5M2, true, true} : a;
    const std::vector<double> got = values(fp8::matmul(left, b)), expected = values(x);
    for (size_t i = 0; i < got.size(); ++i)
      CHECK((got[i] == expected[i] || (std::isnan(got[i]) && std::isnan(expected[i]))));
  }
}

TEST_CASE("native FP8 is refused where there is none, before anything changes", "[backend]") {
  using fp8::E4M3, fp8::E5M2;
  models::GPT model =
      on_device(models::GPT({.n_layer = 1, .n_head = 2, .n_embd = 16, .block_size = 8, .vocab_size = 11}));
  const auto quantize = [&](const fp8::Format& format, std::optional<fp8::Format> input,
                            std::optional<fp8::Format> grad) {
    fp8::quantize_model(model, format, {.input_format = input, .grad_format = grad, .native_fp8 = true});
  };
  CHECK(throws([&] { quantize(E4M3, E4M3, {}); }, {"native FP8 multiplies E4M3 and E5M2, not what is not"}));
  CHECK(throws([&] { quantize(fp8::E3M4, E4M3, E4M3); }, {"native FP8", "not E3M4"}));
  CHECK(throws([&] { quantize(E4M3, E5M2, E5M2); }, {"native FP8 does not multiply E5M2 by E5M2"}));
  CHECK(fp8::dequantize_model(model).empty());

  manual_seed(7);
  auto layer = fp8::QuantizedLinear::from_linear(
      on_device(nn::Linear(16, 16)), E4M3, {.input_format = E4M3, .grad_format = E5M2, .native_fp8 = true});
  CHECK(layer.extra_repr().ends_with(", native_fp8=true"));
  CHECK(throws(
      [&] {
        layer(here::ones({16, 16}));
      },
      {"quantized_linear: native FP8 needs", "8.9", "cuda:0"}));
  CHECK(layer.input_history().size() == 0);
  const Changed changed(simulator::settings().minor, 9);
  layer(here::ones({16, 16}));
  CHECK(layer.input_history().size() == 1);
  layer.to(Device::cpu());
  CHECK(throws([&] { layer(Tensor::ones({16, 16})); }, {"native FP8 needs a GPU", "got cpu"}));
  layer.to(DType::f64), layer.to(device());
  CHECK(throws([&] { layer(here::ones({16, 16}, {DType::f64})); }, {"native FP8 products are of f32"}));
}

TEST_CASE("codes times numbers of bf16 are one launch, codes times codes two", "[backend]") {
  const auto launches = [](const fp8::QTensor& a, const fp8::QTensor& b,
                           const std::vector<double>& expected) {
    synchronize(device());
    const int64_t before = simulator::counts().launches;
    const Tensor c = fp8::matmul(a, b);
    synchronize(device());
    const int64_t after = simulator::counts().launches;
    CHECK(values(c) == expected);
    return after - before;
  };
  const Tensor ones = here::ones({2, 2}).to(DType::bf16), scale = here::full({}, 0.5);
  const fp8::QTensor codes{ones, scale, fp8::E4M3}, numbers{ones, {}, {}};
  launches(numbers, numbers, {2, 2, 2, 2});  // the first makes what all share
  CHECK(launches(codes, numbers, {1, 1, 1, 1}) == 1);
  CHECK(launches(numbers, codes, {1, 1, 1, 1}) == 1);
  CHECK(launches(codes, codes, {0.5, 0.5, 0.5, 0.5}) == 2);
}

TEST_CASE("the gradient of a quantized weight is added to where it lies", "[backend]") {
  const auto layer = [] {
    manual_seed(3);
    return fp8::QuantizedLinear::from_linear(on_device(nn::Linear(24, 16)), fp8::E4M3,
                                             {.input_format = fp8::E4M3, .grad_format = fp8::E5M2});
  };
  auto once = layer(), twice = layer();
  const Tensor x = here::randn({8, 24}), dy = here::randn({8, 16});
  const auto run = [&](fp8::QuantizedLinear& l) {
    Tape tape;
    tape.backward(l(x), dy);
  };
  run(once), run(twice);
  const void* const place = twice.weight().grad().raw();
  run(twice);
  CHECK(twice.weight().grad().raw() == place);
  CHECK(same_bits(twice.weight().grad(), once.weight().grad() * 2.0));
}
