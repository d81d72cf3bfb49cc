// Ops that move elements. Tensors have no strides, so each but reshape copies, in one strided pass.
#include <altgrad/autograd/internal/common.h>
#include <altgrad/autograd/ops.h>
#include <altgrad/core/internal/kernels/gather.h>

namespace altgrad {
namespace {

struct Reshape final : Op {
  static constexpr const char* name = "reshape";
  Shape x_shape;

  Tensor forward(const Tensor& x, const Shape& shape) {
    x_shape = x.shape();
    return x.alias(shape);
  }
  void backward(const Tensor& dy, Grads& d) override { d.add(0, dy.alias(x_shape)); }
};

// A run of `length` of the `n` slices along an axis, seen as (outer, n, inner).
struct Slices {
  int64_t outer, n, inner, start, length;

  // whole (outer, n, inner) from the run, or the run from the whole
  void copy(const Tensor& dst, const Tensor& src, bool dst_is_whole) const {
    const int64_t whole = n * inner, part = length * inner, offset = start * inner;
    kernels::LoopNest loops;
    loops.add_loop(outer, dst_is_whole ? whole : part, dst_is_whole ? part : whole);
    loops.add_loop(part, 1, 1);
    detail::copy_strided(dst, dst_is_whole ? offset : 0, src, dst_is_whole ? 0 : offset, loops);
  }
};

// The slices [start, start + length) of an axis of a tensor of this shape.
Slices slices(const Shape& whole, int axis, int64_t start, int64_t length) {
  return {whole.product(0, axis), whole[axis], whole.product(axis + 1, whole.dim()), start, length};
}

struct Narrow final : Op {
  static constexpr const char* name = "narrow";
  Shape x_shape;
  Slices run;

  Tensor forward(const Tensor& x, int axis, int64_t start, int64_t length) {
    x_shape = x.shape();
    run = slices(x_shape, axis, start, length);
    Tensor y = Tensor::empty(x_shape.with(axis, length), x.options());
    run.copy(y, x, false);
    return y;
  }
  // dx = dy in its place, 0 around it
  void backward(const Tensor& dy, Grads& d) override {
    Tensor dx = Tensor::zeros(x_shape, dy.options());
    run.copy(dx, dy, true);
    d.add(0, dx);
  }
};

struct Cat final : Op {
  static constexpr const char* name = "cat";
  int axis;
  Tensor lengths;  // of each input along the axis, i64: a tensor's memory is pooled

  Tensor forward(std::span<const Tensor> xs, int axis_in, int64_t total) {
    axis = axis_in;
    lengths = Tensor::empty({int64_t(xs.size())}, {DType::i64});
    Tensor y = Tensor::empty(xs[0].shape().with(axis, total), xs[0].options());
    int64_t start = 0;
    for (size_t i = 0; i < xs.size(); ++i) {
      const int64_t length = xs[i].shape()[axis];
      slices(y.shape(), axis, start, length).copy(y, xs[i], true);
      lengths.ptr<int64_t>()[i] = length;
      start += length;
    }
    return y;
  }
  // dx_i = the part of dy that came from x_i
  void backward(const Tensor& dy, Grads& d) override {
    int64_t start = 0;
    for (int i = 0; i < int(lengths.numel()); ++i) {
      const int64_t length = lengths.ptr<int64_t>()[i];
      if (d.needs(i)) {
        Tensor dx = Tensor::empty(dy.shape().with(axis, length), dy.options());
        slices(dy.shape(), axis, start, length).copy(dx, dy, false);
        d.add(i, dx);
      }
      start += length;
    }
  }
};

using Order = std::array<int, Shape::max_dim>;

struct Permute final : Op {
  static constexpr const char* name = "permute";
  Order axes;

  Tensor forward(const Tensor& x, const Order& axes_in) {
    axes = axes_in;
    return permuted(x, axes);
  }
  // dx = dy with each axis back in its place
  void backward(const Tensor& dy, Grads& d) override {
    Order inverse{};
    for (int i = 0; i < dy.dim(); ++i) inverse[axes[i]] = i;
    d.add(0, permuted(dy, inverse));
  }

  static Tensor permuted(const Tensor& x, const Order& axes) {
    const Shape& shape = x.shape();
    const int dim = shape.dim();
    std::array<int64_t, Shape::max_dim> sizes;
    for (int i = 0; i < dim; ++i) sizes[i] = shape[axes[i]];
    Tensor y = Tensor::empty(Shape(std::span<const int64_t>(sizes.data(), dim)), x.options());
    kernels::LoopNest loops;
    for (int i = 0; i < dim; ++i) {
      loops.add_loop(sizes[i], y.shape().product(i + 1, dim), shape.product(axes[i] + 1, dim));
    }
    detail::copy_strided(y, 0, x, 0, loops);
    return y;
  }
};

// A copy, of another dtype or on another device where the options say so.
struct Copy final : Op {
  static constexpr const char* name = "copy";
  TensorOptions from;

  Tensor forward(const Tensor& x, TensorOptions to) {
    from = x.options();
    return x.copied(to);
  }
  void backward(const Tensor& dy, Grads& d) override { d.add(0, dy.copied(from)); }
};

struct IndexSelect final : Op {
  static constexpr const char* name = "index_select";
  Tensor ids;
  Shape x_shape;
  int axis;

  Tensor forward(const Tensor& x, int axis_in, const Tensor& ids_in) {
    ids = ids_in, x_shape = x.shape(), axis = axis_in;
    Tensor y = Tensor::empty(x_shape.with(axis, ids.numel()), x.options());
    launch(name, AG_KERNEL(kernels::gather), y, x, ids.ptr<int64_t>(), x_shape.product(0, axis),
           x_shape[axis], ids.numel(), x_shape.product(axis + 1, x_shape.dim()));
    return y;
  }
  // dx = each slice of dy added to the one it came from
  void backward(const Tensor& dy, Grads& d) override {
    d.accumulate(0, [&](const Tensor& dx, double beta) {
      launch(name, AG_KERNEL(kernels::gather_grad), dx, beta, dy, ids.ptr<int64_t>(),
             x_shape.product(0, axis), x_shape[axis], ids.numel(), x_shape.product(axis + 1, x_shape.dim()));
    });
  }
};

}  // namespace

Tensor Tensor::reshape(const Shape& shape) const {
  if (shape.numel() != numel()) fail("reshape: ", this->shape(), " does not fill shape ", shape);
  return apply<Reshape>(*this, shape);
}

Tensor Tensor::reshape(std::initializer_list<int64_t> sizes) const {
  const int64_t* open = std::find(sizes.begin(), sizes.end(), -1);
  if (open == sizes.end()) return reshape(Shape(sizes));
  const int axis = int(open - sizes.begin());
  if (sizes.size() > size_t(Shape::max_dim)) fail("reshape: more than ", Shape::max_dim, " sizes");
  std::array<int64_t, Shape::max_dim> filled;
  std::copy(sizes.begin(), sizes.end(), filled.begin());
  filled[axis] = 1;
  const Shape rest(std::span<const int64_t>(filled.data(), sizes.size()));  // a second -1 throws here
  if (rest.numel() == 0 || numel() % rest.numel() != 0) {
    fail("reshape: ", shape(), " does not fill shape ", rest, " with any size on axis ", axis);
  }
  return reshape(rest.with(axis, numel() / rest.numel()));
}

Tensor Tensor::narrow(int axis, int64_t start, int64_t length) const {
  axis = shape().wrap(axis, "narrow");
  if (start < 0 || length < 0 || length > shape()[axis] - start) {
    fail("narrow: [", start, ", ", start, " + ", length, ") is outside axis ", axis, " of shape ", shape());
  }
  return apply<Narrow>(*this, axis, start, length);
}

Tensor Tensor::permute(const Axes& axes) const {
  std::array<bool, Shape::max_dim> seen{};
  Order all{};
  if (int(axes.size()) != dim()) fail("permute: ", axes.size(), " axes for shape ", shape());
  for (int i = 0; i < dim(); ++i) {
    all[i] = shape().wrap(axes[i], "permute");
    if (seen[all[i]]) fail("permute: axis ", axes[i], " is given twice for shape ", shape());
    seen[all[i]] = true;
  }
  return apply<Permute>(*this, all);
}

Tensor Tensor::transpose(int axis0, int axis1) const {
  Order axes{0, 1, 2, 3, 4, 5, 6, 7};
  std::swap(axes[shape().wrap(axis0, "transpose")], axes[shape().wrap(axis1, "transpose")]);
  return apply<Permute>(*this, axes);
}

Tensor Tensor::clone() const { return apply<Copy>(*this, options()); }

Tensor Tensor::to(DType dtype) const {
  if (dtype == this->dtype()) return *this;
  // Integers carry no gradients: nothing to record.
  return has_gradient(dtype) ? apply<Copy>(*this, TensorOptions{dtype, device()}) : copied({dtype, device()});
}

Tensor Tensor::to(Device device) const {
  return device == this->device() ? *this : apply<Copy>(*this, TensorOptions{dtype(), device});
}

Tensor cat(std::span<const Tensor> xs, int axis) {
  if (xs.empty()) fail("cat: no tensors given");
  const Shape& first = xs[0].shape();
  axis = first.wrap(axis, "cat");
  int64_t total = 0;
  for (const Tensor& x : xs) {
    check_same_kind("cat", xs[0], x);
    if (x.dim() != first.dim() || !(x.shape().with(axis, first[axis]) == first)) {
      fail("cat: shapes ", first, " and ", x.shape(), " differ beyond axis ", axis);
    }
    if (__builtin_add_overflow(total, x.shape()[axis], &total))
      fail("cat: too many elements along axis ", axis);
  }
  return apply<Cat>(xs, axis, total);
}

Tensor stack(std::span<const Tensor> xs, int axis) {
  if (xs.empty()) fail("stack: no tensors given");
  const Shape& first = xs[0].shape();
  const Shape row = first.inserted(axis, 1, "stack");
  for (const Tensor& x : xs) {
    check_same_kind("stack", xs[0], x);
    if (!(x.shape() == first)) fail("stack: shapes ", first, " and ", x.shape(), " differ");
  }
  std::vector<Tensor> rows;
  for (const Tensor& x : xs) rows.push_back(x.reshape(row));
  return cat(rows, axis);
}

Tensor index_select(const Tensor& x, int axis, const Tensor& ids) {
  check_floating("index_select", x);
  axis = x.shape().wrap(axis, "index_select");
  if (ids.dim() != 1) fail("index_select: ids must have one axis, shape is ", ids.shape());
  if (ids.device() != x.device()) fail("index_select: x is on ", x.device(), ", ids on ", ids.device());
  detail::check_ids("index_select", ids, x.shape()[axis]);
  return apply<IndexSelect>(x, axis, ids);
}

}  // namespace altgrad
