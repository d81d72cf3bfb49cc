// What the op tests compare with: elements read one by one, through index arithmetic that shares nothing with
// the library's.
#pragma once

#include <altgrad/autograd/ops.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <numeric>

#include "catch.h"
#include "values.h"

namespace reference {

using altgrad::DType;
using altgrad::Generator;
using altgrad::Shape;
using altgrad::Tensor;
using Index = std::vector<int64_t>;

inline Tensor randn(const Shape& shape, uint64_t seed = 1, DType dtype = DType::f64) {
  Generator generator(seed);
  return here::randn(shape, {dtype}, generator);
}

// Distinct multiples of 0.1, offset to keep 0 and +-1 away, and shuffled: no kink or tie within 0.02.
inline Tensor spread(const Shape& shape, uint64_t seed = 1) {
  Tensor t = Tensor::empty(shape, {DType::f64});
  const auto x = t.data<double>();
  std::iota(x.begin(), x.end(), -double(x.size() / 2));
  for (double& v : x) v = 0.1 * v + 0.03;
  Generator generator(seed);
  const altgrad::RandomStream random = generator.next();
  for (size_t i = x.size(); i > 1; --i) std::swap(x[i - 1], x[random.word(i) % i]);
  return on_device(t);
}

// Calls f(index) for every index of the shape, the last axis fastest.
template <class F>
void for_each_index(const Shape& shape, F&& f) {
  for (int64_t i = 0; i < shape.numel(); ++i) {
    Index index(size_t(shape.dim()));
    int64_t rest = i;
    for (size_t axis = index.size(); axis-- > 0; rest /= shape[int(axis)])
      index[axis] = rest % shape[int(axis)];
    f(index);
  }
}

// t on the host. Of one that lies elsewhere the copy is kept, as loops ask for element after element: it may not change.
inline Tensor kept_on_host(const Tensor& t) {
  if (t.device().is_cpu()) return t;
  static std::deque<std::pair<Tensor, Tensor>> copies;  // with the tensors, whose addresses so stay theirs
  for (const auto& [from, copy] : copies) {
    if (from.id() == t.id()) return copy;
  }
  if (copies.size() == 8) copies.pop_front();
  return copies.emplace_back(t, host(t)).second;
}

// The element of t at the index, which may have more axes in front, and counts as 0 along axes of size 1.
inline double at(const Tensor& x, const Index& index) {
  const Tensor t = kept_on_host(x);
  const size_t lead = index.size() - size_t(t.dim());
  int64_t offset = 0;
  for (int axis = 0; axis < t.dim(); ++axis) {
    offset = offset * t.shape()[axis] + (t.shape()[axis] == 1 ? 0 : index[lead + size_t(axis)]);
  }
  switch (t.dtype()) {
    case DType::f32: return t.data<float>()[size_t(offset)];
    case DType::f64: return t.data<double>()[size_t(offset)];
    case DType::i64: return double(t.data<int64_t>()[size_t(offset)]);
    case DType::u8: return t.data<uint8_t>()[size_t(offset)];
    case DType::bf16: return t.data<altgrad::bfloat16>()[size_t(offset)];
  }
  return NAN;
}

// A tensor of f(index), on the host.
template <class F>
Tensor make(const Shape& shape, F&& f) {
  std::vector<double> all;
  for_each_index(shape, [&](const Index& index) { all.push_back(f(index)); });
  return Tensor::from(all, shape);
}

// max |a - b| / max(1, max |b|); infinite where shapes differ or NaN is in one and not in the other.
inline double distance(const Tensor& a, const Tensor& b) {
  if (!(a.shape() == b.shape())) return INFINITY;
  const std::vector<double> x = values(a), y = values(b);
  double scale = 1, worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(x[i]) != std::isnan(y[i])) return INFINITY;
    if (std::isnan(x[i]) || x[i] == y[i]) continue;
    worst = std::max(worst, std::abs(x[i] - y[i]));
    scale = std::max(scale, std::abs(y[i]));
  }
  return worst / scale;
}

}  // namespace reference
