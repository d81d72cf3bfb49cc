#pragma once

namespace altgrad::kernels {

// The FP8 formats that tensor cores multiply.
enum class Fp8 { e4m3, e5m2 };

}  // namespace altgrad::kernels
