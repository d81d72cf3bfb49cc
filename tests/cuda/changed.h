#pragma once

#include <utility>

// A setting of the simulator, put back at the end.
template <class T>
class Changed {
 public:
  Changed(T& setting, T value) : setting_(setting), before_(std::exchange(setting, value)) {}
  ~Changed() { setting_ = before_; }
  Changed(const Changed&) = delete;
  Changed& operator=(const Changed&) = delete;

 private:
  T& setting_;
  T before_;
};
