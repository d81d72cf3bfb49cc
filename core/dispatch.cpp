// What is wrong with a tensor that no kernel takes.
#include <altgrad/core/dispatch.h>

namespace altgrad {

void check_defined(const char* op, const Tensor& x) {
  if (!x.defined()) fail(op, ": an input is an empty tensor, default-constructed or moved from");
}

void check_floating(const char* op, DType dtype, const Shape& shape) {
  if (dtype == DType::bf16) {
    fail(op, ": bf16 is for storage, and ops compute in f32 and f64: convert it with .to(DType::f32), shape ",
         shape);
  }
  if (!is_floating(dtype)) fail(op, ": needs a floating dtype, got ", dtype, " of shape ", shape);
}

void check_floating(const char* op, const Tensor& x) {
  check_defined(op, x);
  check_floating(op, x.dtype(), x.shape());
}

}  // namespace altgrad
