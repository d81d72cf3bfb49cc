// Kernels compute in the default floating-point environment, whatever the caller's is: rounding to nearest, subnormals
// kept, no traps. A program that sets a rounding mode (interval arithmetic) or flushes subnormals (crtfastmath.o, which
// GCC before 13 links for -ffast-math) gets the same bits, on any number of threads.
#pragma once

#include <altgrad/core/export.h>

#if defined(__SSE2__)
#include <xmmintrin.h>
#else
#include <cfenv>
#endif

ALTGRAD_API_BEGIN
namespace altgrad {

/// The default environment of the calling thread for a scope; then what was there before.
class DefaultFloatEnvironment {
 public:
  DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
  DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;
#if defined(__SSE2__)
  DefaultFloatEnvironment() {
    if (changed()) _mm_setcsr(standard);
  }
  ~DefaultFloatEnvironment() {
    if (changed()) _mm_setcsr(saved_);
  }

 private:
  static constexpr unsigned standard = 0x1f80,
                            flags = 0x3f;  ///< all exceptions masked; those that have occurred
  bool changed() const { return (saved_ & ~flags) != standard; }
  const unsigned saved_ = _mm_getcsr();
#else
  DefaultFloatEnvironment() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloatEnvironment() { std::fesetenv(&saved_); }

 private:
  std::fenv_t saved_;
#endif
};

}  // namespace altgrad
ALTGRAD_API_END
