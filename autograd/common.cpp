// The bodies of internal/common.h.
#include <altgrad/autograd/internal/common.h>

#include <altgrad/core/internal/kernels/elementwise.h>
#include <altgrad/core/internal/kernels/gather.h>
#include <altgrad/core/internal/kernels/reduce.h>

namespace altgrad::detail {

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
      kernels::find_out_of_range(device, found.ptr<int64_t>(), ids.ptr<int64_t>(), ids.numel(), high,
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
  launch(op, AG_KERNEL(kernels::has_nan), found.ptr<uint8_t>(), x, x.numel());
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

kernels::LoopNest broadcast(const Shape& out, const Shape& a, const Shape& b) {
  // The stride of x along an axis of out: 0 where x repeats.
  const auto stride = [&](const Shape& x, int axis) {
    const int own = axis - (out.dim() - x.dim());
    return own < 0 || x[own] != out[axis] ? 0 : x.product(own + 1, x.dim());
  };
  kernels::LoopNest loops;
  for (int axis = 0; axis < out.dim(); ++axis) loops.add_loop(out[axis], stride(a, axis), stride(b, axis));
  return loops;
}

Tensor expand_to(const Tensor& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  if (x.numel() == shape.numel()) return x.alias(shape);
  Tensor y = Tensor::empty(shape, x.options());
  copy_strided(y, 0, x, 0, broadcast(shape, shape, x.shape()));
  return y;
}

void copy_strided(const Tensor& dst, int64_t to, const Tensor& src, int64_t from,
                  const kernels::LoopNest& s) {
  dispatch_all(src, [&]<class T>(const auto& device) {
    kernels::copy_strided(device, dst.ptr<T>() + to, src.ptr<T>() + from, s);
  });
}

}  // namespace altgrad::detail
