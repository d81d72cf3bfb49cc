// A program may round upward (interval arithmetic) or flush subnormals (GCC before 13 links code for it where
// -ffast-math is given). The library's results are those of the default environment, on any number of threads.
#include <altgrad/altgrad.h>

#include <atomic>
#include <cfenv>
#include <functional>
#include <string>
#include <thread>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "catch.h"
#include "thread_count.h"

using namespace altgrad;

namespace {

struct Environment {
  const char* name;
  std::function<void()> enter;
};

std::vector<Environment> environments() {
  std::vector<Environment> all{{"upward", [] { std::fesetround(FE_UPWARD); }},
                               {"downward", [] { std::fesetround(FE_DOWNWARD); }},
                               {"toward zero", [] { std::fesetround(FE_TOWARDZERO); }}};
#if defined(__SSE2__)
  all.push_back({"subnormals flushed", [] { _mm_setcsr(_mm_getcsr() | 0x8040); }});
#elif defined(__aarch64__)
  all.push_back({"subnormals flushed", [] {
                   uint64_t fpcr;
                   __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
                   __asm__ volatile("msr fpcr, %0" : : "r"(fpcr | uint64_t(1) << 24));
                 }});
#endif
  return all;
}

// What f gives in a thread that is in the environment from the start, as are its workers: a loop of the user's has
// started them.
template <class F>
auto within(const Environment& environment, F f) {
  decltype(f()) result;
  std::thread([&] {
    environment.enter();
    std::atomic<int> workers = 0;
#pragma omp parallel num_threads(3)
    ++workers;
    result = f();
  }).join();
  return result;
}

// The bytes of what was computed, by what it is.
class Results {
 public:
  void add(std::string_view name, const Tensor& t) { add(name, t.raw(), t.nbytes()); }
  template <class T>
  void add(std::string_view name, const std::vector<T>& values) {
    add(name, values.data(), values.size() * sizeof(T));
  }
  // The names of those that are not the same.
  std::string differing(const Results& other) const {
    std::string names;
    for (size_t i = 0; i < all_.size(); ++i) {
      if (i >= other.all_.size() || all_[i] != other.all_[i]) names += all_[i].first + "; ";
    }
    return names;
  }

 private:
  void add(std::string_view name, const void* data, size_t size) {
    all_.emplace_back(name, std::string(static_cast<const char*>(data), size));
  }
  std::vector<std::pair<std::string, std::string>> all_;
};

// The environment must be left as it was found.
int rounding_mode = -1;

Results training() {
  manual_seed(5);
  models::GPT model(
      {.n_layer = 1, .n_head = 2, .n_embd = 32, .block_size = 16, .vocab_size = 50, .dropout = 0.1});
  fp8::quantize_model(
      model, fp8::E4M3,
      {.input_format = fp8::E4M3, .grad_format = fp8::E5M2, .scaling = fp8::Scaling::delayed});
  optim::AdamW opt(model.parameters(), {.lr = 1e-2});
  const optim::CosineSchedule lr{1e-2, 1e-3, 2, 5};
  Results all;
  for (int step = 0; step < 4; ++step) {
    opt.set_lr(lr(step));
    const Tensor ids = Tensor::randint(50, {8, 16}), targets = Tensor::randint(50, {8, 16});
    Tape tape;
    const Tensor loss = model.loss(ids, targets);
    tape.backward(loss);
    nn::clip_grad_norm(model.parameters(), 0.5);
    opt.step();
    opt.zero_grad();
    all.add("loss", loss);
  }
  for (const auto& [name, p] : model.named_parameters()) all.add(name, p);
  all.add("generate", model.generate(Tensor::zeros({1, 4}, {.dtype = DType::i64}), 8));
  rounding_mode = std::fegetround();
  return all;
}

// Large enough for several threads, from 2^-149 to 2^127.
Tensor values() {
  Generator generator(3);
  const Tensor x = Tensor::randn({1 << 16}, {}, generator);
  for (size_t i = 0; i < x.data<float>().size(); ++i)
    x.data<float>()[i] = float(std::ldexp(double(x.data<float>()[i]), int(i % 270) - 145));
  return x;
}

Results rounding(const Tensor& x) {
  Results all;
  for (const char* name : {"E4M3", "E5M2", "E0M7", "fp16", "bf16", "E8M7", "E11M4", "p3109_k8p3se"}) {
    const fp8::Format& f = fp8::format(name);
    for (const float scale : {1.0f, 0.3f, 0x1p-120f})
      all.add(std::string("quantize ") + name, fp8::quantize(x, f, scale));
    all.add("range", std::vector{f.max(), f.min_normal(), f.min_subnormal()});
    all.add("scale", std::vector{fp8::compute_scale(0.7f, f), fp8::compute_scale(0x1p-140f, f)});
    const fp8::Rounder<float> r(f);
    const fp8::Rounder<double> wide(f);
    std::vector<float> rounded;
    std::vector<uint32_t> codes;
    for (int i = -300; i < 300; ++i) {
      const float v = std::bit_cast<float>(uint32_t(0x1234567u * uint32_t(i)));
      rounded.push_back(r(v));
      codes.push_back(r.code(rounded.back()));
      codes.push_back(wide.code(wide(std::bit_cast<double>(0x123456789abcdefull * uint64_t(i)))));
    }
    all.add(std::string("rounder ") + name, rounded);
    all.add(std::string("codes ") + name, codes);
  }
  const Tensor scales = fp8::encode(abs(x), fp8::float8_e8m0fnu, 1.0f);
  all.add("encode", scales);
  all.add("decode", fp8::decode(scales, fp8::float8_e8m0fnu, 1.0f));
  all.add("to f64", x.to(DType::f64));
  all.add("to f32", x.to(DType::f64).to(DType::f32));
  all.add("sum", sum(x * 0.0 + 1e-42));
  all.add("softmax", softmax(x.reshape({256, 256})));
  all.add("arithmetic", x * 0.1 + 1e-40);
  const Tensor logits = x.narrow(0, 0, 1 << 10).to(DType::f64).reshape({16, 64}),
               tiny = Tensor::full({2}, 1e-40);
  all.add("cross_entropy", cross_entropy(logits, Tensor::arange(16)));
  all.add("var", var(logits, {1}, false, 0.3));
  all.add("item", std::vector{tiny.narrow(0, 0, 1).item<float>()});
  all.add("tiny scale", fp8::quantize(tiny, fp8::E4M3, 1e-39f));
  const auto filled = [](auto init) {
    const Tensor t = Tensor::empty({30, 7}, {DType::f64});
    Generator generator(4);
    init(t, generator);
    return t;
  };
  all.add("uniform", filled([](const Tensor& t, Generator& g) { nn::init::uniform_(t, -0.1, 0.3, g); }));
  all.add("normal", filled([](const Tensor& t, Generator& g) { nn::init::normal_(t, 0.1, 0.3, g); }));
  all.add("xavier", filled([](const Tensor& t, Generator& g) { nn::init::xavier_uniform_(t, g); }));
  all.add("kaiming", filled([](const Tensor& t, Generator& g) { nn::init::kaiming_uniform_(t, 0.7, g); }));
  fp8::AmaxHistory history(4);
  history.update(tiny);
  history.update(tiny * 0.5);
  fp8::Quantizer quantizer{fp8::E4M3, history, fp8::Scaling::window, {}};
  const fp8::QTensor operand = quantizer.apply(tiny.reshape({1, 2}), true);
  all.add("history", std::vector{history.amax()});
  all.add("operand", operand.scale);
  all.add("operand", operand.dequantize());
  all.add("amax", std::vector{fp8::amax(x * 1e-45)});
  return all;
}

}  // namespace

TEST_CASE("neither rounding mode nor flushed subnormals change a bit", "[float_environment]") {
  const Tensor x = values();
  const ThreadCount one(1);
  const Results want_training = training(), want_rounding = rounding(x);
  for (const Environment& environment : environments()) {
    for (const int threads : {1, 3}) {
      INFO(environment.name << ", " << threads << " threads");
      const ThreadCount count(threads);
      CHECK(want_rounding.differing(within(environment, [&] { return rounding(x); })) == "");
      CHECK(want_training.differing(within(environment, training)) == "");
    }
  }
}

TEST_CASE("the caller's rounding mode is left as it was", "[float_environment]") {
  within({"upward", [] { std::fesetround(FE_UPWARD); }}, training);
  CHECK(rounding_mode == FE_UPWARD);
}
