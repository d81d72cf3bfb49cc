// The layer and its op. Backward uses the rounded operands of forward (they are what was multiplied), so the
// op keeps those, and the originals only where a clipped straight-through gradient has to look at them.
#include <altgrad/fp8/quantized_linear.h>

#include <altgrad/autograd/common.h>
#include <altgrad/core/kernels.h>

namespace altgrad::fp8 {
namespace {

void check_format(const char* role, const Format& format) {
  format.validate();
  if (!format.has_sign) {
    fail("QuantizedLinear: the ", role, " format ", format.name, " has no sign and is for scales only");
  }
}

void check_shapes(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b) {
  constexpr const char* op = "quantized_linear";
  if (w.dim() != 2) fail(op, ": weight must be (out, in), got ", w.shape());
  if (x.dim() < 1 || x.size(-1) != w.size(1)) {
    fail(op, ": x ", x.shape(), " does not match weight ", w.shape(), ": in_features ",
         x.dim() < 1 ? 1 : x.size(-1), " vs ", w.size(1));
  }
  if (b && b->shape() != Shape{w.size(0)})
    fail(op, ": bias ", b->shape(), " does not match weight ", w.shape());
  altgrad::detail::check_same_kind(op, x, w);
  if (b) altgrad::detail::check_same_kind(op, *b, w);
}

struct QuantizedLinearOp final : Op {
  static constexpr const char* name = "quantized_linear";
  Tensor x, w, qx, qw;  // x and w only where the straight-through gradient needs them
  float x_scale, w_scale;
  bool has_bias, training;
  std::optional<LinearQuantizers> quantizers;  // handles: the layer may be gone when backward runs

  // y (rows, out) = Q(x) (rows, in) Q(w)^T (in, out) + b
  Tensor forward(const Tensor& in, const Tensor& weight, const std::optional<Tensor>& b, LinearQuantizers& q,
                 bool in_training) {
    x_scale = q.input.next_scale(in, in_training);
    w_scale = q.weight.next_scale(weight, in_training);
    qx = q.input(in, x_scale);
    qw = q.weight(weight, w_scale);
    if (q.input.clips()) x = in;
    if (q.weight.clips()) w = weight;
    has_bias = b.has_value();
    training = in_training;
    quantizers = q;
    Tensor y = Tensor::empty(in.shape().with(-1, weight.size(0)), in.options());
    dispatch(name, y, [&]<class D, class T>() {
      kernels::linear<D>(y.ptr<T>(), qx.ptr<T>(), qw.ptr<T>(), b ? b->ptr<T>() : nullptr, rows(), out(),
                         in_features());
    });
    return y;
  }

  // dx = Q(dy) Q(w), dw = Q(dy)^T Q(x), db = sum over rows of dy
  void backward(const Tensor& dy, Grads& d) override {
    Quantizer& grad = quantizers->grad;
    const bool products = d.needs(0) || d.needs(1);
    const Tensor qdy = products ? grad(dy, grad.next_scale(dy, training && grad.format)) : dy;
    dispatch(name, dy, [&]<class D, class T>() {
      if (d.needs(0)) {
        const Tensor dx = Tensor::empty(qx.shape(), qx.options());
        kernels::gemm<D>(dx.ptr<T>(), qdy.ptr<T>(), qw.ptr<T>(),
                         {.m = rows(), .n = in_features(), .k = out()});
        d.add(0, quantizers->input.gradient(dx, x, x_scale));
      }
      if (d.needs(1)) {
        const Tensor dw = Tensor::empty(qw.shape(), qw.options());
        kernels::gemm<D>(dw.ptr<T>(), qdy.ptr<T>(), qx.ptr<T>(),
                         {.m = out(), .n = in_features(), .k = rows(), .trans_a = true});
        d.add(1, quantizers->weight.gradient(dw, w, w_scale));
      }
      if (has_bias && d.needs(2)) {
        const Tensor db = Tensor::empty({out()}, dy.options());
        kernels::sum<D>(db.ptr<T>(), dy.ptr<T>(), 1, rows(), out());
        d.add(2, db);
      }
    });
  }

  int64_t out() const { return qw.size(0); }
  int64_t in_features() const { return qw.size(1); }
  int64_t rows() const { return qx.shape().product(0, qx.dim() - 1); }
};

}  // namespace

Tensor quantized_linear(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b,
                        LinearQuantizers& quantizers, bool training) {
  check_shapes(x, w, b);
  return apply<QuantizedLinearOp>(x, w, b, quantizers, training);
}

void check_quantize_options(const Format& format, const QuantizeOptions& options) {
  check_format("weight", format);
  if (options.input_format) check_format("input", *options.input_format);
  if (options.grad_format) check_format("grad_output", *options.grad_format);
  if (options.history_length < 1) {
    fail("QuantizedLinear: history_length ", options.history_length, ", must be at least 1");
  }
}

QuantizedLinear QuantizedLinear::from_linear(std::shared_ptr<nn::Linear> linear, const Format& format,
                                             const QuantizeOptions& options) {
  if (!linear) fail("QuantizedLinear: the Linear is null");
  if (!options.skip_patterns.empty()) fail("QuantizedLinear: skip_patterns are for quantize_model");
  check_quantize_options(format, options);
  const auto quantizer = [&](const std::optional<Format>& role_format) {
    return Quantizer{role_format,
                     AmaxHistory(options.history_length),
                     options.scaling,
                     {options.rounding, options.overflow, options.ste}};
  };
  return {std::move(linear),
          {quantizer(format), quantizer(options.input_format), quantizer(options.grad_format)}};
}

QuantizedLinear QuantizedLinear::from_linear(nn::Linear linear, const Format& format,
                                             const QuantizeOptions& options) {
  return from_linear(std::make_shared<nn::Linear>(std::move(linear)), format, options);
}

QuantizedLinear::QuantizedLinear(std::shared_ptr<nn::Linear> linear, LinearQuantizers quantizers)
    : linear_(std::move(linear)), quantizers_(std::move(quantizers)) {
  train(linear_->training());
}

QuantizedLinear::QuantizedLinear(const QuantizedLinear& other)
    : ModuleOf(other),
      linear_(std::make_shared<nn::Linear>(*other.linear_)),
      quantizers_(other.quantizers_) {}

Tensor QuantizedLinear::forward(const Tensor& x) {
  if (!linear_) fail("quantized_linear: the layer was moved from");
  return quantized_linear(x, weight(), bias(), quantizers_, training());
}

void QuantizedLinear::visit(nn::Visitor& v) {
  linear_->visit(v);
  quantizers_.weight.history.visit(v, "_weight_amax", "_weight_amax_counts");
  quantizers_.input.history.visit(v, "_input_amax", "_input_amax_counts");
  quantizers_.grad.history.visit(v, "_grad_amax", "_grad_amax_counts");
}

std::string QuantizedLinear::extra_repr() const {
  std::string text =
      concat("in_features=", linear_->in_features(), ", out_features=", linear_->out_features(),
             ", format=", format().name, ", quantize_input=", input_format() ? "true" : "false");
  if (input_format()) text += concat(", input_format=", input_format()->name);
  if (grad_format()) text += concat(", grad_format=", grad_format()->name);
  if (quantizers_.weight.scaling != Scaling::window) text += concat(", scaling=", quantizers_.weight.scaling);
  return text;
}

}  // namespace altgrad::fp8
