// Initialisers, in place, on any floating tensor. Throw std::invalid_argument on other dtypes, on a weight
// that is not 2-D, on low > high and on a negative std.
#pragma once

#include <altgrad/core/tensor.h>

ALTGRAD_API_BEGIN
namespace altgrad::nn::init {

void uniform_(const Tensor& t, double low, double high, Generator& generator = default_generator());
void normal_(const Tensor& t, double mean, double std, Generator& generator = default_generator());
void constant_(const Tensor& t, double value);
/// weight (out, in). Glorot & Bengio, 2010: uniform in +-sqrt(6 / (in + out)).
void xavier_uniform_(const Tensor& t, Generator& generator = default_generator());
/// He et al., 2015: uniform in +-sqrt(6 / ((1 + a^2) in)), a the slope of a leaky ReLU.
void kaiming_uniform_(const Tensor& t, double a = 0, Generator& generator = default_generator());

/// As long as one lives, what draws numbers above leaves tensors as they are, on its thread: for a module whose parameters
/// are all overwritten next.
class Skip {
 public:
  Skip();
  ~Skip();
  Skip(const Skip&) = delete;
  Skip& operator=(const Skip&) = delete;

 private:
  bool before_;
};

}  // namespace altgrad::nn::init
ALTGRAD_API_END
