// The same bits on any number of threads: every kernel that shares its work, at sizes past its grain, forward and
// backward, on 1, 2, 3 and 7 threads. In f64 too: sums are carried in f64, and another order of adding shows in few f32
// results.
#include <altgrad/autograd/ops.h>
#include <altgrad/fp8/quantized_linear.h>
#include <altgrad/nn/optim.h>

#include <functional>

#include "reference.h"
#include "thread_count.h"

using namespace altgrad;
using reference::randn;

namespace {

using Inputs = std::span<const Tensor>;
using Results = std::vector<Tensor>;

struct Row {
  const char* name;
  std::function<Tensor(Inputs)> fn;
  std::vector<Shape> shapes;  // of the inputs
};

const Tensor ids = [] {
  Generator generator(5);
  return Tensor::randint(53, {3001}, Device::cpu(), generator);
}();
Tensor mask() { return greater(randn({20011}, 6), randn({20011}, 7)); }

Tensor round_trip(const Tensor& x, const fp8::CastOptions& options) {
  manual_seed(3);
  return fp8::quantize(x, fp8::E4M3, 0.01f, options);
}

const std::vector<Row> rows = {
    {"unary", [](Inputs x) { return exp(x[0]); }, {{3, 20011}}},
    {"unary with its slope", [](Inputs x) { return gelu(x[0]); }, {{3, 20011}}},
    {"binary", [](Inputs x) { return x[0] / (x[1] * x[1] + 1.0); }, {{3, 20011}, {3, 20011}}},
    {"binary, broadcast rows", [](Inputs x) { return x[0] * x[1]; }, {{300, 211}, {211}}},
    {"binary, broadcast columns", [](Inputs x) { return x[0] * x[1]; }, {{300, 211}, {300, 1}}},
    {"binary, broadcast within", [](Inputs x) { return x[0] * x[1]; }, {{30, 71, 40}, {30, 1, 40}}},
    {"binary, a scalar", [](Inputs x) { return x[0] * x[1]; }, {{70001}, {}}},
    {"used twice", [](Inputs x) { return tanh(x[0]) + x[0] * x[0]; }, {{70001}}},
    {"where", [](Inputs x) { return where(mask(), x[0], x[1]); }, {{3, 20011}, {20011}}},
    {"expand",
     [](Inputs x) {
       return expand(x[0], {301, 211});
     },
     {{211}}},
    {"dropout",
     [](Inputs x) {
       Generator generator(7);
       return dropout(x[0], 0.4, generator);
     },
     {{3, 20011}}},
    {"permute",
     [](Inputs x) {
       return x[0].permute({2, 0, 1});
     },
     {{60, 31, 40}}},
    {"narrow and cat",
     [](Inputs x) {
       return cat({x[0].narrow(1, 3, 150), x[0]}, 1);
     },
     {{300, 211}}},
    {"to", [](Inputs x) { return x[0].to(x[0].dtype() == DType::f32 ? DType::f64 : DType::f32); }, {{70001}}},

    {"sum", [](Inputs x) { return sum(x[0]); }, {{70001}}},
    {"sum of 10^6", [](Inputs x) { return sum(x[0]); }, {{1000003}}},
    {"sum over rows' elements", [](Inputs x) { return sum(x[0], {1}); }, {{701, 101}}},
    {"sum over many rows", [](Inputs x) { return sum(x[0], {0}); }, {{3001, 67}}},
    {"sum over some rows", [](Inputs x) { return sum(x[0], {0}); }, {{70, 3001}}},
    {"sum over few rows", [](Inputs x) { return sum(x[0], {0}); }, {{9, 30011}}},
    {"sum over a middle axis", [](Inputs x) { return sum(x[0], {1}); }, {{5, 301, 70}}},
    {"mean over axes apart",
     [](Inputs x) {
       return mean(x[0], {0, 2});
     },
     {{50, 31, 70}}},
    {"var", [](Inputs x) { return var(x[0]); }, {{70001}}},
    {"max", [](Inputs x) { return max(x[0]); }, {{70001}}},
    {"max over an axis", [](Inputs x) { return max(x[0], {0}); }, {{301, 211}}},
    {"softmax", [](Inputs x) { return softmax(x[0]); }, {{701, 101}}},
    {"softmax over the first axis", [](Inputs x) { return softmax(x[0], 0); }, {{101, 701}}},
    {"log_softmax", [](Inputs x) { return log_softmax(x[0]); }, {{701, 101}}},
    {"layer_norm", [](Inputs x) { return layer_norm(x[0], x[1], x[2]); }, {{3001, 67}, {67}, {67}}},
    {"layer_norm of few rows",
     [](Inputs x) { return layer_norm(x[0], x[1], x[2]); },
     {{33, 3001}, {3001}, {3001}}},
    {"rms_norm", [](Inputs x) { return rms_norm(x[0], x[1]); }, {{3001, 67}, {67}}},
    {"cross_entropy", [](Inputs x) { return cross_entropy(x[0], ids); }, {{3001, 53}}},
    {"mse_loss", [](Inputs x) { return mse_loss(x[0], x[1]); }, {{70001}, {70001}}},

    {"embedding", [](Inputs x) { return embedding(ids, x[0]); }, {{53, 211}}},
    {"index_select", [](Inputs x) { return index_select(x[0], 1, ids); }, {{3, 53, 70}}},
    {"causal_attention, many heads", [](Inputs x) { return causal_attention(x[0], 4); }, {{3, 100, 96}}},
    {"causal_attention, one long head", [](Inputs x) { return causal_attention(x[0], 1); }, {{1, 300, 48}}},
    {"checkpoint",
     [](Inputs x) { return checkpoint([](const Tensor& t) { return softmax(t * t); }, x[0]); },
     {{701, 101}}},
    {"quantize", [](Inputs x) { return round_trip(x[0], {}); }, {{70001}}},
    {"quantize, stochastic, clipped",
     [](Inputs x) {
       return round_trip(x[0], {.rounding = fp8::Rounding::stochastic, .ste = fp8::Ste::clipped});
     },
     {{70001}}},
    {"dequantize",
     [](Inputs x) {
       const fp8::Quantizer bf16{fp8::E4M3, fp8::AmaxHistory(1), fp8::Scaling::current, {}};
       return x[0] + fp8::Quantizer(bf16).apply(x[0].detach(), true, {fp8::E4M3}).dequantize();
     },
     {{70001}}},
};
const std::vector<Row> products = {
    {"matmul", [](Inputs x) { return matmul(x[0], x[1]); }, {{130, 301}, {301, 170}}},
    {"matmul, flat", [](Inputs x) { return matmul(x[0], x[1]); }, {{3, 700}, {700, 2001}}},
    {"matmul, low", [](Inputs x) { return matmul(x[0], x[1]); }, {{5, 257}, {257, 130}}},
    {"matmul, a vector", [](Inputs x) { return matmul(x[0], x[1]); }, {{701, 300}, {300}}},
    {"matmul, batch", [](Inputs x) { return matmul(x[0], x[1]); }, {{8, 70, 60}, {8, 60, 50}}},
    {"matmul, one by batch", [](Inputs x) { return matmul(x[0], x[1]); }, {{70, 60}, {8, 60, 50}}},
    {"linear", [](Inputs x) { return linear(x[0], x[1], x[2]); }, {{3, 50, 300}, {170, 300}, {170}}},
    {"quantized_linear",
     [](Inputs x) {
       manual_seed(4);
       const auto quantizer = [](const fp8::Format& format) {
         return fp8::Quantizer{
             format, fp8::AmaxHistory(2), fp8::Scaling::window, {.rounding = fp8::Rounding::stochastic}};
       };
       fp8::LinearQuantizers quantizers{quantizer(fp8::E4M3), quantizer(fp8::E4M3), quantizer(fp8::E5M2)};
       const Tensor first = fp8::quantized_linear(x[0], x[1], x[2], quantizers, true);
       return first + fp8::quantized_linear(x[0] * 2.0, x[1], x[2], quantizers, true);
     },
     {{150, 300}, {170, 300}, {170}}},
};

// The value of a row and its gradients.
Results value_and_gradients(const Row& row, DType dtype) {
  std::vector<Tensor> x;
  for (const Shape& shape : row.shapes)
    x.push_back(randn(shape, 10 + x.size()).to(dtype).clone().requires_grad(true));
  Tape tape;
  Results results = {row.fn(x)};
  tape.backward(results[0], randn(results[0].shape(), 77).to(results[0].dtype()));
  for (const Tensor& t : x) results.push_back(t.grad());
  return results;
}

template <class F>
void check_same_bits(F&& f) {
  Results one;
  for (const int threads : {1, 2, 3, 7}) {
    const ThreadCount count(threads);
    const Results results = f();
    if (threads == 1) one = results;
    CAPTURE(threads);
    for (size_t i = 0; i < one.size(); ++i) {
      CAPTURE(i);
      CHECK(same_bits(results[i].detach(), one[i].detach()));
    }
  }
}

}  // namespace

TEST_CASE("ops give the same bits on any number of threads, forward and backward", "[same_bits]") {
  for (const Row& row : rows) {
    CAPTURE(row.name);
    check_same_bits([&] { return value_and_gradients(row, DType::f32); });
    check_same_bits([&] { return value_and_gradients(row, DType::f64); });
  }
}

TEST_CASE("products give the same bits on any number of threads, forward and backward", "[same_bits]") {
  for (const Row& row : products) {
    CAPTURE(row.name);
    check_same_bits([&] { return value_and_gradients(row, DType::f32); });
    check_same_bits([&] { return value_and_gradients(row, DType::f64); });
  }
}

TEST_CASE("random numbers are the same on any number of threads", "[same_bits]") {
  check_same_bits([] {
    Generator g(8);
    return Results{Tensor::rand({70001}, {DType::f32}, g), Tensor::rand({70001}, {DType::f64}, g),
                   Tensor::randn({70001}, {DType::f32}, g), Tensor::randn({70001}, {DType::f64}, g),
                   Tensor::randint(1000, {70001}, Device::cpu(), g)};
  });
}

TEST_CASE("codes, amaxes, argmax and comparisons are the same on any number of threads", "[same_bits]") {
  check_same_bits([] {
    const Tensor x = randn({301, 701}, 1, DType::f32), y = randn({701}, 2, DType::f32);
    manual_seed(5);
    const Tensor codes = fp8::encode(x, fp8::E4M3, 0.01f, {.rounding = fp8::Rounding::stochastic});
    return Results{
        codes,         fp8::decode(codes, fp8::E4M3, 0.01f), Tensor::full({}, fp8::amax(x)), argmax(x),
        greater(x, y), Tensor::full({50001}, 0.1f)};
  });
}

TEST_CASE("averages of parameters have the same bits on any number of threads", "[same_bits]") {
  check_same_bits([&] {
    nn::Linear layer(301, 307);
    layer.weight().detach().copy_(randn({307, 301}, 1).to(DType::f32));
    optim::Ema ema(layer, 0.9);
    layer.weight().detach().copy_(randn({307, 301}, 2).to(DType::f32));
    ema.update();
    return Results{ema.state_dict().at("weight").clone()};
  });
}

TEST_CASE("optimizers and clipping give the same bits on any number of threads", "[same_bits]") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    for (const bool adam : {true, false}) {
      CAPTURE(adam, dtype);
      check_same_bits([&] {
        std::vector<Tensor> params;
        for (const Shape& shape : {Shape{70001}, Shape{3}, Shape{301, 211}})
          params.push_back(randn(shape, params.size()).to(dtype).clone().requires_grad(true));
        std::unique_ptr<optim::Optimizer> optimizer;
        if (adam) {
          optimizer = std::make_unique<optim::AdamW>(params, optim::AdamWOptions{});
        } else {
          optimizer = std::make_unique<optim::SGD>(params, optim::SGDOptions{.momentum = 0.9});
        }
        Results results = params;
        for (int step = 0; step < 3; ++step) {
          for (const Tensor& p : params) p.set_grad(randn(p.shape(), uint64_t(50 + step)).to(dtype));
          results.push_back(Tensor::full({}, nn::clip_grad_norm(params, 0.5), {.dtype = DType::f64}));
          optimizer->step();
        }
        return results;
      });
    }
  }
}
