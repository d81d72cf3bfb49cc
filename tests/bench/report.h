// Measures what it is given, where that is wanted, and shows it as a line on the screen and, where asked for, of JSON.
#pragma once

#include <altgrad/altgrad.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "measure.h"

namespace bench {

struct Settings {
  int threads, samples;
  std::string only;     // what names must have in them
  std::ofstream* json;  // null: none
};

class Report {
 public:
  explicit Report(const Settings& settings) : set_(settings) {
    for (const double start = seconds(); seconds() - start < 0.1;)
      fma_rate(set_.threads);  // new threads spread out
    std::printf("%s: FMA peak %.0f GFLOP/s, bf16 dot products %.0f GFLOP/s\n",
                altgrad::concat(altgrad::build_info()).c_str(), fma_rate(set_.threads) / 1e9,
                bf16_rate(set_.threads) / 1e9);
    std::printf("%-36s %12s %10s\n", "", "median", "share of");
  }

  // In all three, make() gives the function to time, and is called where that is wanted.
  //
  // The function does so many floating-point operations. Results of one group, where it is named, have a geometric mean.
  template <class F>
  void arithmetic(const std::string& name, double operations, F&& make, const std::string& group = "") {
    if (!wanted(name)) return;
    const auto f = make();
    std::vector<double> fma, bf16;
    const auto peak = [&] {
      bf16.push_back(bf16_rate(set_.threads));
      fma.push_back(fma_rate(set_.threads));
      return fma.back();
    };
    const Sample s = measure(operations, peak, f, set_.samples);
    nlohmann::ordered_json more{{"share", s.per_peak}, {"of", "FMA peak"}, {"fma_gflops", median(fma) / 1e9}};
    std::string text = share(s.per_peak, "FMA peak");
    if (median(bf16) > 0) {
      more.update({{"bf16_gflops", median(bf16) / 1e9}});
      if (s.per_peak > 1) text += share(operations / s.seconds / median(bf16), "bf16 dot products");
    }
    show(name, s.seconds, text, std::move(more));
    if (!group.empty()) {
      groups_[group].first += std::log(s.per_peak);
      ++groups_[group].second;
    }
  }
  // The function reads or writes about so many bytes: compared with a memcpy that does.
  template <class F>
  void memory(const std::string& name, int64_t bytes, F&& make) {
    if (!wanted(name)) return;
    const auto f = make();
    const altgrad::Tensor from = altgrad::Tensor::zeros({bytes / 8}),
                          to = altgrad::Tensor::zeros({bytes / 8});
    const int threads = set_.threads;
    const auto copy = [&] {
      constexpr int times = 20;
      const double start = seconds();
      for (int i = 0; i < times; ++i) {
#pragma omp parallel for num_threads(threads)
        for (int t = 0; t < threads; ++t) {
          const size_t begin = from.nbytes() * size_t(t) / size_t(threads),
                       end = from.nbytes() * size_t(t + 1) / size_t(threads);
          std::memcpy(static_cast<char*>(to.raw()) + begin, static_cast<char*>(from.raw()) + begin,
                      end - begin);
        }
      }
      return times * 2.0 * double(from.nbytes()) / (seconds() - start);
    };
    const Sample s = measure(double(bytes), copy, f, set_.samples);
    show(name, s.seconds, share(s.per_peak, "memcpy"), {{"share", s.per_peak}, {"of", "memcpy"}});
  }
  // The function alone, which does something so many times: seconds for each.
  template <class F>
  void time(const std::string& name, int times, F&& make) {
    if (wanted(name)) show(name, seconds_of(make()) / times, "", {});
  }
  template <class F>
  double seconds_of(F&& f) const {
    return measure(
               0, [] { return 1.0; }, f, set_.samples)
        .seconds;
  }

  // The geometric means of the groups. Has there been anything to show?
  bool finish() {
    for (const auto& [group, sum] : groups_) {
      const double mean = std::exp(sum.first / sum.second);
      shown_ = true;
      std::printf("%-36s %22.2f FMA peak, geometric mean of %d\n", group.c_str(), mean, sum.second);
      write({{"name", group}, {"threads", set_.threads}, {"share", mean}, {"of", "FMA peak"}});
    }
    return shown_;
  }

  bool wanted(const std::string& name) const { return name.find(set_.only) != name.npos; }

  void show(const std::string& name, double time, const std::string& text, nlohmann::ordered_json more) {
    shown_ = true;
    const bool micro = time < 1e-3;
    std::printf("%-36s %9.3f %s%s\n", name.c_str(), time * (micro ? 1e6 : 1e3), micro ? "us" : "ms",
                text.c_str());
    std::fflush(stdout);
    nlohmann::ordered_json line{{"name", name}, {"threads", set_.threads}, {"seconds", time}};
    if (!more.is_null()) line.update(more);
    line["tensor_bytes"] = altgrad::memory_stats().peak;
    line["resident_bytes"] = most_resident();
    write(line);
  }

 private:
  static std::string share(double of, const char* what) {
    char text[64];
    std::snprintf(text, sizeof text, " %9.2f %s", of, what);
    return text;
  }
  void write(const nlohmann::ordered_json& line) {
    if (set_.json) *set_.json << line.dump() << std::endl;
  }

  Settings set_;
  std::map<std::string, std::pair<double, int>> groups_;  // sum of logarithms, number
  bool shown_ = false;
};

}  // namespace bench
