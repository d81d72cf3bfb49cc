// Timing on machines that drift: what is timed stands between two looks at what the machine can do just then, and
// medians are shown, as shares of that.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <locale>
#include <string>
#include <vector>

namespace bench {

inline double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The most bytes of this process that have been in memory, 0 where the system does not say.
inline int64_t most_resident() {
  std::ifstream status("/proc/self/status");
  status.imbue(std::locale::classic());
  for (std::string word; status >> word;) {
    if (word != "VmHWM:") continue;
    int64_t kilobytes = 0;
    status >> kilobytes;
    return kilobytes * 1024;
  }
  return 0;
}

inline double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Floating-point operations a second that these threads reach without touching memory: f32 multiply-adds, and dot
// products of bf16 (0 where the CPU has none).
double fma_rate(int threads);
double bf16_rate(int threads);

struct Sample {
  double seconds;   // of one call, the median
  double per_peak;  // work a second / what the machine did in a second around it, the median
};

// f() is called until a sample takes min_seconds; reference() gives the machine's work a second.
template <class F, class R>
Sample measure(double work, R&& reference, F&& f, int samples, double min_seconds = 0.02) {
  f();
  double start = seconds();
  f();
  const double once = seconds() - start;
  const int calls = std::max(1, int(min_seconds / std::max(once, 1e-9)));
  std::vector<double> times, shares;
  double before = reference();
  for (int i = 0; i < samples; ++i) {
    start = seconds();
    for (int c = 0; c < calls; ++c) f();
    const double time = (seconds() - start) / calls, after = reference();
    times.push_back(time);
    shares.push_back(work / time / ((before + after) / 2));
    before = after;
  }
  return {median(times), median(shares)};
}

}  // namespace bench
