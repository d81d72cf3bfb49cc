// The number of threads while one is in scope.
#pragma once

#include <altgrad/core/parallel.h>

class ThreadCount {
 public:
  explicit ThreadCount(int threads) { altgrad::set_num_threads(threads); }
  ~ThreadCount() { altgrad::set_num_threads(before_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  const int before_ = altgrad::num_threads();
};
