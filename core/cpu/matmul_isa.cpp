// On its own in this file, so that a test can link another one.
#include <altgrad/core/cpu/isa.h>

namespace altgrad::cpu {

Isa matmul_isa() { return isa(); }

}  // namespace altgrad::cpu
