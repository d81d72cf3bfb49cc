// AG_HD marks functions compiled for both host and device: one body, two compilers.
#pragma once

#if defined(__CUDACC__)
#define AG_HD __host__ __device__
#else
#define AG_HD
#endif
