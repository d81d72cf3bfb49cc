// What altgrad's time goes to on this machine: whole training steps of three GPTs in three modes, and the kernels
// they are made of, as shares of the FMA peak or of memcpy measured around each sample.
#include <altgrad/core/internal/kernels/gemm.h>
#include <altgrad/fp8/internal/kernels.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "device.h"
#include "report.h"
#include "training.h"

namespace ag = altgrad;
namespace k = altgrad::kernels;
using bench::Report;
using bench::Size;
using bench::sizes;
using bench::Training;

namespace {

void steps(Report& b) {
  for (const Size& s : sizes) {
    for (const char* mode : bench::modes) {
      b.arithmetic(ag::concat("step ", s.name, " ", mode), s.operations(), [&] {
        ag::empty_cache();
        ag::reset_peak_memory();
        auto training = std::make_shared<Training>(s, mode);
        for (int i = 0; i < 2; ++i) training->step();
        return [=] { training->step(); };
      });
    }
  }
}

// Numbers in bf16: how long a product takes does not depend on them.
ag::Tensor codes(int64_t rows, int64_t n) { return ag::Tensor::randn({rows, n}).to(ag::DType::bf16); }

// The linear layers of the three models, forward and backward, in f32 and, but for the heads, on codes.
void products(Report& b) {
  for (const Size& s : sizes) {
    const int64_t C = s.channels;
    for (const auto& [out, in] : {std::pair{3 * C, C}, {C, C}, {4 * C, C}, {C, 4 * C}, {s.vocabulary, C}}) {
      const int64_t rows = s.tokens();
      const k::Gemm forward{.m = rows, .n = out, .k = in, .trans_b = true}, dx{.m = rows, .n = in, .k = out},
          dw{.m = out, .n = in, .k = rows, .trans_a = true};
      for (const auto& [what, gemm] : {std::pair{"y", forward}, std::pair{"dx", dx}, std::pair{"dw", dw}}) {
        const k::Gemm g = gemm;
        const std::string shape = ag::concat(what, " ", g.m, " x ", g.n, " x ", g.k);
        const double operations = 2.0 * double(g.m * g.n * g.k);
        b.arithmetic(
            "gemm f32 " + shape, operations,
            [=] {
              const ag::Tensor a = ag::Tensor::randn({g.m, g.k}), w = ag::Tensor::randn({g.k, g.n}),
                               c = ag::Tensor::empty({g.m, g.n});
              return [=] { k::gemm(ag::Cpu{}, c.ptr<float>(), a.ptr<float>(), w.ptr<float>(), g); };
            },
            "gemm f32");
        if (!k::has_bf16(ag::Cpu{}) || out == s.vocabulary) continue;
        b.arithmetic(
            "gemm codes " + shape, operations,
            [=] {
              const ag::Tensor left = codes(g.m, g.k), right = codes(g.k, g.n),
                               c = ag::Tensor::empty({g.m, g.n});
              return [=] {
                k::gemm(ag::Cpu{}, c.ptr<float>(), left.ptr<ag::bfloat16>(), right.ptr<ag::bfloat16>(),
                        nullptr, g);
              };
            },
            "gemm codes");
      }
    }
  }
}

// amax and round to E4M3, in one pass with the scale that is expected, as a layer's steps mostly do, and in two: to
// floats on x's own scale, and to what products on codes read.
void quantize(Report& b) {
  using namespace ag::fp8;
  for (const auto& [where, rows] : {std::pair{"L2", 64}, std::pair{"L3", 1024}, std::pair{"RAM", 32768}}) {
    const int64_t columns = 1024, n = rows * columns;
    const Rounder<float> rounder(E4M3);
    for (const bool expected : {true, false}) {
      const std::string how = ag::concat(expected ? "round with amax" : "amax, then round");
      const auto scale_of = [=](const ag::Tensor& x) { return compute_scale(amax(x), E4M3); };
      b.memory(ag::concat(how, ", ", where), 8 * n, [=] {
        const ag::Tensor x = ag::Tensor::randn({n}), y = ag::Tensor::empty({n});
        const float known = scale_of(x);
        return [=] {
          const float scale = expected ? known : scale_of(x);
          float largest = 0;
          k::quantize(ag::Cpu{}, y.ptr<float>(), x.ptr<float>(), &scale, {rounder, {}}, n,
                      expected ? &largest : nullptr);
        };
      });
      b.memory(ag::concat(how, " to codes, ", where), 6 * n, [=, rows = rows] {
        const ag::Tensor x = ag::Tensor::randn({n}), y = codes(rows, columns);
        const float known = scale_of(x);
        return [=] {
          const float scale = expected ? known : scale_of(x);
          float largest = 0;
          k::quantize(ag::Cpu{}, y.ptr<ag::bfloat16>(), x.ptr<float>(), &scale, {rounder, {}}, n,
                      expected ? &largest : nullptr);
        };
      });
    }
  }
}

void others(Report& b) {
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
  constexpr int ops = 100;
  b.time("an op on 64 floats, both ways", ops, [] {
    const ag::Tensor small = ag::Tensor::randn({64}).requires_grad(true), seed = ag::Tensor::ones({64});
    return [=] {
      ag::Tape tape;
      ag::Tensor y = small;
      for (int i = 0; i < ops / 2; ++i) y = ag::neg(y) + small;
      tape.backward(y, seed);
      small.set_grad({});
    };
  });
}

// How a step of tiny in f32 grows with one of its sizes: time and peak memory of tensors, and the slopes from the size
// before, d log(time) / d log(size), next to that of the arithmetic. Sequences grow in batches of two.
void growth(Report& b) {
  const Size tiny = sizes[0], pairs = {"", 4, 4, 128, 64, 2, 65};
  struct Axis {
    const char* name;
    Size start;
    int64_t Size::*size;
    std::vector<int64_t> values;
  };
  std::printf("%36s %12s %9s %9s   slopes: time, arithmetic, memory\n", "", "", "MB", "GFLOP/s");
  for (const Axis& axis : {Axis{"width", tiny, &Size::channels, {128, 256, 512, 1024}},
                           Axis{"depth", tiny, &Size::layers, {2, 4, 8, 12}},
                           Axis{"T", pairs, &Size::length, {64, 128, 256, 512, 1024, 2048}},
                           Axis{"batch", tiny, &Size::batch, {1, 2, 4, 8, 16, 32, 64}}}) {
    double last[4] = {};  // size, time, operations, memory
    for (const int64_t value : axis.values) {
      const std::string name = ag::concat("growth ", axis.name, " ", value);
      if (!b.wanted(name)) continue;
      Size s = axis.start;
      s.*axis.size = value;
      ag::empty_cache();
      ag::reset_peak_memory();
      Training training(s, "f32");
      training.step();
      const double time = b.seconds_of([&] { training.step(); });
      const double now[4] = {double(value), time, s.operations(), double(ag::memory_stats().peak)};
      char text[96];
      int end = std::snprintf(text, sizeof text, " %9.1f %9.1f", now[3] / 1e6, now[2] / now[1] / 1e9);
      if (last[0] > 0) {
        const auto slope = [&](int i) { return std::log(now[i] / last[i]) / std::log(now[0] / last[0]); };
        std::snprintf(text + end, sizeof text - size_t(end), "   %12.2f %11.2f %7.2f", slope(1), slope(2),
                      slope(3));
      }
      b.show(name, time, text, {{"gflops", now[2] / now[1] / 1e9}});
      std::copy(now, now + 4, last);
    }
  }
}

int run(const std::vector<int>& threads, int samples, const std::string& only, const std::string& json,
        bool grows, bool on_cuda) {
  std::ofstream file;
  if (!json.empty()) {
    file.open(json);
    if (!file) throw std::runtime_error("cannot write " + json);
  }
  if (on_cuda) {
    const ag::Device device = ag::Device::cuda();
    bench::DeviceReport b(device, samples, only, json.empty() ? nullptr : &file);
    bench::device_steps(b, device);
    bench::device_products(b, device);
    bench::device_quantize(b, device);
    if (!b.has_shown()) throw std::runtime_error("nothing has \"" + only + "\" in its name");
    return 0;
  }
  for (const int n : threads) {
    ag::set_num_threads(n);
    Report b({n, samples, only, json.empty() ? nullptr : &file});
    if (grows) {
      growth(b);
    } else {
      steps(b);
      products(b);
      quantize(b);
      others(b);
    }
    if (!b.finish()) throw std::runtime_error("nothing has \"" + only + "\" in its name");
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("times altgrad on this machine");
  std::vector<int> threads = {ag::num_threads()};
  int samples = 11;
  std::string only, json, device = "cpu";
  bool grows = false;
  app.add_option("--threads", threads, "threads; several numbers are timed one after the other")
      ->check(CLI::Range(1, 1024));
  app.add_option("--samples", samples, "samples that a median is taken of")->check(CLI::Range(1, 1000));
  app.add_option("--only", only, "run what has this text in its name");
  app.add_option("--json", json, "write a JSON line for each result to this file");
  app.add_flag("--growth", grows,
               "how a step's time and memory grow with width, depth, T and batch, instead");
  app.add_option("--device", device, "cpu, or cuda: captured steps, products and rounding on a GPU, instead")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  CLI11_PARSE(app, argc, argv);
  try {
    return run(threads, samples, only, json, grows, device == "cuda");
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench: %s\n", e.what());
    return 1;
  }
}
