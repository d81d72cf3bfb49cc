// The choice is made once: by what the CPU reports, what the system allows (AMX has to be asked for), and what the
// environment wants.
#include <altgrad/core/cpu/isa.h>
#include <altgrad/core/error.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#if defined(ALTGRAD_X86_KERNELS)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace altgrad::cpu {
namespace {

#if defined(ALTGRAD_X86_KERNELS)
// AMX, and the system lets this process use its registers.
bool has_amx() {
  unsigned a, b, c, d;
  constexpr unsigned bf16_and_tiles = 1u << 22 | 1u << 24;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & bf16_and_tiles) != bf16_and_tiles) return false;
#if defined(__linux__)
  constexpr int request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}
#endif

Isa best() {
#if defined(ALTGRAD_X86_KERNELS)
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    if (has_amx()) return Isa::amx;
    return __builtin_cpu_supports("avx512bf16") ? Isa::avx512_bf16 : Isa::avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::avx2;
#endif
  return Isa::portable;
}

Isa allowed() {
  const char* const wanted = std::getenv("ALTGRAD_MAX_CPU_ISA");
  if (!wanted || !*wanted) return Isa::amx;
  const auto found = std::find(std::begin(isa_names), std::end(isa_names), std::string_view(wanted));
  if (found == std::end(isa_names)) {
    fail("ALTGRAD_MAX_CPU_ISA is \"", wanted, "\", must be portable, avx2, avx512, avx512_bf16 or amx");
  }
  return Isa(found - std::begin(isa_names));
}

}  // namespace

Isa isa() {
  static const Isa isa = std::min(allowed(), best());
  return isa;
}

}  // namespace altgrad::cpu
