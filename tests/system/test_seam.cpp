// What a device that works on its own would make slow: numbers that the host waits for.
#include <altgrad/altgrad.h>
#include <altgrad/core/internal/host_reads.h>

#include <cmath>

#include "catch.h"
#include "thread_count.h"

using namespace altgrad;

namespace {

// The numbers that f reads.
template <class F>
int64_t reads(F f) {
  const int64_t before = detail::host_reads;
  f();
  return detail::host_reads - before;
}

}  // namespace

TEST_CASE("a training step reads nothing", "[seam]") {
  for (const fp8::Scaling scaling : {fp8::Scaling::window, fp8::Scaling::delayed, fp8::Scaling::current}) {
    for (const fp8::Ste ste : {fp8::Ste::identity, fp8::Ste::clipped}) {
      models::GPT model(
          {.n_layer = 2, .n_head = 2, .n_embd = 32, .block_size = 8, .vocab_size = 11, .dropout = 0.1});
      fp8::quantize_model(
          model, fp8::E4M3,
          {.input_format = fp8::E4M3, .grad_format = fp8::E5M2, .scaling = scaling, .ste = ste});
      optim::AdamW opt(model.parameters(), {});
      const std::vector<Tensor> parameters = model.parameters();
      const Tensor ids = Tensor::randint(11, {3, 8}), targets = Tensor::randint(11, {3, 8});
      for (int step = 0; step < 3; ++step) {
        CAPTURE(int(scaling), int(ste), step);
        Tensor loss, norm;
        CHECK(reads([&] {
                Tape tape;
                loss = model.loss(ids, targets);
                tape.backward(loss);
                norm = nn::clip_grad_norm_(parameters, 1.0);
                opt.step();
                opt.zero_grad();
              }) == 0);
        CHECK(reads([&] { loss.item<float>(); }) == 1);
        CHECK(reads([&] { nn::clip_grad_norm(parameters, 1.0); }) == 1);
      }
    }
  }
}

TEST_CASE("clip_grad_norm_ gives the norm as a tensor and clips as clip_grad_norm does", "[seam]") {
  std::vector<Tensor> a, b;
  for (const DType dtype : {DType::f32, DType::f64}) {
    for (std::vector<Tensor>* list : {&a, &b}) {
      Generator generator(3);
      const Tensor p = Tensor::zeros({100}, {dtype});
      p.set_grad(Tensor::randn({100}, {dtype}, generator));
      list->push_back(p);
    }
  }
  double squares = 0;
  for (const Tensor& p : a) {
    const Tensor grad = p.grad().to(DType::f64);
    for (const double g : grad.data<double>()) squares += g * g;
  }
  const double norm = nn::clip_grad_norm(a, 2.0);
  CHECK(norm == Approx(std::sqrt(squares)).epsilon(1e-12));
  const Tensor same = nn::clip_grad_norm_(b, 2.0);
  CHECK(same.dtype() == DType::f64);
  CHECK(same.item<double>() == norm);
  CHECK(norm > 2);
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const Tensor off = a[i].grad().to(DType::f64) - b[i].grad().to(DType::f64);
    CHECK(altgrad::max(abs(off)).item<double>() == 0);
    const Tensor g = b[i].grad().to(DType::f64);
    sum += altgrad::sum(g * g).item<double>();
  }
  CHECK(std::sqrt(sum) == Approx(2).epsilon(1e-6));
}

TEST_CASE("a gradient that is given twice is scaled twice, on any number of threads", "[seam]") {
  for (const int threads : {1, 2, 3}) {
    const ThreadCount count(threads);
    const Tensor p = Tensor::zeros({1 << 16});
    p.set_grad(Tensor::ones({1 << 16}));
    const double norm = nn::clip_grad_norm(std::vector{p, p}, 1.0);
    const float factor = float(1 / norm), expected = 1 * factor * factor;
    for (const float g : p.grad().data<float>()) REQUIRE(g == expected);
  }
}
