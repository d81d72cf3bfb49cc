// Explicit instantiations of kernels, whose bodies are in files of their own.
#pragma once

#include <altgrad/core/bfloat16.h>

#include <cstdint>

// Instantiates a template of functions, by its name and leading arguments, for the floating dtypes, and for all dtypes.
#define AG_INSTANTIATE_FOR(...) template decltype(__VA_ARGS__) __VA_ARGS__;
#define AG_INSTANTIATE_FLOATING(name, ...)                   \
  AG_INSTANTIATE_FOR(name<__VA_ARGS__ __VA_OPT__(, ) float>) \
  AG_INSTANTIATE_FOR(name<__VA_ARGS__ __VA_OPT__(, ) double>)
// ... and for bf16 as what is stored: kernels that compute in Compute<T>.
#define AG_INSTANTIATE_STORED(name, ...)                   \
  AG_INSTANTIATE_FLOATING(name __VA_OPT__(, ) __VA_ARGS__) \
  AG_INSTANTIATE_FOR(name<__VA_ARGS__ __VA_OPT__(, ) bfloat16>)
#define AG_INSTANTIATE_ALL(name, ...)                          \
  AG_INSTANTIATE_FLOATING(name __VA_OPT__(, ) __VA_ARGS__)     \
  AG_INSTANTIATE_FOR(name<__VA_ARGS__ __VA_OPT__(, ) int64_t>) \
  AG_INSTANTIATE_FOR(name<__VA_ARGS__ __VA_OPT__(, ) uint8_t>) \
  AG_INSTANTIATE_FOR(name<__VA_ARGS__ __VA_OPT__(, ) bfloat16>)
