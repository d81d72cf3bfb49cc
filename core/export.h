// Marks on what public headers declare.
//
// ALTGRAD_API_BEGIN and _END: what a shared altgrad lets out, which is compiled with hidden visibility, is what is declared
// between these two, so every public header has them around its namespace; the headers of internals (internal/)
// do not, and what they declare links statically only. Not marked one by one, as a mark forgotten on a function or on
// a class that is cast to and derived from would show in a user's shared build alone.
//
// AG_HD: functions that are compiled for both host and device, one body for two compilers.
#pragma once

#define ALTGRAD_API_BEGIN _Pragma("GCC visibility push(default)")
#define ALTGRAD_API_END _Pragma("GCC visibility pop")

#if defined(__CUDACC__)
#define AG_HD __host__ __device__
#else
#define AG_HD
#endif
