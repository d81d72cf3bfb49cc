// The instances of elementwise kernels, which each device's file has at its end.
#pragma once

#include <altgrad/core/internal/functors.h>
#include <altgrad/core/internal/instantiate.h>

#define AG_UNARY(F) AG_INSTANTIATE_FLOATING(unary, F)
#define AG_UNARY_GRAD(F) AG_INSTANTIATE_FLOATING(unary_grad, F)
#define AG_BINARY(F) AG_INSTANTIATE_FOR(binary<F, float, float>) AG_INSTANTIATE_FOR(binary<F, double, double>)
#define AG_BINARY_GRAD(F) AG_INSTANTIATE_FLOATING(binary_grad, F)
#define AG_COMPARE(F) AG_INSTANTIATE_ALL(binary, F, uint8_t)

#define AG_INSTANTIATE_ELEMENTWISE                \
  AG_UNARY_FUNCTORS(AG_UNARY)                     \
  AG_NUMBER_FUNCTORS(AG_UNARY)                    \
  AG_VALUE_AND_DERIVATIVE_FUNCTORS(AG_UNARY)      \
  AG_UNARY_FUNCTORS(AG_UNARY_GRAD)                \
  AG_NUMBER_FUNCTORS(AG_UNARY_GRAD)               \
  AG_VALUE_AND_DERIVATIVE_FUNCTORS(AG_UNARY_GRAD) \
  AG_BINARY_FUNCTORS(AG_BINARY)                   \
  AG_BINARY_DERIVATIVE_FUNCTORS(AG_BINARY_GRAD)   \
  AG_COMPARE_FUNCTORS(AG_COMPARE)                 \
  AG_INSTANTIATE_FLOATING(where)                  \
  AG_INSTANTIATE_FLOATING(axpy)                   \
  AG_INSTANTIATE_ALL(fill)                        \
  AG_INSTANTIATE_ALL(copy_strided)                \
  AG_INSTANTIATE_ALL(cast, float)                 \
  AG_INSTANTIATE_ALL(cast, double)                \
  AG_INSTANTIATE_ALL(cast, int64_t)               \
  AG_INSTANTIATE_ALL(cast, uint8_t)               \
  AG_INSTANTIATE_ALL(cast, bfloat16)

// Those of bf16, in which a GPU stores and the CPU only moves, compares and converts.
#define AG_UNARY_BF16(F) AG_INSTANTIATE_FOR(unary<F, bfloat16>)
#define AG_UNARY_GRAD_BF16(F) AG_INSTANTIATE_FOR(unary_grad<F, bfloat16>)
#define AG_BINARY_BF16(F) AG_INSTANTIATE_FOR(binary<F, bfloat16, bfloat16>)
#define AG_BINARY_GRAD_BF16(F) AG_INSTANTIATE_FOR(binary_grad<F, bfloat16>)

#define AG_INSTANTIATE_ELEMENTWISE_BF16                \
  AG_UNARY_FUNCTORS(AG_UNARY_BF16)                     \
  AG_NUMBER_FUNCTORS(AG_UNARY_BF16)                    \
  AG_VALUE_AND_DERIVATIVE_FUNCTORS(AG_UNARY_BF16)      \
  AG_UNARY_FUNCTORS(AG_UNARY_GRAD_BF16)                \
  AG_NUMBER_FUNCTORS(AG_UNARY_GRAD_BF16)               \
  AG_VALUE_AND_DERIVATIVE_FUNCTORS(AG_UNARY_GRAD_BF16) \
  AG_BINARY_FUNCTORS(AG_BINARY_BF16)                   \
  AG_BINARY_DERIVATIVE_FUNCTORS(AG_BINARY_GRAD_BF16)   \
  AG_INSTANTIATE_FOR(where<bfloat16>)                  \
  AG_INSTANTIATE_FOR(axpy<bfloat16>)
