// What a checkpointed function needs to compute the same when backward runs it again: the state of the generators, and
// what replayed() (autograd/op_writer.h) gave in the first run.
#pragma once

#include <altgrad/core/tensor.h>

#include <cstddef>
#include <vector>

namespace altgrad::detail {

// Where the calling thread's generators stand when one is made, to be put back there.
struct RandomState {
  Generator::State main = default_generator().state(), rounding = rounding_generator().state();
  void restore() const {
    default_generator().set_state(main);
    rounding_generator().set_state(rounding);
  }
};

// The values of replayed(), in order: the first run of the function appends them, the second reads them.
class RecomputeLog {
 public:
  // While one is in scope, replayed() uses the log in this thread.
  class Scope {
   public:
    Scope(RecomputeLog& log, bool second_run);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    RecomputeLog* outer_;
  };

 private:
  friend bool recall(Tensor& value);
  friend void remember(const Tensor& value);
  void append(const Tensor& value) {
    values_.push_back(value);
    ++next_;
  }

  std::vector<Tensor> values_;
  size_t next_ = 0;
  bool second_run_ = false;
  RecomputeLog* outer_ = nullptr;
};

}  // namespace altgrad::detail
