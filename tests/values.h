// What tests read of tensors, wherever these are: their elements, in their own dtype or as doubles, and whether two are the
// same to the bit.
#pragma once

#include <cstring>
#include <vector>

#include "device.h"

template <class T>
std::vector<T> values(const altgrad::Tensor& t) {
  const altgrad::Tensor h = host(t);
  return {h.data<T>().begin(), h.data<T>().end()};
}
inline std::vector<double> values(const altgrad::Tensor& t) {
  return values<double>(t.detach().to(altgrad::DType::f64));
}

inline bool same_bits(const altgrad::Tensor& a, const altgrad::Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         (a.nbytes() == 0 || std::memcmp(host(a).raw(), host(b).raw(), a.nbytes()) == 0);
}
