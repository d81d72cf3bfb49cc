// The bodies of internal/common.h.
#include <altgrad/autograd/internal/common.h>

#include <altgrad/core/internal/kernels/elementwise.h>
#include <altgrad/core/internal/kernels/gather.h>
#include <altgrad/core/internal/kernels/reduce.h>

namespace altgrad::detail {

void check_ids(const char* op, const Tensor& ids, int64_t high, std::optional<int64_t> ignore) {
  check_defined(op, ids);
  if (ids.dtype() != DType::i64) fail(op, ": ids must be i64, got ", ids.dtype(), " of shape ", ids.shape());
  dispatch_device(ids.device(), [&](const auto& device) {
    kernels::check_ids(device, {op, ids.shape(), high, ignore}, ids.ptr<int64_t>());
  });
}

bool has_nan(const char* op, const Tensor& x) {
  const Tensor found = Tensor::empty({}, {DType::u8, x.device()});
  launch(op, AG_KERNEL(kernels::has_nan), found.ptr<uint8_t>(), x, x.numel());
  return found.item<bool>();
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
