// A checkpointed function runs twice, and must compute the same both times: from the same state of the generators, and
// with replayed(f) for tensors that come from state which f changes, such as the scale that an amax history gives. It
// is f() in the first run, and in the second what it gave in the first, without calling it. Outside of checkpoints it
// is f().
#pragma once

#include <altgrad/core/random.h>
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

class Journal {
 public:
  // While one is in scope, replayed() goes through the journal in this thread.
  class Scope {
   public:
    Scope(Journal& journal, bool second_run);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Journal* outer_;
  };

  template <class F>
  Tensor get(F&& f) {
    if (second_run_ && next_ < values_.size()) return values_[next_++];
    const Tensor value = outer_ ? outer_->get(f) : f();
    values_.push_back(value);
    ++next_;
    return value;
  }
  static Journal* current();

 private:
  std::vector<Tensor> values_;
  size_t next_ = 0;
  bool second_run_ = false;
  Journal* outer_ = nullptr;
};

template <class F>
Tensor replayed(F&& f) {
  Journal* const journal = Journal::current();
  return journal ? journal->get(f) : f();
}

}  // namespace altgrad::detail
