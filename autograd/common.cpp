#include <altgrad/autograd/internal/common.h>

#include <altgrad/core/internal/kernels/elementwise.h>
#include <altgrad/core/internal/kernels/gather.h>
#include <altgrad/core/internal/kernels/reduce.h>

namespace altgrad::detail {

namespace {
void check_defined(const char* op, const Tensor& x) {
  if (!x.defined()) fail(op, ": an input is an empty tensor, default-constructed or moved from");
}
}  // namespace

void check_floating(const char* op, const Tensor& x) {
  check_defined(op, x);
  if (!is_floating(x.dtype())) fail(op, ": needs a floating dtype, got ", x.dtype(), " of shape ", x.shape());
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

int wrap_axis(const char* op, const Shape& shape, int axis) {
  if (axis < -shape.dim() || axis >= shape.dim())
    fail(op, ": axis ", axis, " is out of range for shape ", shape);
  return axis < 0 ? axis + shape.dim() : axis;
}

void check_ids(const char* op, const Tensor& ids, int64_t high, std::optional<int64_t> ignore) {
  check_defined(op, ids);
  if (ids.dtype() != DType::i64) fail(op, ": ids must be i64, got ", ids.dtype(), " of shape ", ids.shape());
  if (ids.numel() == 0) return;
  // Where nothing is ignored, an id that is in range anyway stands in; in an empty range any id is wrong.
  const bool none_fits = high == 0 && !ignore;
  int64_t at = 0;
  if (!none_fits) {
    const Tensor found = Tensor::empty({}, ids.options());
    dispatch_device(ids.device(), [&](const auto& device) {
      kernels::first_outside(device, found.ptr<int64_t>(), ids.ptr<int64_t>(), ids.numel(), high,
                             ignore.value_or(0));
    });
    at = found.item<int64_t>();
  }
  if (at < 0) return;
  const int64_t id = ids.alias({ids.numel()}).narrow(0, at, 1).item<int64_t>();
  fail(op, ": id ", id, " at ", position(ids.shape(), at), " of ids ", ids.shape(), " is outside [0, ", high,
       ")");
}

bool has_nan(const char* op, const Tensor& x) {
  const Tensor found = Tensor::empty({}, {DType::u8, x.device()});
  launch(op, AG_KERNEL(has_nan), found.ptr<uint8_t>(), x, x.numel());
  return found.item<bool>();
}

std::string position(const Shape& shape, int64_t i) {
  std::string text = ")";
  for (int axis = shape.dim() - 1; axis >= 0; --axis) {
    text = std::to_string(i % shape[axis]) + text;
    i /= shape[axis];
    if (axis > 0) text = ", " + text;
  }
  return "(" + text;
}

void push_axis(kernels::Strided& s, int64_t size, int64_t a, int64_t b) {
  s.numel *= size;
  if (size == 1) return;
  const int last = s.dim - 1;
  if (s.dim > 0 && s.a[last] == a * size && s.b[last] == b * size) {
    s.size[last] *= size;
    s.a[last] = a;
    s.b[last] = b;
  } else {
    s.size[s.dim] = size;
    s.a[s.dim] = a;
    s.b[s.dim] = b;
    ++s.dim;
  }
}

kernels::Strided broadcast(const Shape& out, const Shape& a, const Shape& b) {
  // The stride of x along an axis of out: 0 where x repeats.
  const auto stride = [&](const Shape& x, int axis) {
    const int own = axis - (out.dim() - x.dim());
    return own < 0 || x[own] != out[axis] ? 0 : x.product(own + 1, x.dim());
  };
  kernels::Strided s;
  for (int axis = 0; axis < out.dim(); ++axis) push_axis(s, out[axis], stride(a, axis), stride(b, axis));
  return s;
}

Tensor expand_to(const Tensor& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  if (x.numel() == shape.numel()) return x.alias(shape);
  Tensor y = Tensor::empty(shape, x.options());
  const kernels::Strided s = broadcast(shape, shape, x.shape());
  dispatch_all(
      x, [&]<class T>(const auto& device) { kernels::copy_strided(device, y.ptr<T>(), x.ptr<T>(), s); });
  return y;
}

Tensor sum_to(const Tensor& x, const Shape& shape, double divisor) {
  if (x.shape() == shape) return x;
  // One kernel for each run of neighbouring axes to be summed; axes of size 1 belong to any run.
  const int lead = x.dim() - shape.dim();
  const auto summed = [&](int axis) {
    return x.shape()[axis] != 1 && (axis < lead || shape[axis - lead] == 1);
  };
  Tensor y = x;
  int64_t outer = 1;
  for (int axis = 0; axis < x.dim();) {
    int end = axis;
    int64_t n = 1;
    for (; end < x.dim() && (summed(end) || x.shape()[end] == 1); ++end) n *= x.shape()[end];
    if (end == axis) {
      outer *= x.shape()[axis++];
      continue;
    }
    if (n != 1) {
      const int64_t inner = x.shape().product(end, x.dim());
      Tensor part = Tensor::empty({outer, inner}, x.options());
      launch("sum", AG_KERNEL(sum), part, y, outer, n, inner, std::exchange(divisor, 1));
      y = part;
    }
    axis = end;
  }
  return y.alias(shape);
}

}  // namespace altgrad::detail
