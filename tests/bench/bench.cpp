// What altgrad's time goes to on this machine: whole training steps of three GPTs in three modes, and the kernels
// they are made of, as shares of the FMA peak or of memcpy measured around each sample.
#include <altgrad/altgrad.h>
#include <altgrad/core/kernels.h>
#include <altgrad/fp8/kernels.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "measure.h"

namespace ag = altgrad;
namespace k = altgrad::kernels;
using bench::measure;

namespace {

struct Size {
  const char* name;
  int64_t layers, heads, channels, length, batch, vocabulary;

  // 6 operations a parameter of a matrix and token, and attention over the full length x length.
  double operations() const {
    const double matrices = double(12 * layers * channels * channels + vocabulary * channels);
    return 6 * matrices * double(batch * length) + 12.0 * double(layers * batch * length * length * channels);
  }
};
constexpr Size sizes[] = {
    {"tiny", 4, 4, 128, 64, 12, 65}, {"baby", 6, 6, 384, 256, 8, 65}, {"gpt2", 12, 12, 768, 256, 2, 50257}};

// f32; E4M3 weights; or E4M3 weights and inputs and E5M2 gradients. The tied head stays as it is.
const char* const modes[] = {"f32", "weights", "full"};

// A model in training, on a batch of random tokens.
class Training {
 public:
  Training(const Size& s, const std::string& mode)
      : model({.n_layer = s.layers,
               .n_head = s.heads,
               .n_embd = s.channels,
               .block_size = s.length,
               .vocab_size = s.vocabulary}),
        opt(model.parameters(), {.lr = 1e-3, .betas = {0.9, 0.95}, .weight_decay = 0.1}),
        x(ag::Tensor::randint(s.vocabulary, {s.batch, s.length})),
        y(ag::Tensor::randint(s.vocabulary, {s.batch, s.length})) {
    using namespace ag::fp8;
    if (mode == "weights") quantize_model(model, E4M3, {.skip_patterns = {"lm_head"}});
    if (mode == "full") {
      quantize_model(model, E4M3, {.skip_patterns = {"lm_head"}, .input_format = E4M3, .grad_format = E5M2});
    }
  }
  void step() {
    ag::Tape tape;
    tape.backward(model.loss(x, y));
    opt.step();
    opt.zero_grad();
  }

 private:
  ag::models::GPT model;
  ag::optim::AdamW opt;
  ag::Tensor x, y;
};

// Zeros as a matrix of codes in bf16.
ag::Tensor codes(int64_t rows, int64_t n) {
  return ag::Tensor::zeros({2 * k::bf16_padded(rows) * k::bf16_padded(n)}, {.dtype = ag::DType::u8});
}

class Bench {
 public:
  Bench(int threads, int samples, std::string only, const std::string& json)
      : threads_(threads), samples_(samples), only_(std::move(only)) {
    if (!json.empty()) json_.open(json);
    std::printf("%d threads, FMA peak %.0f GFLOP/s, bf16 dot products %.0f GFLOP/s\n", threads,
                bench::fma_rate(threads) / 1e9, bench::bf16_rate(threads) / 1e9);
    std::printf("%-34s %12s %10s\n", "", "median", "share of");
  }

  // In all three, make() gives the function to time, and is called where that is wanted.
  //
  // The function does so many floating-point operations.
  template <class F>
  void arithmetic(const std::string& name, double operations, F&& make) {
    if (!wanted(name)) return;
    const auto f = make();
    show(name, "FMA peak",
         measure(
             operations, [&] { return bench::fma_rate(threads_); }, f, samples_));
  }
  // The function reads or writes about so many bytes: compared with a memcpy that does.
  template <class F>
  void memory(const std::string& name, int64_t bytes, F&& make) {
    if (!wanted(name)) return;
    const auto f = make();
    const ag::Tensor from = ag::Tensor::zeros({bytes / 8}), to = ag::Tensor::zeros({bytes / 8});
    const auto copy = [&] {
      constexpr int times = 20;
      const double start = bench::seconds();
      for (int i = 0; i < times; ++i) {
#pragma omp parallel for num_threads(threads_)
        for (int t = 0; t < threads_; ++t) {
          const size_t begin = from.nbytes() * size_t(t) / size_t(threads_),
                       end = from.nbytes() * size_t(t + 1) / size_t(threads_);
          std::memcpy(static_cast<char*>(to.raw()) + begin, static_cast<char*>(from.raw()) + begin,
                      end - begin);
        }
      }
      return times * 2.0 * double(from.nbytes()) / (bench::seconds() - start);
    };
    show(name, "memcpy", measure(double(bytes), copy, f, samples_));
  }
  // The function alone: seconds.
  template <class F>
  void time(const std::string& name, F&& make) {
    if (wanted(name))
      show(name, "",
           measure(
               0, [] { return 1.0; }, make(), samples_));
  }

 private:
  bool wanted(const std::string& name) const { return name.find(only_) != name.npos; }

  void show(const std::string& name, const char* of, bench::Sample s) {
    const bool micro = s.seconds < 1e-3;
    std::printf("%-34s %9.3f %s", name.c_str(), s.seconds * (micro ? 1e6 : 1e3), micro ? "us" : "ms");
    if (*of) std::printf(" %9.2f %s", s.per_peak, of);
    std::printf("\n");
    std::fflush(stdout);
    if (!json_.is_open()) return;
    nlohmann::ordered_json line{{"name", name}, {"threads", threads_}, {"seconds", s.seconds}};
    if (*of) line.update({{"share", s.per_peak}, {"of", of}});
    line["tensor_bytes"] = ag::memory_stats().peak;
    line["resident_bytes"] = bench::most_resident();
    json_ << line.dump() << std::endl;
  }

  int threads_, samples_;
  std::string only_;
  std::ofstream json_;
};

void steps(Bench& b) {
  for (const Size& s : sizes) {
    for (const char* mode : modes) {
      b.arithmetic(std::string("step ") + s.name + " " + mode, s.operations(), [&] {
        ag::empty_cache();
        ag::reset_peak_memory();
        auto training = std::make_shared<Training>(s, mode);
        for (int i = 0; i < 2; ++i) training->step();
        return [=] { training->step(); };
      });
    }
  }
}

// The linear layers of the three models, forward and backward, in f32 and on codes.
void products(Bench& b) {
  struct Shape {
    int64_t rows, out, in;
  };
  for (const auto& [rows, out, in] :
       {Shape{768, 384, 128}, Shape{768, 512, 128}, Shape{768, 128, 512}, Shape{2048, 1152, 384},
        Shape{2048, 384, 1536}, Shape{512, 2304, 768}, Shape{512, 768, 3072}}) {
    const k::Gemm forward{.m = rows, .n = out, .k = in, .trans_b = true}, dx{.m = rows, .n = in, .k = out},
        dw{.m = out, .n = in, .k = rows, .trans_a = true};
    for (const auto& [what, gemm] : {std::pair{"y", forward}, std::pair{"dx", dx}, std::pair{"dw", dw}}) {
      const k::Gemm g = gemm;
      const std::string shape = ag::concat(what, " ", g.m, " x ", g.n, " x ", g.k);
      const double operations = 2.0 * double(g.m * g.n * g.k);
      b.arithmetic("gemm f32 " + shape, operations, [=] {
        const ag::Tensor a = ag::Tensor::randn({g.m, g.k}), w = ag::Tensor::randn({g.k, g.n}),
                         c = ag::Tensor::empty({g.m, g.n});
        return [=] { k::gemm<ag::Cpu>(c.ptr<float>(), a.ptr<float>(), w.ptr<float>(), g); };
      });
      if (!k::has_bf16<ag::Cpu>()) continue;
      b.arithmetic("gemm codes " + shape, operations, [=] {
        const ag::Tensor left = codes(g.m, g.k), right = codes(g.k, g.n), c = ag::Tensor::empty({g.m, g.n});
        return [=] {
          k::gemm_bf16<ag::Cpu>(c.ptr<float>(), left.ptr<uint16_t>(), right.ptr<uint16_t>(), nullptr, g);
        };
      });
    }
  }
}

// amax and round to E4M3, in one pass with the scale that is expected, as a layer's steps mostly do, and in two: to
// floats on x's own scale, and to what products on codes read.
void quantize(Bench& b) {
  using namespace ag::fp8;
  for (const auto& [where, rows] : {std::pair{"L2", 64}, std::pair{"L3", 1024}, std::pair{"RAM", 32768}}) {
    const int64_t columns = 1024, n = rows * columns;
    const Rounder<float> rounder(E4M3);
    for (const bool expected : {true, false}) {
      const std::string how = ag::concat(expected ? "round with amax" : "amax, then round");
      const auto scale_of = [=](const ag::Tensor& x) { return compute_scale(amax(x), E4M3); };
      b.memory(ag::concat(how, ", ", where), 8 * n, [=] {
        const ag::Tensor x = ag::Tensor::randn({n}), y = ag::Tensor::empty({n});
        const float known = scale_of(x), top = amax(x);
        return [=] {
          const float scale = expected ? known : scale_of(x);
          k::quantize<ag::Cpu>(y.ptr<float>(), x.ptr<float>(), scale, rounder, {}, n,
                               expected ? k::unknown_amax : top);
        };
      });
      b.memory(ag::concat(how, " to codes, ", where), 6 * n, [=, rows = rows] {
        const ag::Tensor x = ag::Tensor::randn({n}), y = codes(rows, columns);
        const float known = scale_of(x), top = amax(x);
        return [=] {
          const float scale = expected ? known : scale_of(x);
          k::quantize_bf16<ag::Cpu>(y.ptr<uint16_t>(), x.ptr<float>(), scale, rounder, {}, rows, columns,
                                    expected ? k::unknown_amax : top);
        };
      });
    }
  }
}

void others(Bench& b) {
  for (const auto& [B, T, H, C] :
       {std::array<int64_t, 4>{12, 64, 4, 128}, std::array<int64_t, 4>{8, 256, 6, 384}}) {
    b.arithmetic(ag::concat("attention ", B, " x ", T, " x ", C, ", ", H, " heads"),
                 12.0 * double(B * T * T * C), [B = B, T = T, H = H, C = C] {
                   const ag::Tensor qkv = ag::Tensor::randn({B, T, 3 * C}).requires_grad(true),
                                    dy = ag::Tensor::randn({B, T, C});
                   return [=] {
                     ag::Tape tape;
                     tape.backward(ag::causal_attention(qkv, H), dy);
                     qkv.set_grad({});
                   };
                 });
  }
  constexpr int64_t rows = 2048, n = 768, V = 8192;
  b.memory("layer norm, forward and backward", 4 * 5 * rows * n, [] {
    const ag::Tensor x = ag::Tensor::randn({rows, n}).requires_grad(true),
                     w = ag::Tensor::ones({n}).requires_grad(true), dy = ag::Tensor::randn({rows, n});
    return [=] {
      ag::Tape tape;
      tape.backward(ag::layer_norm(x, w), dy);
      x.set_grad({}), w.set_grad({});
    };
  });
  b.memory("cross entropy, forward and backward", 4 * 3 * 512 * V, [] {
    const ag::Tensor logits = ag::Tensor::randn({512, V}).requires_grad(true),
                     ids = ag::Tensor::randint(V, {512});
    return [=] {
      ag::Tape tape;
      tape.backward(ag::cross_entropy(logits, ids));
      logits.set_grad({});
    };
  });
  b.memory("AdamW, 16 M parameters", int64_t(4) * 7 << 24, [] {
    const ag::Tensor p = ag::Tensor::randn({1 << 24}).requires_grad(true);
    p.set_grad(ag::Tensor::randn({1 << 24}));
    const auto opt = std::make_shared<ag::optim::AdamW>(std::vector{p}, ag::optim::AdamWOptions{.lr = 1e-3});
    return [=] { opt->step(); };
  });
  b.time("100 ops on 64 floats, both ways", [] {
    const ag::Tensor small = ag::Tensor::randn({64}).requires_grad(true), seed = ag::Tensor::ones({64});
    return [=] {
      ag::Tape tape;
      ag::Tensor y = small;
      for (int i = 0; i < 100; ++i) y = ag::neg(y);
      tape.backward(y, seed);
      small.set_grad({});
    };
  });
}

// How a step of tiny in f32 grows with one of its sizes: time and peak memory, and the slopes from the size before,
// d log(time) / d log(size), next to that of the arithmetic. Sequences grow in batches of two.
void growth(int samples) {
  const Size tiny = sizes[0], pairs = {"", 4, 4, 128, 64, 2, 65};
  struct Axis {
    const char* name;
    Size start;
    int64_t Size::*size;
    std::vector<int64_t> values;
  };
  std::printf("%-12s %10s %9s %9s   slopes: %6s %11s %7s\n", "", "ms", "MB", "GFLOP/s", "time", "arithmetic",
              "memory");
  for (const Axis& axis : {Axis{"width", tiny, &Size::channels, {128, 256, 512, 1024}},
                           Axis{"depth", tiny, &Size::layers, {2, 4, 8, 12}},
                           Axis{"T", pairs, &Size::length, {64, 128, 256, 512, 1024, 2048}},
                           Axis{"batch", tiny, &Size::batch, {1, 2, 4, 8, 16, 32, 64}}}) {
    double last[4] = {};  // size, time, operations, memory
    for (const int64_t value : axis.values) {
      Size s = axis.start;
      s.*axis.size = value;
      ag::empty_cache();
      ag::reset_peak_memory();
      Training training(s, "f32");
      training.step();
      const double seconds = measure(
                                 0, [] { return 1.0; }, [&] { training.step(); }, samples)
                                 .seconds;
      const double now[4] = {double(value), seconds, s.operations(), double(ag::memory_stats().peak)};
      std::printf("%-5s %6lld %10.2f %9.1f %9.1f", axis.name, static_cast<long long>(value), now[1] * 1e3,
                  now[3] / 1e6, now[2] / now[1] / 1e9);
      if (last[0] > 0) {
        const auto slope = [&](int i) { return std::log(now[i] / last[i]) / std::log(now[0] / last[0]); };
        std::printf("   %14.2f %11.2f %7.2f", slope(1), slope(2), slope(3));
      }
      std::printf("\n");
      std::fflush(stdout);
      std::copy(now, now + 4, last);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("times altgrad on this machine");
  int threads = ag::num_threads(), samples = 11;
  std::string only, json;
  bool grows = false;
  app.add_option("--threads", threads, "threads")->check(CLI::Range(1, 1024));
  app.add_option("--samples", samples, "samples that a median is taken of")->check(CLI::Range(1, 1000));
  app.add_option("--only", only, "run what has this text in its name");
  app.add_option("--json", json, "write a JSON line for each result to this file");
  app.add_flag("--growth", grows,
               "how a step's time and memory grow with width, depth, T and batch, instead");
  CLI11_PARSE(app, argc, argv);
  try {
    ag::set_num_threads(threads);
    if (grows) {
      growth(samples);
      return 0;
    }
    Bench b(threads, samples, only, json);
    steps(b);
    products(b);
    quantize(b);
    others(b);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench: %s\n", e.what());
    return 1;
  }
}
