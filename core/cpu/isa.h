// Which instructions the kernels that are chosen at run time may use.
#pragma once

namespace altgrad::cpu {

// Instruction sets that have kernels of their own; each has those before it.
enum class Isa { portable, avx2, avx512, avx512_bf16, amx };
inline constexpr const char* isa_names[] = {"portable", "avx2", "avx512", "avx512_bf16", "amx"};

// The best that this CPU and system have; none beyond the one that the environment variable ALTGRAD_MAX_CPU_ISA names
// (as above), which is read once. Throws std::invalid_argument where it names none of them.
Isa isa();

// That of the kernels of products: isa(), but for a test that emulates the instructions of these kernels and of no other code.
Isa matmul_isa();

}  // namespace altgrad::cpu
