// The checks of what kernels are given.
#include <altgrad/core/dispatch.h>

namespace altgrad {
namespace {

void check_same_device(const char* op, const Tensor& a, const Tensor& b) {
  if (a.device() != b.device()) {
    fail(op, ": devices differ: ", a.shape(), " on ", a.device(), " and ", b.shape(), " on ", b.device());
  }
}

}  // namespace

void check_defined(const char* op, const Tensor& x) {
  if (!x.defined()) fail(op, ": an input is an empty tensor, default-constructed or moved from");
}

void check_same_kind(const char* op, const Tensor& a, const Tensor& b) {
  check_defined(op, a);
  check_defined(op, b);
  if (a.dtype() != b.dtype()) {
    fail(op, ": dtypes differ: ", a.dtype(), " ", a.shape(), " and ", b.dtype(), " ", b.shape());
  }
  check_same_device(op, a, b);
}

void check_floating(const char* op, DType dtype, const Shape& shape) {
  if (dtype == DType::bf16) {
    fail(op, ": computes in f32 and f64, and not in bf16: convert it with .to(DType::f32), shape ", shape);
  }
  if (!is_floating(dtype)) fail(op, ": needs a floating dtype, got ", dtype, " of shape ", shape);
}

void check_floating(const char* op, const Tensor& x) {
  check_defined(op, x);
  if (!is_floating(x.dtype())) check_floating(op, x.dtype(), x.shape());
}

void check_activation(const char* op, const Tensor& x) {
  check_defined(op, x);
  if (x.dtype() != DType::bf16) return check_floating(op, x);
  if (x.device().is_cpu())
    fail(op, ": computes in bf16 on a GPU only: convert it with .to(DType::f32), shape ", x.shape());
}

void check_parameter(const char* op, const Tensor& x, const Tensor& p) {
  check_defined(op, x);
  check_defined(op, p);
  if (p.dtype() == compute_dtype(x.dtype())) return check_same_device(op, x, p);
  if (x.dtype() != DType::bf16) return check_same_kind(op, x, p);
  fail(op, ": beside activations of bf16, ", x.shape(), ", what is of ", p.dtype(), ", ", p.shape(),
       ", must be f32");
}

}  // namespace altgrad
