// What layers compute from kept codes against today's rounded weights: the same bits, until weight, history or mode change.
#include <altgrad/core/cpu/matmul.h>
#include <altgrad/core/internal/kernels/gemm.h>
#include <altgrad/fp8/coded_linear.h>
#include <altgrad/fp8/internal/weight_codes.h>
#include <altgrad/fp8/surgery.h>
#include <altgrad/nn/containers.h>
#include <altgrad/nn/optim.h>
#include <altgrad/nn/surgery.h>

#include <thread>

#include "catch.h"
#include "errors.h"
#include "values.h"

using namespace altgrad;
using namespace altgrad::fp8;

namespace {

QuantizedLinear layer_of(int64_t in, int64_t out, const Format& format, QuantizeOptions options = {},
                         bool bias = true) {
  nn::Linear linear(in, out, {.bias = bias});
  linear.to(device());
  return QuantizedLinear::from_linear(std::move(linear), format, options);
}

// The layer's result as a tape would record it, from the weight itself.
Tensor recorded(QuantizedLinear& layer, const Tensor& x) {
  Tape tape;
  return layer(x).detach();
}
// On a CPU with the packed kernels: the same bits, unless one of them is a product of codes in bf16.
void check_same(const Tensor& a, const Tensor& b, bool in_bf16 = false) {
  if (device().is_cpu() && !cpu::sums_follow_sizes<float>() && !in_bf16) {
    CHECK(same_bits(a, b));
  } else {
    const std::vector<double> x = values(a), y = values(b);
    REQUIRE(x.size() == y.size());
    for (size_t i = 0; i < x.size(); ++i) CHECK(x[i] == Approx(y[i]).margin(2e-5));
  }
}

}  // namespace

TEST_CASE("products from codes are those of the rounded weight, in every format of a byte", "[codes]") {
  manual_seed(61);
  size_t seen = 0;
  for (const Format& format : formats()) {
    if (format.bits() > 8 || !format.has_sign) continue;
    CAPTURE(std::string_view(format.name));
    QuantizedLinear layer = layer_of(70, 45, format);
    layer.eval();
    Quantizer quantizer{.format = format, .history = AmaxHistory(16, device())};
    CHECK(fp8::detail::weight_codes(layer.weight(), quantizer).has_value());
    ++seen;
    for (const int64_t rows : {1, 2, 3, 4, 5, 9}) {
      const Tensor x = here::randn({rows, 70});
      check_same(layer(x), recorded(layer, x));
    }
  }
  CHECK(seen >= 12);
}

TEST_CASE("products from codes, at odd sizes and deep sums", "[codes]") {
  manual_seed(62);
  for (const auto& [in, out] :
       {std::pair<int64_t, int64_t>{1, 1}, {3, 33}, {64, 32}, {385, 31}, {800, 7}, {1000, 100}}) {
    for (const bool bias : {true, false}) {
      CAPTURE(in, out, bias);
      QuantizedLinear layer = layer_of(in, out, E4M3, {}, bias);
      layer.eval();
      for (const int64_t rows : {1, 2, 3, 4, 6}) {
        const Tensor x = here::randn({rows, 1, in});
        check_same(layer(x), recorded(layer, x));
      }
    }
  }
  QuantizedLinear layer = layer_of(8, 4, E4M3);
  layer.eval();
  CHECK(layer(here::zeros({0, 8})).shape() == Shape{0, 4});
  CHECK(throws([&] { layer(here::zeros({2, 9})); }, {"quantized_linear", "(2, 9)"}));
}

TEST_CASE("codes are made anew where weight, history or mode have changed", "[codes]") {
  manual_seed(63);
  QuantizedLinear layer = layer_of(12, 5, E4M3, {.input_format = E5M2});
  const Tensor x = here::randn({2, 12});
  layer(x);
  layer.eval();
  Tensor last = layer(x);
  const auto changed = [&](const char* what) {
    INFO(what);
    const Tensor now = layer(x);
    check_same(now, recorded(layer, x));
    CHECK_FALSE(same_bits(now, last));
    last = now;
  };
  const Tensor& w = layer.weight();
  w.copy_(here::randn(w.shape()));
  changed("copy_");
  w.fill_(0.37);
  changed("fill_");
  w.alias({60}).copy_(here::randn({60}));
  changed("through an alias");
  if (device().is_cpu()) {
    w.data<float>()[7] = 0.01f;
    changed("data()");
  }
  {
    optim::SGD sgd({w}, {.lr = 1});
    w.set_grad(here::randn(w.shape()));
    sgd.step();
    changed("an optimizer");
    w.set_grad({});
  }
  StateDict state;
  for (const auto& [name, tensor] : layer.state_dict()) state[name] = tensor.clone();
  state["_weight_amax"].fill_(0.1);
  layer.load_state_dict(state);
  changed("a load of the history");
  layer.reset_histories();
  changed("reset_histories");
  w.assign_(here::randn(w.shape()));
  changed("another memory");
  layer.train();
  layer(x);
  layer.eval();
  last = layer(x);
  check_same(last, recorded(layer, x));
}

TEST_CASE("what codes cannot give is computed without them", "[codes]") {
  manual_seed(64);
  const auto has_codes = [](const Tensor& w, Quantizer quantizer) {
    return fp8::detail::weight_codes(w, quantizer).has_value();
  };
  const auto quantizer = [](const Format& format, CastOptions cast = {}) {
    return Quantizer{.format = format, .history = AmaxHistory(16, device()), .cast = cast};
  };
  const Tensor w = here::randn({6, 9});
  CHECK(has_codes(w, quantizer(E4M3)));
  CHECK(has_codes(w, quantizer(E4M3, {.rounding = Rounding::toward_zero})));
  CHECK_FALSE(has_codes(w, quantizer(E4M3, {.rounding = Rounding::stochastic})));
  CHECK_FALSE(has_codes(w.to(DType::f64), quantizer(E4M3)));
  for (const float bad : {NAN, INFINITY}) {
    std::vector<float> numbers = values<float>(w);
    numbers[10] = bad;
    CHECK_FALSE(has_codes(here::from(numbers, {6, 9}), quantizer(E4M3)));
  }
  QuantizedLinear layer = layer_of(9, 6, E4M3, {.rounding = Rounding::stochastic});
  layer.eval();
  const Tensor x = here::randn({1, 9});
  const Tensor first = layer(x);
  CHECK_FALSE(same_bits(first, layer(x)));  // rounded anew each time
}

TEST_CASE("several threads share a layer in eval mode", "[codes]") {
  if (!device().is_cpu()) SKIP_TEST("threads are the CPU's");
  manual_seed(65);
  QuantizedLinear layer = layer_of(64, 64, E4M3);
  layer.eval();
  const Tensor x = here::randn({1, 64}), expected = recorded(layer, x);
  layer.train();
  layer.eval();
  std::vector<Tensor> results(4);
  std::vector<std::thread> threads;
  for (Tensor& result : results) threads.emplace_back([&] { result = layer(x); });
  for (std::thread& thread : threads) thread.join();
  for (const Tensor& result : results) check_same(result, expected);
}

TEST_CASE("drop_masters keeps what a model computes and frees its weights in f32", "[codes]") {
  manual_seed(66);
  for (const bool inputs : {false, true}) {
    CAPTURE(inputs);
    const bool in_bf16 = inputs && kernels::has_bf16(Cpu{});
    nn::Sequential net(nn::Linear(40, 70), nn::GELU(), nn::Linear(70, 33, {.bias = false}),
                       nn::Linear(33, 33));
    net.to(device());
    QuantizeOptions options{.skip_patterns = {"3"}};
    if (inputs) options.input_format = E5M2;
    quantize_model(net, E4M3, options);
    const Tensor x = here::randn({2, 3, 40}), one = here::randn({1, 40});
    net(x);
    net.eval();
    const Tensor expected = net(x), expected_one = net(one);
    std::vector<std::pair<std::string, Tensor>> before = net.named_parameters();
    const Tensor* const weight = &before[0].second;
    CHECK(before.size() == 5);
    CHECK(drop_masters(net) == std::vector<std::string>{"0", "2"});
    std::vector<std::string> names;
    for (const auto& [name, p] : net.named_parameters()) names.push_back(name);
    CHECK(names == std::vector<std::string>{"0.bias", "3.weight", "3.bias"});
    check_same(net(x), expected, in_bf16);
    check_same(net(one), expected_one, in_bf16);
    auto& coded = dynamic_cast<CodedLinear&>(net.module("0"));
    CHECK(same_bits(coded.weight(),
                    quantize(*weight, E4M3, values<float>(net.state_dict().at("0.weight_scale"))[0])));
    CHECK(coded.extra_repr().find("format=E4M3") != std::string::npos);

    // It is moved, copied and saved with the model.
    nn::Sequential copy = nn::clone(net);
    CHECK_FALSE(copy.state_dict().at("0.weight_panels").is(net.state_dict().at("0.weight_panels")));
    check_same(copy(x), expected, in_bf16);
    copy.state_dict().at("0.weight_panels").fill_(0);
    CHECK_FALSE(same_bits(copy(x), expected));
    copy.load_state_dict(net.state_dict());
    check_same(copy(x), expected, in_bf16);

    // Training is an error, in each of its ways.
    CHECK(throws([&] { net.load_state_dict({{"0.weight", *weight}}); }, {"0.weight"}));
    net.train();
    CHECK(throws([&] { net(x); }, {"coded_linear", "training"}));
    net.eval();
    Tape tape;
    CHECK(throws([&] { net(x.clone().requires_grad(true)); }, {"coded_linear", "gradient"}));
    CHECK(same_bits(net(x), net(x)));
  }
}

TEST_CASE("drop_masters frees memory, and changes nothing where it refuses", "[codes]") {
  manual_seed(67);
  nn::Sequential net(nn::Linear(512, 512), nn::Linear(512, 512));
  net.to(device());
  CHECK(throws([&] { drop_masters(net); }, {"drop_masters", "QuantizedLinear"}));
  quantize_model(net, E4M3);
  net.module("1").train(false);
  dynamic_cast<QuantizedLinear&>(net.module("1")).weight().fill_(NAN);
  CHECK(throws([&] { drop_masters(net); }, {"drop_masters: ", "CodedLinear", "E4M3", "finite"}));
  CHECK(dynamic_cast<QuantizedLinear*>(&net.module("0")) != nullptr);
  CHECK(net.module("0").training());
  dynamic_cast<QuantizedLinear&>(net.module("1")).weight().fill_(0.5);
  const int64_t before = memory_stats(device()).in_use;
  drop_masters(net);
  CHECK(before - memory_stats(device()).in_use >= 2 * 3 * 512 * 512 - 4096);
  QuantizedLinear alone = layer_of(4, 4, E4M3);
  CHECK(throws([&] { drop_masters(alone); }, {"drop_masters", "itself"}));
}
