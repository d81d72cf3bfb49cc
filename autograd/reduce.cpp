// Reductions. An op reduces to the shape with sizes of 1 where axes were summed, and gives it the shape asked
// for as an alias; var is composed of recorded ops.
#include <altgrad/autograd/internal/common.h>
#include <altgrad/autograd/ops.h>
#include <altgrad/core/internal/kernels/reduce.h>

#include <algorithm>

namespace altgrad {
namespace {

// x summed over the axes along which a tensor of this shape, which broadcasts to x's, is repeated, and divided. Sums
// are in the dtype that x is computed in.
Tensor summed_to(const Tensor& x, const Shape& shape, double divisor) {
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
      Tensor part = Tensor::empty({outer, inner}, detail::in_compute_dtype(x));
      launch("sum", AG_KERNEL(kernels::sum), in_compute(part), y, outer, n, inner, std::exchange(divisor, 1));
      y = part;
    }
    axis = end;
  }
  return y.alias(shape);
}

// Which axes of a shape a reduction covers, and what it leaves.
struct Reduction {
  std::array<bool, Shape::max_dim> covers{};
  Shape kept;         // with sizes of 1 where covered
  Shape result;       // kept, or without those axes
  int64_t count = 1;  // elements reduced to one
};

using Check = void(const char* op, const Tensor& x);

Reduction reduction(Check check, const char* op, const Tensor& x, const Axes& axes, bool keepdim) {
  check(op, x);
  const Shape& shape = x.shape();
  Reduction r;
  for (int axis : axes) {
    bool& covered = r.covers[shape.wrap(axis, op)];
    if (covered) fail(op, ": axis ", axis, " is given twice for shape ", shape);
    covered = true;
  }
  std::array<int64_t, Shape::max_dim> kept, left;
  int num_left = 0;
  for (int i = 0; i < shape.dim(); ++i) {
    kept[i] = r.covers[i] ? 1 : shape[i];
    if (r.covers[i]) r.count *= shape[i];
    if (!r.covers[i] || keepdim) left[num_left++] = kept[i];
  }
  r.kept = Shape(std::span<const int64_t>(kept.data(), shape.dim()));
  r.result = Shape(std::span<const int64_t>(left.data(), num_left));
  return r;
}

constexpr std::array<int, Shape::max_dim> all_axes{0, 1, 2, 3, 4, 5, 6, 7};
Reduction reduction(Check check, const char* op, const Tensor& x) {
  return reduction(check, op, x, std::span(all_axes).first(x.dim()), false);
}

struct Sum final : Op {
  static constexpr const char* name = "sum";
  Shape x_shape, kept;
  double divisor;  // a mean's sum may be no float: it is divided before it is rounded

  Tensor forward(const Tensor& x, const Shape& kept_in, const Shape& result, double divisor_in) {
    x_shape = x.shape(), kept = kept_in, divisor = divisor_in;
    const Tensor y = detail::as_dtype(summed_to(x, kept, divisor), x.dtype());
    return y.is(x) ? y.alias(result).clone() : y.alias(result);
  }
  // dx = dy / divisor, repeated
  void backward(const Tensor& dy, Grads& d) override {
    d.add(0, detail::expand_to((divisor == 1 ? dy : dy / divisor).alias(kept), x_shape));
  }
};

// Over neighbouring axes: x seen as (outer, n, inner) -> (outer, inner).
struct Max final : Op {
  static constexpr const char* name = "max";
  int64_t outer, n, inner;
  Tensor x, y;

  Tensor forward(const Tensor& in, int64_t outer_in, int64_t n_in, int64_t inner_in, const Shape& result) {
    outer = outer_in, n = n_in, inner = inner_in;
    x = in, y = Tensor::empty(result, in.options());
    launch(name, AG_KERNEL(kernels::max), y, x, outer, n, inner);
    return y;
  }
  // dx = dy / number of maxima where x = y, else 0
  void backward(const Tensor& dy, Grads& d) override {
    Tensor dx = Tensor::empty(x.shape(), x.options());
    launch(name, AG_KERNEL(kernels::max_grad), dx, dy, x, y, outer, n, inner);
    d.add(0, dx);
  }
};

Tensor sum(const Tensor& x, const Reduction& r) { return apply<Sum>(x, r.kept, r.result, 1.0); }
Tensor mean(const Tensor& x, const Reduction& r) { return apply<Sum>(x, r.kept, r.result, double(r.count)); }

Tensor var(const Tensor& x, const Reduction& r, double correction) {
  const DefaultFloatEnvironment environment;  // for the divisor
  // Brought near 0 by a mean that is rounded, which changes neither variance nor gradient, and then centred.
  const Tensor near = x - mean(x.detach(), r).reshape(r.kept), centred = near - mean(near, r).reshape(r.kept);
  return sum(centred * centred, r) / std::max(0.0, double(r.count) - correction);
}

Tensor max(const Tensor& x, const Reduction& r) {
  if (r.count == 0 && r.result.numel() > 0) fail("max: over no elements, shape ", x.shape());
  int first = 0, last = x.dim();  // the covered axes lie in [first, last)
  while (first < last && !r.covers[first]) ++first;
  while (last > first && !r.covers[last - 1]) --last;
  const bool together =
      std::all_of(&r.covers[first], &r.covers[0] + last, [](bool covered) { return covered; });
  if (together) {
    const Shape& s = x.shape();
    return apply<Max>(x, s.product(0, first), r.count, s.product(last, s.dim()), r.result);
  }
  // Equal maxima share evenly only if one kernel sees them all: bring the covered axes together, at the end.
  std::array<int, Shape::max_dim> axes;
  int num = 0;
  for (bool covered : {false, true}) {
    for (int i = 0; i < x.dim(); ++i) {
      if (r.covers[i] == covered) axes[num++] = i;
    }
  }
  return apply<Max>(x.permute(std::span(axes).first(num)), r.result.numel(), r.count, 1, r.result);
}

}  // namespace

Tensor detail::sum_to_shape(const Tensor& x, const Shape& shape) {
  check_activation("reduce_to_shape", x);
  if (broadcast_shapes("reduce_to_shape", x.shape(), shape) != x.shape())
    fail("reduce_to_shape: shape ", shape, " does not broadcast to ", x.shape());
  return as_dtype(summed_to(x, shape, 1), compute_dtype(x.dtype()));
}

Tensor reduce_to_shape(const Tensor& x, const Shape& shape) {
  check_activation("reduce_to_shape", x);
  return x.shape() == shape ? x : detail::as_dtype(detail::sum_to_shape(x, shape), x.dtype());
}

Tensor sum(const Tensor& x) { return sum(x, reduction(check_activation, "sum", x)); }
Tensor sum(const Tensor& x, const Axes& axes, bool keepdim) {
  return sum(x, reduction(check_activation, "sum", x, axes, keepdim));
}
Tensor mean(const Tensor& x) { return mean(x, reduction(check_activation, "mean", x)); }
Tensor mean(const Tensor& x, const Axes& axes, bool keepdim) {
  return mean(x, reduction(check_activation, "mean", x, axes, keepdim));
}
Tensor max(const Tensor& x) { return max(x, reduction(check_floating, "max", x)); }
Tensor max(const Tensor& x, const Axes& axes, bool keepdim) {
  return max(x, reduction(check_floating, "max", x, axes, keepdim));
}
Tensor var(const Tensor& x) { return var(x, reduction(check_floating, "var", x), 1); }
Tensor var(const Tensor& x, const Axes& axes, bool keepdim, double correction) {
  return var(x, reduction(check_floating, "var", x, axes, keepdim), correction);
}

Tensor argmax(const Tensor& x) {
  check_floating("argmax", x);
  if (x.dim() == 0 || x.size(-1) == 0)
    fail("argmax: the last axis of shape ", x.shape(), " holds no elements");
  Tensor y = Tensor::empty(x.shape().erased(-1), {DType::i64, x.device()});
  launch("argmax", AG_KERNEL(kernels::argmax), y.ptr<int64_t>(), x, y.numel(), x.size(-1));
  return y;
}

}  // namespace altgrad
