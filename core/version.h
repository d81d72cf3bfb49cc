// The version, as macros and as what a program is linked to and runs on. CMake reads its project's version here.
#pragma once

#include <altgrad/core/export.h>

#include <iosfwd>
#include <string>

#define ALTGRAD_VERSION_MAJOR 0
#define ALTGRAD_VERSION_MINOR 1
#define ALTGRAD_VERSION_PATCH 0
#define ALTGRAD_VERSION "0.1.0"

ALTGRAD_API_BEGIN
namespace altgrad {

/// How the altgrad that a program is linked to was built, and what it runs on.
struct BuildInfo {
  std::string version;   ///< its ALTGRAD_VERSION, which may be another than the headers'
  std::string compiler;  ///< "GCC 12.2.0"
  bool native;           ///< was it compiled for the building machine's CPU (ALTGRAD_NATIVE)?
  bool cuda;             ///< has it CUDA kernels?
  std::string isa;       ///< that products use, at most ALTGRAD_MAX_CPU_ISA; all else, too, where not native
  int threads;           ///< num_threads() now
};
/// Throws std::invalid_argument where ALTGRAD_MAX_CPU_ISA names no instruction set, as every product of matrices does.
BuildInfo build_info();
/// "altgrad 0.1.0 (GCC 12.2.0, native, no CUDA), kernels for avx512_bf16, 2 threads"
std::ostream& operator<<(std::ostream& out, const BuildInfo& info);

}  // namespace altgrad
ALTGRAD_API_END
