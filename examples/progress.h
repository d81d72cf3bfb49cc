// Shows a training run as it goes: one line rewritten in place on a terminal, a line every few seconds
// elsewhere.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

// 75 -> "1m15s"
inline std::string duration_text(double seconds) {
  const auto s = int64_t(std::max(0.0, seconds) + 0.5);
  char text[64];
  if (s >= 3600) {
    std::snprintf(text, sizeof text, "%ldh%02ldm", long(s / 3600), long(s / 60 % 60));
  } else if (s >= 60) {
    std::snprintf(text, sizeof text, "%ldm%02lds", long(s / 60), long(s % 60));
  } else {
    std::snprintf(text, sizeof text, "%lds", long(s));
  }
  return text;
}

class Progress {
 public:
  Progress(int64_t step, int64_t steps) : first_(step), steps_(steps) {}
  ~Progress() { clear(); }

  // After each step; draws at most every 0.1 s on a terminal, every 5 s elsewhere.
  void update(int64_t step, double loss, double tokens_per_s) {
    const Clock::time_point now = Clock::now();
    // The rates of single steps jitter; shown are means that forget over some twenty steps.
    const double keep = step == first_ + 1 ? 0 : 0.95;
    loss_ = keep * loss_ + (1 - keep) * loss;
    rate_ = keep * rate_ + (1 - keep) * tokens_per_s;
    const double elapsed = std::chrono::duration<double>(now - start_).count();
    if (std::chrono::duration<double>(now - drawn_).count() < (terminal_ ? 0.1 : 5.0)) return;
    drawn_ = now;
    const double left = elapsed / double(step - first_) * double(steps_ - step);
    char line[160];
    std::snprintf(line, sizeof line, "step %ld/%ld  loss %.4f  %.0f tokens/s  %s left", long(step),
                  long(steps_), loss_, rate_, duration_text(left).c_str());
    if (terminal_) {
      std::printf("\r%s\033[K", line);
      shown_ = true;
    } else {
      std::printf("%s\n", line);
    }
    std::fflush(stdout);
  }

  // A line of its own, which stays.
  void note(const std::string& text) {
    clear();
    std::printf("%s\n", text.c_str());
    std::fflush(stdout);
  }

 private:
  using Clock = std::chrono::steady_clock;
  void clear() {
    if (shown_) std::printf("\r\033[K");
    shown_ = false;
  }

  const bool terminal_ = isatty(STDOUT_FILENO);
  const int64_t first_, steps_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point drawn_ = start_;
  double loss_ = 0, rate_ = 0;
  bool shown_ = false;
};
