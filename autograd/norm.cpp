// Normalisation over the last axis. What backward needs is a few numbers a row, not the normalised values.
#include <altgrad/autograd/internal/common.h>
#include <altgrad/autograd/ops.h>
#include <altgrad/core/internal/kernels/rows.h>

#include <cmath>

namespace altgrad {
namespace {

// What layer_norm gives for x, or for sum = x + residual.
struct Normalised {
  Tensor y, moments, sum;

  Normalised(const Tensor& x, const Tensor& residual, const Tensor& w, const std::optional<Tensor>& b,
             double eps)
      : y(Tensor::empty(x.shape(), x.options())),
        moments(Tensor::empty({detail::rows_of(x), 3}, detail::in_compute_dtype(x))),
        sum(residual.defined() ? Tensor::empty(x.shape(), x.options()) : Tensor()) {
    launch("layer_norm", AG_KERNEL(kernels::layer_norm), y, structs_in<kernels::Moments>(moments), x,
           in_compute(w), in_compute(b), detail::rows_of(x), x.size(-1), eps, residual, sum);
  }
};

// The sum of add_layer_norm.
struct ResidualOp final : Op {
  static constexpr const char* name = "add";
  Tensor forward(const Tensor&, const Tensor&, const Normalised& made) { return made.sum; }
  void backward(const Tensor& dy, Grads& d) override { d.add(0, dy), d.add(1, dy); }
};

struct LayerNormOp final : Op {
  static constexpr const char* name = "layer_norm";
  Tensor x, w, moments;

  Tensor forward(const Tensor& x_in, const Tensor& w_in, const std::optional<Tensor>& b, double eps,
                 const Normalised* made = nullptr) {
    x = x_in, w = w_in;
    const Normalised own = made ? *made : Normalised(x, {}, w, b, eps);
    moments = own.moments;
    return own.y;
  }

  // With h = (x - mean) * rstd and g = dy * w, over each row: dx = rstd * (g - mean(g) - h * mean(g * h));
  // over all rows: dw = sum(dy * h), db = sum(dy)
  void backward(const Tensor& dy, Grads& d) override {
    Tensor dw, db;
    if (d.needs(1)) dw = Tensor::empty(w.shape(), w.options());
    if (d.needs(2)) db = Tensor::empty(w.shape(), w.options());
    const auto run = [&](const Tensor& dx, double beta) {
      launch(name, AG_KERNEL(kernels::layer_norm_grad), dx, beta, in_compute(dw), in_compute(db), dy, x,
             structs_in<kernels::Moments>(moments), in_compute(w), detail::rows_of(x), x.size(-1));
    };
    if (d.needs(0)) {
      d.accumulate(0, run);
    } else {
      run({}, 0);
    }
    if (dw.defined()) d.add(1, dw);
    if (db.defined()) d.add(2, db);
  }
};

struct RmsNormOp final : Op {
  static constexpr const char* name = "rms_norm";
  Tensor x, w, rstd;

  Tensor forward(const Tensor& x_in, const Tensor& w_in, double eps) {
    x = x_in, w = w_in;
    rstd = Tensor::empty({detail::rows_of(x)}, detail::in_compute_dtype(x));
    Tensor y = Tensor::empty(x.shape(), x.options());
    launch(name, AG_KERNEL(kernels::rms_norm), y, in_compute(rstd), x, in_compute(w), detail::rows_of(x),
           x.size(-1), eps);
    return y;
  }

  // With h = x * rstd and g = dy * w, over each row: dx = rstd * (g - h * mean(g * h));
  // over all rows: dw = sum(dy * h)
  void backward(const Tensor& dy, Grads& d) override {
    Tensor dw;
    if (d.needs(1)) dw = Tensor::empty(w.shape(), w.options());
    const auto run = [&](const Tensor& dx, double beta) {
      launch(name, AG_KERNEL(kernels::rms_norm_grad), dx, beta, in_compute(dw), dy, x, in_compute(rstd),
             in_compute(w), detail::rows_of(x), x.size(-1));
    };
    if (d.needs(0)) {
      d.accumulate(0, run);
    } else {
      run({}, 0);
    }
    if (dw.defined()) d.add(1, dw);
  }
};

void check_eps(const char* op, double eps) {
  if (!(eps >= 0 && std::isfinite(eps))) fail(op, ": eps must be finite and not negative, got ", eps);
}

void check_norm(const char* op, const Tensor& x, const char* what, const Tensor& p) {
  check_activation(op, x);
  check_parameter(op, x, p);
  if (x.dim() == 0) fail(op, ": x ", x.shape(), " needs at least one axis");
  if (!(p.shape() == Shape{x.size(-1)})) {
    fail(op, ": ", what, " ", p.shape(), " does not match the last axis of x ", x.shape());
  }
}

void check_layer_norm(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b, double eps) {
  check_norm("layer_norm", x, "weight", w);
  check_eps("layer_norm", eps);
  if (b) check_norm("layer_norm", x, "bias", *b);
}

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b, double eps) {
  check_layer_norm(x, w, b, eps);
  return apply<LayerNormOp>(x, w, b, eps);
}

std::pair<Tensor, Tensor> add_layer_norm(const Tensor& x, const Tensor& residual, const Tensor& w,
                                         const std::optional<Tensor>& b, double eps) {
  check_same_kind("add", x, residual);
  if (x.shape() != residual.shape()) {
    const Tensor sum = x + residual;
    return {sum, layer_norm(sum, w, b, eps)};
  }
  check_layer_norm(x, w, b, eps);
  const Normalised made(x, residual, w, b, eps);
  const Tensor sum = apply<ResidualOp>(x, residual, made);
  return {sum, apply<LayerNormOp>(sum, w, b, eps, &made)};
}

Tensor rms_norm(const Tensor& x, const Tensor& w, double eps) {
  check_norm("rms_norm", x, "weight", w);
  check_eps("rms_norm", eps);
  return apply<RmsNormOp>(x, w, eps);
}

}  // namespace altgrad
