// Linear algebra. Every product and every gradient is one GEMM that reads its operands where they are,
// transposed by flags.
#include <altgrad/autograd/internal/common.h>
#include <altgrad/autograd/ops.h>
#include <altgrad/core/internal/kernels/gemm.h>

namespace altgrad {
namespace {

void gemm(const Tensor& c, const Tensor& a, const Tensor& b, const kernels::Gemm& g) {
  launch("gemm", AG_KERNEL(kernels::gemm), c, a, b, g);
}

// a (batch, m, k) or (1, m, k), repeated; b (batch, k, n)
struct Matmul final : Op {
  static constexpr const char* name = "matmul";
  struct Sizes {
    int64_t batch, m, n, k;
    bool a_repeats;
  };
  Sizes s;
  Tensor a, b;

  Tensor forward(const Tensor& a_in, const Tensor& b_in, const Sizes& sizes, const Shape& shape) {
    a = a_in, b = b_in, s = sizes;
    Tensor c = Tensor::empty(shape, a.options());
    kernels::Gemm g = product(s.m, s.n, s.k);
    if (s.a_repeats) g.stride_a = 0;
    gemm(c, a, b, g);
    return c;
  }

  // da = dc b^T, summed where a repeats; db = a^T dc
  void backward(const Tensor& dc, Grads& d) override {
    if (dc.numel() == 0) {
      if (d.needs(0)) d.add(0, Tensor::zeros(a.shape(), a.options()));
      if (d.needs(1)) d.add(1, Tensor::zeros(b.shape(), b.options()));
      return;
    }
    if (d.needs(0)) {
      Tensor da = Tensor::empty({s.batch, s.m, s.k}, a.options());
      kernels::Gemm g = product(s.m, s.k, s.n);
      g.trans_b = true;
      gemm(da, dc, b, g);
      d.add(0, reduce_to_shape(da, {s.a_repeats ? 1 : s.batch, s.m, s.k}).alias(a.shape()));
    }
    d.accumulate(1, [&](const Tensor& db, double beta) {
      kernels::Gemm g = product(s.k, s.n, s.m);
      if (s.a_repeats) g.stride_a = 0;
      g.trans_a = true, g.beta = beta;
      gemm(db, a, dc, g);
    });
  }

  // A product for each matrix of the batch, which lie one after the other.
  kernels::Gemm product(int64_t m, int64_t n, int64_t k) const {
    return {
        .m = m, .n = n, .k = k, .batch = s.batch, .stride_a = m * k, .stride_b = k * n, .stride_c = m * n};
  }
};

// y (rows, n) = x (rows, k) w^T + b; w is multiplied in the dtype of x
struct LinearOp final : Op {
  static constexpr const char* name = "linear";
  Tensor x, w;

  Tensor forward(const Tensor& x_in, const Tensor& w_in, const std::optional<Tensor>& b) {
    x = x_in, w = detail::as_dtype(w_in, x.dtype());
    const int64_t n = w.shape()[0], k = w.shape()[1];
    Tensor y = Tensor::empty(x.shape().with(-1, n), x.options());
    launch(name, AG_KERNEL(kernels::linear), y, x, w, in_compute(b), rows(), n, k);
    return y;
  }

  // dx = dy w, dw = dy^T x, db = the column sums of dy
  void backward(const Tensor& dy, Grads& d) override {
    const int64_t n = w.shape()[0], k = w.shape()[1];
    d.accumulate(0, [&](const Tensor& dx, double beta) {
      gemm(dx, dy, w, {.m = rows(), .n = k, .k = n, .beta = beta});
    });
    detail::add_linear_grads(name, d, 1, dy, x, n, k);
  }

  int64_t rows() const { return x.shape().product(0, x.dim() - 1); }
};

// All axes but the last two.
Shape batch_axes(const Shape& shape) {
  return Shape(std::span<const int64_t>(shape.begin(), shape.end() - 2));
}
Shape with_matrix(const Shape& batch, int64_t m, int64_t n) {
  return batch.inserted(batch.dim(), m).inserted(batch.dim() + 1, n);
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b) {
  check_same_kind("matmul", a, b);
  check_floating("matmul", a);
  if (a.dim() == 0 || b.dim() == 0)
    fail("matmul: needs at least one axis, got ", a.shape(), " and ", b.shape());
  const int64_t k = a.size(-1), b_k = b.size(b.dim() == 1 ? 0 : -2);
  if (k != b_k) fail("matmul: ", a.shape(), " and ", b.shape(), " do not match: ", k, " vs ", b_k);
  if (a.dim() > 1 && b.dim() > 1) broadcast_shapes("matmul", batch_axes(a.shape()), batch_axes(b.shape()));

  if (a.dim() == 1) {  // a row, whose axis is left out of the result
    const Tensor c = matmul(a.reshape({1, k}), b.dim() == 1 ? b.reshape({k, 1}) : b);
    return b.dim() == 1 ? c.reshape(Shape{}) : c.reshape(c.shape().erased(-2));
  }
  if (b.dim() == 1) return matmul(a, b.reshape({k, 1})).reshape(a.shape().erased(-1));

  const int64_t m = a.size(-2), n = b.size(-1);
  const Shape a_batch = batch_axes(a.shape()), b_batch = batch_axes(b.shape());
  const Shape batch = broadcast_shapes("matmul", a_batch, b_batch);
  const Shape shape = with_matrix(batch, m, n);
  if (shape.numel() == 0)
    return apply<Matmul>(a, b, Matmul::Sizes{0, m, n, k, false}, shape);  // repeats nothing
  // One b for all: the rows of all a's are the rows of one matrix.
  if (b_batch.numel() == 1)
    return apply<Matmul>(a, b, Matmul::Sizes{1, a_batch.numel() * m, n, k, false}, shape);
  // One a for all is read again; what repeats in part is copied out.
  const bool a_repeats = a_batch.numel() == 1;
  return apply<Matmul>(a_repeats || a_batch == batch ? a : expand(a, with_matrix(batch, m, k)),
                       b_batch == batch ? b : expand(b, with_matrix(batch, k, n)),
                       Matmul::Sizes{batch.numel(), m, n, k, a_repeats}, shape);
}

void detail::add_linear_grads(const char* op, Grads& d, int w, const Tensor& dy, const Tensor& x, int64_t n,
                              int64_t k) {
  const int64_t rows = x.shape().product(0, x.dim() - 1);
  Tensor db;
  if (d.needs(w + 1)) db = Tensor::empty({n}, in_compute_dtype(dy));
  const auto run = [&](const Tensor& dw, double beta) {
    launch(op, AG_KERNEL(kernels::linear_grad), in_compute(dw), beta, in_compute(db), dy, x, rows, n, k);
  };
  if (d.needs(w)) {
    d.accumulate(w, run);
  } else {
    run({}, 0);
  }
  if (db.defined()) d.add(w + 1, db);
}

void detail::check_linear(const char* op, const Tensor& x, const Tensor& w, const std::optional<Tensor>& b) {
  check_activation(op, x);
  check_linear(op, x, x.shape(), w, b);
}
void detail::check_linear(const char* op, const Tensor& like, const Shape& shape, const Tensor& w,
                          const std::optional<Tensor>& b) {
  check_parameter(op, like, w);
  if (shape.dim() == 0) fail(op, ": x ", shape, " needs at least one axis, of in_features");
  if (w.dim() != 2) fail(op, ": weight ", w.shape(), " needs two axes, (out_features, in_features)");
  const int64_t in = shape[shape.dim() - 1];
  if (in != w.size(1)) {
    fail(op, ": x ", shape, " does not match weight ", w.shape(), ": in_features ", in, " vs ", w.size(1));
  }
  if (!b) return;
  check_parameter(op, like, *b);
  if (b->shape() != Shape{w.size(0)}) {
    fail(op, ": bias ", b->shape(), " does not match weight ", w.shape(), ": needs shape (", w.size(0), ")");
  }
}

Tensor linear(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b) {
  detail::check_linear("linear", x, w, b);
  return apply<LinearOp>(x, w, b);
}

}  // namespace altgrad
