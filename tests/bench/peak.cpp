// Compiled for this machine's CPU whatever the library is compiled for: a peak is the machine's.
#include <omp.h>

#include <cmath>

#include "measure.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace bench {
namespace {

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif
typedef float Vector __attribute__((vector_size(lanes * sizeof(float))));

// Twelve independent chains, enough to fill two pipes; the empty asm keeps each step.
#define CHAINS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
constexpr int chains = 12, rounds = 200000;

double fma_burst() {
  const Vector x = Vector{} + 1.0000001f, y = Vector{} + 0.9999999f;
#define DECLARE(i) Vector a##i = {};
#define STEP(i)        \
  a##i = x * y + a##i; \
  asm volatile("" : "+x"(a##i));
  CHAINS(DECLARE)
  for (int i = 0; i < rounds; ++i) {
    CHAINS(STEP)
  }
  return 2.0 * lanes * chains * rounds;
}

double bf16_burst() {
#if defined(__AVX512BF16__)
  const __m512bh x = (__m512bh)_mm512_set1_epi32(0x3f803f80), y = x;
#define DECLARE_DOT(i) __m512 d##i = _mm512_setzero_ps();
#define STEP_DOT(i)                    \
  d##i = _mm512_dpbf16_ps(d##i, x, y); \
  asm volatile("" : "+v"(d##i));
  CHAINS(DECLARE_DOT)
  for (int i = 0; i < rounds; ++i) {
    CHAINS(STEP_DOT)
  }
  return 2.0 * 32 * chains * rounds;
#else
  return 0;
#endif
}

// From where all threads have woken, which takes time of its own, until the last one is done.
template <class F>
double rate(int threads, F burst) {
  double work = 0, start = INFINITY, end = 0;
#pragma omp parallel num_threads(threads) reduction(+ : work) reduction(min : start) reduction(max : end)
  {
#pragma omp barrier
    start = seconds();
    work = burst();
    end = seconds();
  }
  return work / (end - start);
}

}  // namespace

double fma_rate(int threads) { return rate(threads, fma_burst); }
double bf16_rate(int threads) { return rate(threads, bf16_burst); }

}  // namespace bench
