// What makes a row's softmax again, exp((x - top) - log_sum): kept apart, as the sum of both loses log_sum's digits where
// top is large.
#pragma once

namespace altgrad::kernels {

template <class T>
struct LogSumExp {
  T top, log_sum;  // max(x), log(sum(exp(x - top)))
};

}  // namespace altgrad::kernels
