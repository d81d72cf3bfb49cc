// What a GPU's time goes to: captured steps of three GPTs in bf16, their products, and rounding to E4M3. The host starts many of
// each and waits once.
#pragma once

#include <altgrad/core/dispatch.h>
#include <altgrad/core/internal/kernels/gemm.h>
#include <altgrad/fp8/internal/kernels.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "measure.h"
#include "training.h"

namespace bench {

class DeviceReport {
 public:
  DeviceReport(altgrad::Device device, int samples, std::string only, std::ofstream* json)
      : device_(device), samples_(samples), only_(std::move(only)), json_(json) {
    std::printf("%s: %s\n%-44s %12s\n", altgrad::concat(altgrad::build_info()).c_str(),
                altgrad::concat(device).c_str(), "", "median");
  }

  // make() gives the function to time, which does `work` units, 10^9 or 10^12 of which are `unit`.
  template <class F>
  void time(const std::string& name, double work, const char* unit, F&& make) {
    if (name.find(only_) == name.npos) return;
    altgrad::empty_cache(device_);
    altgrad::reset_peak_memory(device_);
    const auto f = make();
    for (int i = 0; i < 3; ++i) f();  // two eager steps, and the capture
    const double once = seconds_of(f, 1);
    const int calls = std::clamp(int(0.1 / once), 1, 1000);
    std::vector<double> times;
    for (int i = 0; i < samples_; ++i) times.push_back(seconds_of(f, calls));
    const double time = median(times);
    const double rate = work / time / (unit[0] == 'T' ? 1e12 : 1e9);
    const int64_t bytes = altgrad::memory_stats(device_).peak;
    std::printf("%-44s %9.3f ms %10.1f %s %10.1f MB\n", name.c_str(), time * 1e3, rate, unit,
                double(bytes) / 1e6);
    std::fflush(stdout);
    shown_ = true;
    if (!json_) return;
    const nlohmann::ordered_json line{{"name", name},
                                      {"device", altgrad::concat(device_)},
                                      {"seconds", time},
                                      {unit, rate},
                                      {"tensor_bytes", bytes}};
    *json_ << line.dump() << std::endl;
  }
  bool has_shown() const { return shown_; }

 private:
  template <class F>
  double seconds_of(const F& f, int calls) const {
    altgrad::synchronize(device_);
    const double start = seconds();
    for (int i = 0; i < calls; ++i) f();
    altgrad::synchronize(device_);
    return (seconds() - start) / calls;
  }

  altgrad::Device device_;
  int samples_;
  std::string only_;
  std::ofstream* json_;
  bool shown_ = false;
};

inline void device_steps(DeviceReport& b, altgrad::Device device) {
  for (const Size& s : device_sizes) {
    for (const char* mode : device_modes) {
      b.time(altgrad::concat("step ", s.name, " ", mode), s.operations(), "TFLOP/s", [&] {
        const auto training = std::make_shared<Training>(s, mode, device);
        for (int i = 0; i < 16; ++i)
          training->step();  // then histories of amaxes are full, as they mostly are
        return [=] { training->step(); };
      });
    }
  }
}

inline void device_products(DeviceReport& b, altgrad::Device device) {
  namespace k = altgrad::kernels;
  using altgrad::Tensor;
  for (const Size& s : device_sizes) {
    const int64_t C = s.channels, rows = s.tokens();
    for (const auto& [out, in] : {std::pair{3 * C, C}, {C, C}, {4 * C, C}, {C, 4 * C}, {s.vocabulary, C}}) {
      const k::Gemm forward{.m = rows, .n = out, .k = in, .trans_b = true}, dx{.m = rows, .n = in, .k = out},
          dw{.m = out, .n = in, .k = rows, .trans_a = true};
      for (const auto& [what, gemm] : {std::pair{"y", forward}, std::pair{"dx", dx}, std::pair{"dw", dw}}) {
        const k::Gemm g = gemm;
        const std::string shape = altgrad::concat(what, " ", g.m, " x ", g.n, " x ", g.k);
        const double operations = 2.0 * double(g.m) * double(g.n) * double(g.k);
        const auto product = [=]<class T>(T) {
          const altgrad::DType dtype = altgrad::dtype_of<T>;
          const Tensor a = Tensor::randn({g.m, g.k}, {.device = device}).to(dtype),
                       w = Tensor::randn({g.k, g.n}, {.device = device}).to(dtype),
                       c = Tensor::empty({g.m, g.n}, {.device = device});
          return [=] {
            altgrad::dispatch_device(device, [&](const auto& on) {
              if constexpr (std::is_same_v<T, float>) {
                k::gemm(on, c.ptr<float>(), a.ptr<T>(), w.ptr<T>(), g);
              } else {
                k::gemm(on, c.ptr<float>(), a.ptr<T>(), w.ptr<T>(), nullptr, g);
              }
            });
          };
        };
        b.time("gemm f32 " + shape, operations, "TFLOP/s", [=] { return product(float()); });
        if (out != s.vocabulary)
          b.time("gemm codes " + shape, operations, "TFLOP/s", [=] { return product(altgrad::bfloat16()); });
      }
    }
  }
}

// amax and round to E4M3 with the scale that is expected, to floats and to what products on codes read; and a copy beside it.
inline void device_quantize(DeviceReport& b, altgrad::Device device) {
  namespace fp8 = altgrad::fp8;
  using altgrad::Tensor;
  for (const int64_t rows : {1024, 32768}) {
    const int64_t n = rows * 1024;
    b.time(altgrad::concat("copy, ", rows, " x 1024"), 8.0 * double(n), "GB/s", [=] {
      const Tensor x = Tensor::randn({n}, {.device = device}), y = Tensor::empty({n}, {.device = device});
      return [=] { y.copy_(x); };
    });
    const auto round = [=]<class From, class To>(From, To) {
      const Tensor x = Tensor::randn({n}, {.device = device}).to(altgrad::dtype_of<From>),
                   y = Tensor::empty({n}, {altgrad::dtype_of<To>, device}),
                   scale = Tensor::empty({}, {.device = device});
      const fp8::AmaxHistory history(16, device);
      return [=] {
        altgrad::dispatch_device(device, [&]<class On>(const On& on) {
          if constexpr (std::is_same_v<On, altgrad::Cuda>) {
            altgrad::kernels::quantize(on, y.ptr<To>(), x.ptr<From>(), scale.ptr<float>(), history.memory(),
                                       {fp8::Scaling::delayed, float(fp8::E4M3.max()), true},
                                       {fp8::Rounder<float>(fp8::E4M3), {}}, n);
          }
        });
      };
    };
    b.time(altgrad::concat("round with amax, ", rows, " x 1024"), 8.0 * double(n), "GB/s",
           [=] { return round(float(), float()); });
    b.time(altgrad::concat("round with amax to codes, ", rows, " x 1024"), 6.0 * double(n), "GB/s",
           [=] { return round(float(), altgrad::bfloat16()); });
    b.time(altgrad::concat("round bf16 with amax to codes, ", rows, " x 1024"), 4.0 * double(n), "GB/s",
           [=] { return round(altgrad::bfloat16(), altgrad::bfloat16()); });
  }
}

}  // namespace bench
