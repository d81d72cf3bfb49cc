// ALTGRAD_FAST_MATH: 1 where this file is compiled with -ffast-math (-Ofast), or with one of its parts that the
// compiler tells of. Comparisons with NaN, signs of zeros and orders of sums are then not what is written. Headers that
// users include are right all the same, or refuse.
#pragma once

#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || \
    defined(__NO_SIGNED_ZEROS__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0)
#define ALTGRAD_FAST_MATH 1
#else
#define ALTGRAD_FAST_MATH 0
#endif
