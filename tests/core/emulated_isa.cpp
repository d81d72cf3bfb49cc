// The CPU of emulated_tests, which has all that ALTGRAD_MAX_CPU_ISA allows.
#include <altgrad/core/cpu/isa.h>

#include <cstdlib>
#include <string_view>

altgrad::cpu::Isa altgrad::cpu::isa() {
  const char* const wanted = std::getenv("ALTGRAD_MAX_CPU_ISA");
  return std::string_view(wanted ? wanted : "") == "avx512_bf16" ? Isa::avx512_bf16 : Isa::amx;
}
