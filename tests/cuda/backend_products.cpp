// Products on the simulated device, which counts launches: biases, bf16, codes, native FP8.
#include <altgrad/altgrad.h>
#include <altgrad/core/dispatch.h>
#include <altgrad/core/internal/kernels/gemm.h>
#include <altgrad/fp8/internal/kernels.h>
#include <altgrad/fp8/internal/operand.h>

#include <simulator/simulator.h>

#include <cmath>
#include <random>
#include <thread>

#include "changed.h"
#include "errors.h"
#include "values.h"

using namespace altgrad;

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

TEST_CASE("the gradients of a weight and a bias beside bf16 are a product and sums of columns", "[backend]") {
  const detail::CurrentCuda current(0);
  const auto small_integers = [](const Shape& shape) {  // all sums of them are exact
    return here::randint(9, shape).to(DType::f32) - 4.0;
  };
  const auto run = [&](const Tensor& dw, double beta, const Tensor& db, const Tensor& dy, const Tensor& x) {
    const Tensor low_dy = dy.to(DType::bf16), low_x = x.to(DType::bf16);
    synchronize(device());
    const int64_t before = simulator::counts().launches;
    kernels::linear_grad(current.device(), dw.defined() ? dw.ptr<float>() : nullptr, beta,
                         db.defined() ? db.ptr<float>() : nullptr, low_dy.ptr<bfloat16>(),
                         low_x.ptr<bfloat16>(), dy.size(0), dy.size(1), x.size(1));
    synchronize(device());
    return simulator::counts().launches - before;
  };
  for (const auto& [rows, n, k] :
       std::vector<std::array<int64_t, 3>>{{70, 24, 40}, {9, 5, 3}, {1, 7, 2}, {1300, 16, 8}}) {
    for (const double beta : {0.0, 1.0}) {
      CAPTURE(rows, n, k, beta);
      const Tensor dy = small_integers({rows, n}), x = small_integers({rows, k}),
                   before = small_integers({n, k});
      const Tensor expected = before * beta + matmul(dy.transpose(), x),
                   sums = matmul(here::ones({1, rows}), dy);
      const int64_t of_sums = rows > 1000 ? 2 : 1;  // launches
      Tensor dw = before.clone(), db = here::full({n}, 7);
      run(dw, beta, db, dy, x);  // the first makes what all share
      CHECK(values(dw) == values(expected));
      CHECK(values(db) == values(sums));

      dw = before.clone(), db = here::full({n}, 7);
      CHECK(run(dw, beta, db, dy, x) == 1 + of_sums);
      CHECK(values(dw) == values(expected));
      CHECK(values(db) == values(sums));
      dw = before.clone();
      CHECK(run(dw, beta, {}, dy, x) == 1);
      CHECK(values(dw) == values(expected));
      db = here::full({n}, 7);
      CHECK(run({}, 0, db, dy, x) == of_sums);
      CHECK(values(db) == values(sums));
    }
  }
  const Tensor nothing = here::zeros({3, 0}), dy = small_integers({3, 5}), db = here::full({5}, 7);
  run(here::zeros({5, 0}), 0, db, dy, nothing);
  CHECK(values(db) == values(sum(dy, {0})));
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

TEST_CASE("operands of native FP8 are the codes that encode gives, by rows and by columns", "[backend]") {
  const Changed changed(simulator::settings().minor, 9);
  const auto with_equal_nans = [](const Tensor& t) {
    std::vector<double> all = values(t);
    for (double& x : all) x = std::isnan(x) ? 12345 : x;
    return all;
  };
  for (const auto& [rows, columns] : std::vector<std::array<int64_t, 2>>{
           {1, 1}, {64, 64}, {67, 130}, {128, 64}, {272, 208}, {3, 0}, {0, 3}}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const fp8::Format& f : {fp8::E4M3, fp8::E5M2}) {
        for (const fp8::Overflow overflow : {fp8::Overflow::to_special, fp8::Overflow::saturate_finite}) {
          for (const bool stochastic : {false, true}) {
            CAPTURE(rows, columns, dtype == DType::bf16, f.name, int(overflow), stochastic);
            std::vector<float> numbers = values<float>(here::randn({rows, columns}) * 100.0);
            const bool has_odd = numbers.size() > 1;
            if (has_odd) numbers[3] = NAN, numbers[size_t(columns)] = INFINITY, numbers[9] = -INFINITY;
            const Tensor x = here::from(numbers, {rows, columns}).to(dtype);
            const fp8::CastOptions cast{stochastic ? fp8::Rounding::stochastic : fp8::Rounding::nearest_even,
                                        overflow};
            fp8::Quantizer quantizer{f, fp8::AmaxHistory(1, device()), fp8::Scaling::delayed, cast};
            quantizer.history.update(100.f);  // smaller than some
            manual_seed(5);
            const fp8::QTensor q = quantizer.apply(x, true, {}, true);
            manual_seed(5);
            const Tensor codes = fp8::encode(x.to(DType::f32), f, q.scale.item<float>(), cast);
            const float scale = q.scale.item<float>();
            CHECK(with_equal_nans(fp8::decode(q.values, f, 1)) == with_equal_nans(fp8::decode(codes, f, 1)));
            CHECK(with_equal_nans(q.dequantize()) == with_equal_nans(fp8::decode(codes, f, scale)));
            CHECK(same_bits(q.values_t, q.values.transpose()));
            if (columns == 1) CHECK(quantizer.history.amax() == fp8::amax(x));
            CHECK(quantizer.history.non_finite() == int64_t(has_odd));
          }
        }
      }
    }
  }
}

TEST_CASE("codes of native FP8 are those of x / scale, close to ties and at any scale", "[backend]") {
  const detail::CurrentCuda current(0);
  const int64_t rows = 256, columns = 128;  // whole tiles
  std::mt19937_64 random(5);
  const auto exponent = [&](int most) { return int(random() % uint64_t(2 * most)) - most; };
  for (int trial = 0; trial < 40; ++trial) {
    // Beyond 2^-40 and 2^60 none is rounded the short way.
    const int range = trial % 4 == 3 ? 120 : trial % 4 == 2 ? 80 : 30;
    const float scale = std::ldexp(1 + float(random() % (1 << 23)) * 0x1p-23f, exponent(range));
    const fp8::Format& f = trial % 2 ? fp8::E4M3 : fp8::E5M2;
    std::vector<float> numbers(size_t(rows * columns));
    for (float& x : numbers) {
      const double middle = (f.decode(uint32_t(random() % 120)) + f.decode(uint32_t(random() % 120))) / 2;
      x = float(middle * double(scale));
      for (uint64_t steps = random() % 3; steps > 0; --steps)
        x = std::nextafter(x, random() % 2 ? INFINITY : -INFINITY);
      x = random() % 7 == 0 ? -x : random() % 50 == 0 ? std::ldexp(x, exponent(20)) : x;
    }
    // Some warps have what is large, or no number.
    numbers[5] = 0x1p100f, numbers[size_t(20 * columns)] = NAN,
    numbers[size_t(70 * columns + 100)] = -INFINITY;
    const fp8::Rounder<float> rounder(f);
    const Tensor x = here::from(numbers, {rows, columns}), on_device = here::full({}, double(scale)),
                 y = here::empty({rows, columns}, {DType::u8}),
                 y_t = here::empty({columns, rows}, {DType::u8});
    kernels::quantize(current.device(),
                      kernels::Codes{y.ptr<uint8_t>(), y_t.ptr<uint8_t>(),
                                     f == fp8::E4M3 ? kernels::Fp8::e4m3 : kernels::Fp8::e5m2, rows, columns},
                      x.ptr<float>(), on_device.ptr<float>(), {rounder, {}}, x.numel());
    const std::vector<uint8_t> codes = values<uint8_t>(y);
    int64_t wrong = 0;
    for (size_t i = 0; i < numbers.size(); ++i) {
      const float expected = rounder(kernels::quotient(numbers[i], scale));
      wrong += !std::isnan(expected) ? codes[i] != rounder.code(expected) : !std::isnan(f.decode(codes[i]));
    }
    CAPTURE(scale, f.name);
    CHECK(wrong == 0);
    CHECK(same_bits(y_t, y.transpose()));
  }
}

TEST_CASE("a tensor of more pieces than are rounded at once is rounded as on the CPU", "[backend]") {
  const int64_t n = 700 * 4096 + 5;
  const std::vector<float> numbers = values<float>(here::randn({n}));
  for (const int64_t place : {int64_t(0), int64_t(600) * 4096 + 77, n - 1}) {
    std::vector<float> with_largest = numbers;
    with_largest[size_t(place)] = 100;
    const Tensor one = here::from(with_largest, {n});
    fp8::Quantizer quantizer{fp8::E4M3, fp8::AmaxHistory(2, device())};
    const fp8::QTensor q = quantizer.apply(one, true);
    CHECK(quantizer.history.amax() == 100);
    const float scale = q.scale.item<float>();
    CHECK(same_bits(host(q.dequantize()), fp8::quantize(host(one), fp8::E4M3, scale)));
  }
}

TEST_CASE("products of native FP8 convert nothing where their sizes suit", "[backend]") {
  const Changed changed(simulator::settings().minor, 9);
  fp8::Quantizer quantizer{fp8::E4M3, fp8::AmaxHistory(1, device())};
  const fp8::QTensor x = quantizer.apply(here::randn({32, 48}), false, {}, true),
                     w = quantizer.apply(here::randn({16, 48}), false, {}, true),
                     odd = quantizer.apply(here::randn({17, 48}), false, {}, true);
  const auto launches = [](const fp8::QTensor& a, const fp8::QTensor& b) {
    synchronize(device());
    const int64_t before = simulator::counts().launches;
    fp8::matmul(a, b);
    synchronize(device());
    return simulator::counts().launches - before;
  };
  launches(x, w.t());  // the first makes what all share
  CHECK(launches(x, w.t()) == 1);
  CHECK(launches(w, x.t()) == 1);
  CHECK(launches(x.t(), x) == 1);
  CHECK(launches(x, odd.t()) > 1);
}

TEST_CASE("native FP8 adds a bias to bf16 within the product, and rounds each sum once", "[backend]") {
  const Changed changed(simulator::settings().minor, 9);
  fp8::Quantizer quantizer{fp8::E4M3, fp8::AmaxHistory(1, device())};
  for (const auto& [rows, n] : std::vector<std::array<int64_t, 2>>{{32, 48}, {32, 17}, {7, 48}}) {
    for (const DType result : {DType::bf16, DType::f32}) {
      CAPTURE(rows, n, result == DType::bf16);
      const fp8::QTensor x = quantizer.apply(here::randn({rows, 40}), false, {}, true),
                         w = quantizer.apply(here::randn({n, 40}), false, {}, true);
      const Tensor bias = here::randn({n}) * 8.0;
      const auto exact = [](const Tensor& t) { return t.to(DType::f64); };
      const Tensor y = fp8::detail::product(x, w.t(), bias, result);
      const std::vector<double> got = values(exact(y)),
                                expected = values(
                                    matmul(exact(x.dequantize()), exact(w.dequantize()).permute({1, 0})) +
                                    exact(bias.to(result)));
      const double last_bit = result == DType::bf16 ? 0x1.01p-8 : 1e-6;
      for (size_t i = 0; i < got.size(); ++i)
        CHECK(std::abs(got[i] - expected[i]) <= last_bit * std::abs(expected[i]) + 1e-5);
    }
  }
}

TEST_CASE("in native FP8 E5M2 keeps its Inf, and NaN stays", "[backend]") {
  const Changed changed(simulator::settings().minor, 9);
  const Tensor one = here::ones({}),
               x = here::from({1.f, INFINITY, -INFINITY, NAN, -57344.f, 0x1p-16f}, {6, 1});
  const Tensor codes = fp8::encode(x, fp8::E5M2, 1), row = codes.reshape({1, 6}),
               code = fp8::encode(here::ones({1, 1}), fp8::E4M3, 1);
  const fp8::QTensor b{code, one, fp8::E4M3, true, code};
  for (const bool transposed : {false, true}) {
    const fp8::QTensor left = transposed ? fp8::QTensor{row, one, fp8::E5M2, true, codes}
                                         : fp8::QTensor{codes, one, fp8::E5M2, false, row};
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

TEST_CASE("codes times numbers of bf16 are one launch, codes times codes two, with a bias as well",
          "[backend]") {
  const auto launches = [](const fp8::QTensor& a, const fp8::QTensor& b, const std::vector<double>& expected,
                           const std::optional<Tensor>& bias = {}, DType result = DType::f32) {
    synchronize(device());
    const int64_t before = simulator::counts().launches;
    const Tensor c = fp8::detail::product(a, b, bias, result);
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
  const Tensor bias = here::from({1.f, 1.001953125f}, {2});  // one and a quarter of bf16's next step
  CHECK(launches(codes, codes.t(), {1.5, 1.5, 1.5, 1.5}, bias, DType::bf16) == 2);
  CHECK(launches(numbers, codes.t(), {2, 2, 2, 2}, bias, DType::bf16) == 2);
}

TEST_CASE(
    "an operand is rounded, its amax found and its scale made in one launch; another one may round again",
    "[backend]") {
  fp8::Quantizer quantizer{fp8::E4M3, fp8::AmaxHistory(4, device())};
  const Tensor x = here::randn({40, 300});
  for (const float factor :
       {1.f, 0.5f, 8.f}) {  // with nothing expected, with what was expected, and with less than that
    const Tensor in = x * factor;
    synchronize(device());
    const int64_t before = simulator::counts().launches;
    const fp8::QTensor q = quantizer.apply(in, true);
    synchronize(device());
    CHECK(simulator::counts().launches == before + 2);
    CHECK(quantizer.history.amax() == fp8::amax(factor < 1 ? x : in));
    CHECK(same_bits(q.dequantize(), fp8::quantize(in, fp8::E4M3, q.scale.item<float>())));
  }
}

TEST_CASE("a rounded weight is multiplied as codes by what is stored in bf16", "[backend]") {
  using fp8::Partner;
  const Tensor w = here::randn({16, 24}), narrow = here::randn({8, 24}).to(DType::bf16),
               dy = here::randn({8, 16}).to(DType::bf16);
  fp8::Quantizer quantizer{fp8::E4M3, fp8::AmaxHistory(1, device())};
  const fp8::QTensor codes = quantizer.apply(w, false, {Partner({}, DType::bf16)});
  CHECK(codes.values.dtype() == DType::bf16);
  CHECK(quantizer.apply(w, false, {Partner({}, DType::f32)}).values.dtype() == DType::f32);
  CHECK(quantizer.apply(w, false, {fp8::E4M3, Partner({}, DType::bf16)}).values.dtype() == DType::bf16);
  CHECK(quantizer.apply(w, false, {Partner(fp8::fp16, DType::bf16)}).values.dtype() == DType::f32);

  // A layer multiplies them so, and rounds its sums once.
  auto layer =
      fp8::QuantizedLinear::from_linear(on_device(nn::Linear(w.clone().requires_grad(true))), fp8::E4M3);
  layer.eval();
  const Tensor x = narrow.clone().requires_grad(true);
  Tape tape;
  const Tensor y = layer(x);
  tape.backward(y, dy);
  const fp8::QTensor qx{narrow, {}, {}}, qdy{dy, {}, {}};
  CHECK(same_bits(y, fp8::matmul(qx, codes.t()).to(DType::bf16)));
  CHECK(same_bits(x.grad(), fp8::matmul(qdy, codes).to(DType::bf16)));
  CHECK(same_bits(layer.weight().grad(), fp8::matmul(qdy.t(), qx)));
  const Tensor wide = matmul(narrow.to(DType::f64), codes.dequantize().to(DType::f64).transpose());
  CHECK(max(abs(y.to(DType::f64) - wide)).item<double>() <= 0x1p-8 * max(abs(wide)).item<double>());
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
