// Calls of attention's kernels on the device with bfloat16s or floats, for tests.
#pragma once

#include <altgrad/altgrad.h>

#include <altgrad/core/dispatch.h>
#include <altgrad/core/internal/kernels/attention.h>

#include "catch.h"
#include "values.h"

struct AttentionSizes {
  int64_t batch, length, heads, size;
  int64_t channels() const { return heads * size; }
};

struct AttentionResults {
  altgrad::Tensor y, lse, dqkv;
};
inline AttentionResults run_attention(const altgrad::Tensor& qkv, const altgrad::Tensor& dy,
                                      const AttentionSizes& s) {
  using namespace altgrad;
  const Tensor y = here::empty(dy.shape(), {qkv.dtype()}), lse = here::empty({s.batch, s.heads, s.length, 2}),
               dqkv = here::empty(qkv.shape(), {qkv.dtype()});
  dispatch_activation("attention", qkv, [&]<class T, class On>(const On& on) {
    if constexpr (std::is_same_v<On, Cuda> && !std::is_same_v<T, double>) {
      auto* const of_rows = reinterpret_cast<kernels::LogSumExp<float>*>(lse.ptr<float>());
      kernels::attention(on, y.ptr<T>(), of_rows, qkv.ptr<T>(), s.batch, s.length, s.heads, s.size);
      kernels::attention_grad(on, dqkv.ptr<T>(), dy.ptr<T>(), qkv.ptr<T>(), y.ptr<T>(), of_rows, s.batch,
                              s.length, s.heads, s.size);
    }
  });
  return {y, lse, dqkv};
}

inline altgrad::Tensor randn_as(altgrad::DType dtype, const altgrad::Shape& shape, uint64_t seed) {
  altgrad::Generator generator(seed);
  return on_device(altgrad::Tensor::randn(shape, {altgrad::DType::f32}, generator).to(dtype));
}
