// The log of a thread's checkpointed functions, the innermost first: where checkpoints are nested, all have the values.
#include <altgrad/autograd/internal/recompute_log.h>

#include <altgrad/autograd/op_writer.h>

namespace altgrad::detail {
namespace {
thread_local RecomputeLog* current = nullptr;
}

RecomputeLog::Scope::Scope(RecomputeLog& log, bool second_run) : outer_(current) {
  log.next_ = 0;
  log.second_run_ = second_run;
  log.outer_ = second_run ? nullptr : outer_;  // the second run has all it needs
  current = &log;
}
RecomputeLog::Scope::~Scope() { current = outer_; }

bool recall(Tensor& value) {
  for (RecomputeLog* log = current; log; log = log->outer_) {
    if (!log->second_run_ || log->next_ >= log->values_.size()) continue;
    value = log->values_[log->next_++];
    for (RecomputeLog* inner = current; inner != log; inner = inner->outer_) inner->append(value);
    return true;
  }
  return false;
}

void remember(const Tensor& value) {
  for (RecomputeLog* log = current; log; log = log->outer_) log->append(value);
}

}  // namespace altgrad::detail
