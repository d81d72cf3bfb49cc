// The checks of what kernels are given.
#include <altgrad/core/dispatch.h>

namespace altgrad {

void check_defined(const char* op, const Tensor& x) {
  if (!x.defined()) fail(op, ": an input is an empty tensor, default-constructed or moved from");
}

void check_same_kind(const char* op, const Tensor& a, const Tensor& b) {
  check_defined(op, a);
  check_defined(op, b);
  if (a.dtype() != b.dtype()) {
    fail(op, ": dtypes differ: ", a.dtype(), " ", a.shape(), " and ", b.dtype(), " ", b.shape());
  }
  if (a.device() != b.device()) {
    fail(op, ": devices differ: ", a.shape(), " on ", a.device(), " and ", b.shape(), " on ", b.device());
  }
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
  if (!is_floating(x.dtype())) check_floating(op, x.dtype(), x.shape());
}

}  // namespace altgrad
