// For files that compute what -ffast-math would change: they refuse to be compiled with it.
#pragma once

#include <altgrad/core/fast_math.h>

#if ALTGRAD_FAST_MATH
#error \
    "altgrad: this file rounds, tells NaN from numbers and sums in a fixed order: compile it without -ffast-math (-Ofast)"
#endif
