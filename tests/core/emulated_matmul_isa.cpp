// The products' CPU in emulated_tests has all that ALTGRAD_MAX_CPU_ISA allows. All other code runs on the real one.
#include <altgrad/core/cpu/isa.h>

#include <cstdlib>
#include <string_view>

altgrad::cpu::Isa altgrad::cpu::matmul_isa() {
  const char* const wanted = std::getenv("ALTGRAD_MAX_CPU_ISA");
  return std::string_view(wanted ? wanted : "") == "avx512_bf16" ? Isa::avx512_bf16 : Isa::amx;
}
