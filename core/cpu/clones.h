// Loops that are compiled for several instruction sets in one binary, of which the CPU's best runs.
#pragma once

#include <altgrad/core/cpu/isa.h>

namespace altgrad::cpu {

// Calls f. Where the library is compiled for any x86-64 (ALTGRAD_NATIVE=OFF), f and all that it calls and that can be inlined
// is compiled for AVX2 and for AVX-512 as well, in functions of f's own: no other code can be linked to what they hold.
#if defined(__x86_64__) && !defined(__AVX2__)
#if defined(__clang__)
#define AG_AVX512 "avx512f,avx512bw,avx512dq,avx512vl,fma"
#else
#define AG_AVX512 "avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512"
#endif
template <class F>
[[gnu::target("avx2,fma"), gnu::flatten]] void call_avx2(F& f) {
  f();
}
template <class F>
[[gnu::target(AG_AVX512), gnu::flatten]] void call_avx512(F& f) {
  f();
}
#undef AG_AVX512

template <class F>
void call_best(F&& f) {
  if (isa() >= Isa::avx512) {
    call_avx512(f);
  } else if (isa() >= Isa::avx2) {
    call_avx2(f);
  } else {
    f();
  }
}

// Does call_best run code in which std::fma is one instruction? (If not, it is a function, and slow.)
inline bool has_fma() { return isa() >= Isa::avx2; }
#else
template <class F>
void call_best(F&& f) {
  f();
}

constexpr bool has_fma() {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return true;
#else
  return false;
#endif
}
#endif

}  // namespace altgrad::cpu
