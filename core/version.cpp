// What the compiler and the CPU say of this build; CMake adds ALTGRAD_NATIVE_BUILD.
#include <altgrad/core/version.h>

#include <altgrad/core/cpu/isa.h>
#include <altgrad/core/error.h>
#include <altgrad/core/parallel.h>

#include <ostream>

namespace altgrad {
namespace {

std::string compiler() {
#if defined(__clang__)
  return concat("clang ", __clang_major__, ".", __clang_minor__, ".", __clang_patchlevel__);
#else
  return concat("GCC ", __GNUC__, ".", __GNUC_MINOR__, ".", __GNUC_PATCHLEVEL__);
#endif
}

#if defined(ALTGRAD_CUDA)
constexpr bool has_cuda = true;
#else
constexpr bool has_cuda = false;
#endif

}  // namespace

BuildInfo build_info() {
  return {.version = ALTGRAD_VERSION,
          .compiler = compiler(),
          .native = ALTGRAD_NATIVE_BUILD,
          .cuda = has_cuda,
          .isa = cpu::isa_names[size_t(cpu::isa())],
          .threads = num_threads()};
}

std::ostream& operator<<(std::ostream& out, const BuildInfo& info) {
  return out << "altgrad " << info.version << " (" << info.compiler << (info.native ? ", native" : "")
             << (info.cuda ? ", CUDA" : ", no CUDA") << "), kernels for " << info.isa << ", " << info.threads
             << (info.threads == 1 ? " thread" : " threads");
}

}  // namespace altgrad
