// What a program is told of the altgrad that it is linked to.
#include <altgrad/core/cpu/isa.h>
#include <altgrad/core/error.h>
#include <altgrad/core/version.h>

#include "catch.h"
#include "thread_count.h"

using namespace altgrad;

TEST_CASE("the version is one, in the headers, in the library and for CMake", "[core]") {
  const std::string version =
      concat(ALTGRAD_VERSION_MAJOR, ".", ALTGRAD_VERSION_MINOR, ".", ALTGRAD_VERSION_PATCH);
  CHECK(version == ALTGRAD_VERSION);
  CHECK(build_info().version == version);
  CHECK(version == ALTGRAD_CMAKE_VERSION);
}

TEST_CASE("build_info says how altgrad was built and what it runs on", "[core]") {
  const ThreadCount three(3);
  const BuildInfo info = build_info();
  CHECK(info.isa == cpu::isa_names[size_t(cpu::isa())]);
  CHECK(info.threads == 3);
#if defined(ALTGRAD_CUDA)
  CHECK(info.cuda);
#else
  CHECK_FALSE(info.cuda);
#endif
  CHECK(info.native == bool(ALTGRAD_NATIVE_BUILD));
#if defined(__clang__)
  const std::string compiler = concat("clang ", __clang_major__, ".");
#else
  const std::string compiler = concat("GCC ", __GNUC__, ".");
#endif
  CHECK(info.compiler.starts_with(compiler));
  const BuildInfo made_up{"1.2.3", "GCC 12.2.0", true, false, "avx2", 1};
  CHECK(concat(made_up) == "altgrad 1.2.3 (GCC 12.2.0, native, no CUDA), kernels for avx2, 1 thread");
}
