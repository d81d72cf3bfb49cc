// The devices that kernels run on, as values. A kernel is a function overloaded on them, declared in internal/kernels/
// and in fp8/internal/kernels.h: first the device, then outputs, inputs, sizes. It writes its results to memory of the
// device and returns nothing, so that no caller waits for it. Kernels trust their arguments: the public functions check
// them. All tensors are contiguous and row-major; no kernel allocates tensors. Reductions have a fixed order that does
// not depend on the number of threads.
#pragma once

#include <cstdint>

namespace altgrad {

struct Cpu {};

}  // namespace altgrad
