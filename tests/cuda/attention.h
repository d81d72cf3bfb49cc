// Calls of attention's kernels on the device with bfloat16s, for tests.
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
  dispatch_device(device(), [&]<class On>(const On& on) {
    if constexpr (std::is_same_v<On, Cuda>) {
      auto* const of_rows = reinterpret_cast<kernels::LogSumExp<float>*>(lse.ptr<float>());
      kernels::attention(on, y.ptr<bfloat16>(), of_rows, qkv.ptr<bfloat16>(), s.batch, s.length, s.heads,
                         s.size);
      kernels::attention_grad(on, dqkv.ptr<bfloat16>(), dy.ptr<bfloat16>(), qkv.ptr<bfloat16>(),
                              y.ptr<bfloat16>(), of_rows, s.batch, s.length, s.heads, s.size);
    }
  });
  return {y, lse, dqkv};
}

inline altgrad::Tensor randn_bf16(const altgrad::Shape& shape, uint64_t seed) {
  altgrad::Generator generator(seed);
  return on_device(altgrad::Tensor::randn(shape, {altgrad::DType::f32}, generator).to(altgrad::DType::bf16));
}
