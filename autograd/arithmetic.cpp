// Arithmetic with broadcasting. Inputs are read in place through strides of 0, never copied out; a backward
// computes at the shape of the result and sums what was repeated.
#include <altgrad/autograd/internal/common.h>
#include <altgrad/autograd/ops.h>
#include <altgrad/core/internal/functors.h>
#include <altgrad/core/internal/kernels/elementwise.h>

namespace altgrad {
namespace {

template <class F>
struct Binary final : Op {
  static constexpr const char* name = F::name;
  // The derivatives of a sum are constants: no values need saving.
  static constexpr bool constant_derivatives = std::is_same_v<F, Add> || std::is_same_v<F, Sub>;

  Shape a_shape, b_shape;
  Tensor a, b;

  Tensor forward(const Tensor& a_in, const Tensor& b_in, const Shape& shape) {
    a_shape = a_in.shape(), b_shape = b_in.shape();
    if constexpr (!constant_derivatives) a = a_in, b = b_in;
    Tensor y = Tensor::empty(shape, a_in.options());
    const kernels::LoopNest loops = detail::broadcast(shape, a_shape, b_shape);
    launch(name, AG_KERNEL(kernels::binary), F(), y, a_in, b_in, loops);
    return y;
  }

  // da = dy * derivative_a(a, b), db = dy * derivative_b(a, b), each summed to the shape of its input
  void backward(const Tensor& dy, Grads& d) override {
    if constexpr (constant_derivatives) {
      if (d.needs(0)) d.add(0, reduce_to_shape(dy, a_shape));
      if (!d.needs(1)) return;
      const Tensor db = reduce_to_shape(dy, b_shape);
      d.add(1, std::is_same_v<F, Sub> ? neg(db) : db);
    } else {
      Tensor da, db;
      if (d.needs(0)) da = Tensor::empty(dy.shape(), dy.options());
      if (d.needs(1)) db = Tensor::empty(dy.shape(), dy.options());
      const kernels::LoopNest loops = detail::broadcast(dy.shape(), a_shape, b_shape);
      launch(name, AG_KERNEL(kernels::binary_grad), F(), da, db, dy, a, b, loops);
      if (da.defined()) d.add(0, reduce_to_shape(da, a_shape));
      if (db.defined()) d.add(1, reduce_to_shape(db, b_shape));
    }
  }
};

template <class F>
Tensor binary(const Tensor& a, const Tensor& b) {
  check_same_kind(F::name, a, b);
  check_activation(F::name, a);
  return apply<Binary<F>>(a, b, broadcast_shapes(F::name, a.shape(), b.shape()));
}

template <class F>
Tensor compare(const Tensor& a, const Tensor& b) {
  check_same_kind(F::name, a, b);
  Tensor y = Tensor::empty(broadcast_shapes(F::name, a.shape(), b.shape()), {DType::u8, a.device()});
  const kernels::LoopNest loops = detail::broadcast(y.shape(), a.shape(), b.shape());
  dispatch_all(a, [&]<class T>(const auto& device) {
    kernels::binary(device, F(), y.ptr<uint8_t>(), a.ptr<T>(), b.ptr<T>(), loops);
  });
  return y;
}

struct Where final : Op {
  static constexpr const char* name = "where";
  Tensor condition;  // at the shape of the result
  Shape a_shape, b_shape;

  Tensor forward(const Tensor& condition_in, const Tensor& a, const Tensor& b, const Shape& shape) {
    a_shape = a.shape(), b_shape = b.shape();
    condition = detail::expand_to(condition_in, shape);
    return select(detail::expand_to(a, shape), detail::expand_to(b, shape));
  }

  // da = condition ? dy : 0, db = condition ? 0 : dy
  void backward(const Tensor& dy, Grads& d) override {
    if (d.needs(1)) d.add(1, reduce_to_shape(select(dy, {}), a_shape));
    if (d.needs(2)) d.add(2, reduce_to_shape(select({}, dy), b_shape));
  }

  // An undefined side counts as zeros.
  Tensor select(const Tensor& a, const Tensor& b) const {
    Tensor y = Tensor::empty(condition.shape(), (a.defined() ? a : b).options());
    launch(name, AG_KERNEL(kernels::where), y, condition.ptr<uint8_t>(), a, b, y.numel());
    return y;
  }
};

struct Expand final : Op {
  static constexpr const char* name = "expand";
  Shape x_shape;

  Tensor forward(const Tensor& x, const Shape& shape) {
    x_shape = x.shape();
    const Tensor y = detail::expand_to(x, shape);
    return y.is(x) ? y.clone() : y;
  }
  // dx = dy summed over the repeats
  void backward(const Tensor& dy, Grads& d) override { d.add(0, reduce_to_shape(dy, x_shape)); }
};

}  // namespace

Shape broadcast_shapes(const char* op, const Shape& a, const Shape& b) {
  if (a == b) return a;
  std::array<int64_t, Shape::max_dim> sizes;
  const int dim = std::max(a.dim(), b.dim());
  for (int axis = -1; axis >= -dim; --axis) {
    const int64_t m = axis < -a.dim() ? 1 : a.size(axis), n = axis < -b.dim() ? 1 : b.size(axis);
    if (m != n && m != 1 && n != 1) fail(op, ": shapes ", a, " and ", b, " do not broadcast: ", m, " vs ", n);
    sizes[dim + axis] = m == 1 ? n : m;
  }
  return Shape(std::span<const int64_t>(sizes.data(), dim));
}

Tensor add(const Tensor& a, const Tensor& b) { return binary<Add>(a, b); }
Tensor sub(const Tensor& a, const Tensor& b) { return binary<Sub>(a, b); }
Tensor mul(const Tensor& a, const Tensor& b) { return binary<Mul>(a, b); }
Tensor div(const Tensor& a, const Tensor& b) { return binary<Div>(a, b); }
Tensor maximum(const Tensor& a, const Tensor& b) { return binary<Maximum>(a, b); }
Tensor minimum(const Tensor& a, const Tensor& b) { return binary<Minimum>(a, b); }

Tensor greater(const Tensor& a, const Tensor& b) { return compare<Greater>(a, b); }
Tensor equal(const Tensor& a, const Tensor& b) { return compare<Equal>(a, b); }

Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b) {
  if (condition.dtype() != DType::u8) {
    fail("where: condition must be u8, got ", condition.dtype(), " of shape ", condition.shape());
  }
  check_same_kind("where", a, b);
  check_activation("where", a);
  if (condition.device() != a.device())
    fail("where: condition is on ", condition.device(), ", a on ", a.device());
  const Shape values = broadcast_shapes("where", a.shape(), b.shape());
  return apply<Where>(condition, a, b, broadcast_shapes("where", condition.shape(), values));
}

Tensor expand(const Tensor& x, const Shape& shape) {
  if (!(broadcast_shapes("expand", x.shape(), shape) == shape)) {
    fail("expand: shape ", x.shape(), " does not broadcast to ", shape);
  }
  return apply<Expand>(x, shape);
}

}  // namespace altgrad
