// Products on the simulated device, which counts launches: biases, bf16, codes, native FP8 (whose numbers are in
// native_fp8.cpp).
#include <altgrad/altgrad.h>
#include <altgrad/autograd/internal/mlp.h>
#include <altgrad/core/dispatch.h>
#include <altgrad/core/internal/kernels/gemm.h>
#include <altgrad/fp8/internal/operand.h>

#include <simulator/simulator.h>

#include <cmath>
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

TEST_CASE("an MLP's gelu and its derivative are part of its products", "[backend]") {
  const auto launches_of = [](bool in_one, int64_t hidden, bool trains) {
    const Tensor x = here::randn({9, 16}).to(DType::bf16).requires_grad(true),
                 w = here::randn({hidden, 16}).requires_grad(true),
                 v = here::randn({8, hidden}).requires_grad(true);
    const std::optional<Tensor> b = here::randn({hidden}), c = here::randn({8});
    Tape tape;
    synchronize(device());
    const int64_t before = simulator::counts().launches;
    const Tensor y =
        in_one ? detail::mlp(x, {w, b}, Gelu::tanh, {v, c}) : linear(gelu(linear(x, w, b), Gelu::tanh), v, c);
    if (trains) tape.backward(y, y.detach());
    synchronize(device());
    return simulator::counts().launches - before;
  };
  launches_of(true, 24, true);  // the first makes what all share
  for (const bool trains : {false, true}) {
    const int64_t of_parts = launches_of(false, 24, trains);
    CHECK(launches_of(true, 24, trains) == of_parts - (trains ? 2 : 1));
    CHECK(launches_of(true, 23, trains) == of_parts);  // which no epilogue of cuBLASLt takes
    {
      const Changed changed(simulator::settings().capability, 80);  // which has none worth taking
      CHECK(launches_of(true, 24, trains) == of_parts);
    }
  }
}

TEST_CASE("the gradient of an MLP's bias is found on the way to that of gelu, to the bits of its sums",
          "[backend]") {
  const auto train = [](int64_t rows, int64_t hidden, bool in_one) {
    manual_seed(5);
    const Tensor x = here::randn({rows, 16}).to(DType::bf16).requires_grad(true),
                 w = here::randn({hidden, 16}).requires_grad(true),
                 v = here::randn({8, hidden}).requires_grad(true);
    const std::optional<Tensor> b = here::randn({hidden}).requires_grad(true),
                                c = here::randn({8}).requires_grad(true);
    Tape tape;
    const Tensor y = in_one ? detail::mlp(x, {w, b}, Gelu::erf, {v, c}) : linear(gelu(linear(x, w, b)), v, c);
    synchronize(device());
    const int64_t before = simulator::counts().launches;
    tape.backward(y, y.detach());
    synchronize(device());
    return std::pair{simulator::counts().launches - before,
                     std::vector<Tensor>{x.grad(), w.grad(), b->grad(), v.grad(), c->grad()}};
  };
  for (const auto& [rows, hidden] : {std::pair{9, 24}, {700, 40}, {33, 23}}) {
    CAPTURE(rows, hidden);
    train(rows, hidden, true);  // makes what both share
    const auto one = train(rows, hidden, true), three = train(rows, hidden, false);
    CHECK(one.first == three.first - 1);
    for (size_t i = 0; i < one.second.size(); ++i) CHECK(same_bits(one.second[i], three.second[i]));
  }
}

TEST_CASE("an MLP of any operands has the same results, whether its products do gelu's work or not",
          "[backend]") {
  const Tensor w = here::randn({16, 8}).requires_grad(true), v = here::randn({8, 16}).requires_grad(true);
  const auto behind = [](int64_t offset, const Tensor& t) {
    return cat({here::zeros({offset}).to(DType::bf16), t.reshape({t.numel()})})
        .narrow(0, offset, t.numel())
        .reshape(t.shape());
  };
  const Tensor x = here::randn({9, 8}).to(DType::bf16), dy = here::randn({9, 8}).to(DType::bf16);
  const auto gradient = [&](const Tensor& in, const Tensor& cotangent) {
    const Tensor leaf = in.detach().requires_grad(true);
    Tape tape;
    tape.backward(detail::mlp(leaf, {w, {}}, Gelu::tanh, {v, {}}), cotangent);
    return leaf.grad();
  };
  const std::vector<double> expected = values(gradient(x, dy));
  double largest = 0;
  for (const double g : expected) largest = std::max(largest, std::abs(g));
  const auto check = [&](const Tensor& in, const Tensor& cotangent) {
    const std::vector<double> got = values(gradient(in, cotangent));
    for (size_t i = 0; i < got.size(); ++i) CHECK(std::abs(got[i] - expected[i]) <= largest / 128);
  };
  check(x, behind(3, dy));
  check(behind(3, x), dy);
  {
    const Changed changed(simulator::settings().capability, 80);
    check(x, dy);
  }
}

TEST_CASE("where cuBLASLt has no algorithm with gelu an MLP does without", "[backend]") {
  const Changed changed(simulator::settings().has_gelu, false);
  const Tensor
      x = here::randn({7, 32}).to(DType::bf16).requires_grad(true),  // of sizes that no other test has
      w = here::randn({40, 32}).requires_grad(true), v = here::randn({32, 40}).requires_grad(true);
  const auto results = [&](const std::function<Tensor()>& mlp) -> std::vector<Tensor> {
    for (const Tensor& t : {x, w, v}) t.set_grad(Tensor());
    Tape tape;
    const Tensor y = mlp();
    tape.backward(y, y.detach());
    return {y.detach(), x.grad(), w.grad(), v.grad()};
  };
  const std::vector<Tensor> one = results([&] {
    return detail::mlp(x, {w, {}}, Gelu::tanh, {v, {}});
  }),
                            three = results([&] { return linear(gelu(linear(x, w), Gelu::tanh), v); });
  for (size_t i = 0; i < one.size(); ++i) {
    CAPTURE(i);
    CHECK(same_bits(one[i], three[i]));
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
  {
    const Changed changed(simulator::settings().capability, 86);
    CHECK(throws(
        [&] {
          layer(here::ones({16, 16}));
        },
        {"quantized_linear: native FP8 needs", "8.9", "cuda:0"}));
  }
  CHECK(layer.input_history().size() == 0);
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
