// What softmax, cross-entropy and attention keep of a row for their gradients.
#pragma once

namespace altgrad::kernels {

template <class T>
struct LogSumExp {
  T top, log_sum;  // max(x), log(sum(exp(x - top)))
};

}  // namespace altgrad::kernels
