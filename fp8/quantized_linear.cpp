// The layer and its op. Backward uses the rounded operands of forward (they are what was multiplied), so the
// op keeps those, and the originals only where a clipped straight-through gradient has to look at them.
// Where both operands of a product are rounded and the machine multiplies bf16, the product runs on the codes.
#include <altgrad/fp8/quantized_linear.h>

#include <altgrad/autograd/common.h>
#include <altgrad/autograd/replay.h>
#include <altgrad/fp8/kernels.h>

namespace altgrad::fp8 {
namespace {

void check_format(const char* role, const Format& format) {
  format.validate();
  if (!format.has_sign) {
    fail("QuantizedLinear: the ", role, " format ", format.name, " has no sign and is for scales only");
  }
}

// Enumerations begin at 0.
template <class Enum>
void check_enum(const char* what, Enum value, Enum last) {
  if (value < Enum{} || value > last)
    fail("QuantizedLinear: ", what, " is ", int(value), ", no value of its type");
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

// A matrix (rows, columns) rounded to a format, in one of two forms: the values on x's own scale, in x's dtype; or
// those of the codes in bf16, to be multiplied by `scale` after a product, which is exact until then.
struct Rounded {
  Tensor values;
  float scale = 1;
  bool codes = false;
  int64_t rows = 0, columns = 0;

  // With the scale that the quantizer has for x: rounded at once where that is to be expected, while x's amax is looked
  // for, and again in case it turns out to be another.
  static Rounded of(const Tensor& x, Quantizer& quantizer, bool record, bool as_codes) {
    Rounded r{x, 1, as_codes, x.shape().product(0, x.dim() - 1), x.size(-1)};
    std::optional<RandomStream> random;
    if (quantizer.format) {
      const int64_t words = kernels::bf16_padded(r.rows) * kernels::bf16_padded(r.columns);
      r.values = as_codes ? Tensor::empty({words * int64_t(sizeof(uint16_t))}, {DType::u8, x.device()})
                          : Tensor::empty(x.shape(), x.options());
      if (quantizer.cast.rounding == Rounding::stochastic) random = rounding_generator().next();
    }
    const std::optional<float> expected = quantizer.expected_scale(record);
    float largest = expected ? r.round(x, quantizer, *expected, random) : kernels::unknown_amax;
    r.scale = altgrad::detail::replayed([&] {
      if (largest == kernels::unknown_amax && quantizer.needs_amax(record)) largest = amax(x);
      return quantizer.next_scale(largest, record);
    });
    if (quantizer.format && r.scale != expected) r.round(x, quantizer, r.scale, random, largest);
    return r;
  }

  // Gives the largest |x|, as the kernels do.
  float round(const Tensor& x, const Quantizer& quantizer, float by,
              const std::optional<RandomStream>& random, float largest = kernels::unknown_amax) const {
    return dispatch("quantized_linear", x, [&]<class D, class T>() {
      const Rounder<T> rounder(*quantizer.format, quantizer.cast.rounding, quantizer.cast.overflow);
      if constexpr (std::is_same_v<T, float>) {
        if (codes) {
          return kernels::quantize_bf16<D>(values.ptr<uint16_t>(), x.ptr<T>(), by, rounder, random, rows,
                                           columns, largest);
        }
      }
      return kernels::quantize<D>(values.ptr<T>(), x.ptr<T>(), T(by), rounder, random, x.numel(), largest);
    });
  }

  // The values on x's own scale, as `like`.
  Tensor on_scale(TensorOptions like) const {
    if (!codes) return values;
    const Tensor y = Tensor::empty({rows, columns}, like);
    dispatch_device(y.device(), [&]<class D>() {
      kernels::dequantize_bf16<D>(y.ptr<float>(), values.ptr<uint16_t>(), scale, rows, columns);
    });
    return y;
  }
};

// Are all products of two numbers of such formats, and sums of those, floats, with room to spare?
bool fits_codes(const std::optional<Format>& f) {
  return f && f->mantissa_bits <= 7 && f->max() <= 0x1p48 && f->min_subnormal() >= 0x1p-60;
}
// Can the product of tensors like x run on codes?
bool on_codes(const Tensor& x, const Quantizer& a, const Quantizer& b) {
  return x.dtype() == DType::f32 && fits_codes(a.format) && fits_codes(b.format) &&
         dispatch_device(x.device(), []<class D>() { return kernels::has_bf16<D>(); });
}

// c = op(a) op(b), and bias where there is one.
void product(const Tensor& c, const Rounded& a, const Rounded& b, kernels::Gemm g,
             const std::optional<Tensor>& bias = {}) {
  if (a.codes && b.codes) {
    g.alpha = double(a.scale) * b.scale;
    dispatch_device(c.device(), [&]<class D>() {
      kernels::gemm_bf16<D>(c.ptr<float>(), a.values.ptr<uint16_t>(), b.values.ptr<uint16_t>(),
                            altgrad::detail::ptr_or_null<float>(bias), g);
    });
    return;
  }
  const Tensor left = a.on_scale(c.options()), right = b.on_scale(c.options());
  dispatch("quantized_linear", c, [&]<class D, class T>() {
    if (g.trans_b && !g.trans_a) {
      kernels::linear<D>(c.ptr<T>(), left.ptr<T>(), right.ptr<T>(), altgrad::detail::ptr_or_null<T>(bias),
                         g.m, g.n, g.k);
    } else {
      kernels::gemm<D>(c.ptr<T>(), left.ptr<T>(), right.ptr<T>(), g);
    }
  });
}

// The names under which a layer's histories are saved.
struct SavedHistory {
  Quantizer LinearQuantizers::*role;
  const char *values, *counts;
};
constexpr SavedHistory saved_histories[] = {
    {&LinearQuantizers::weight, "_weight_amax", "_weight_amax_counts"},
    {&LinearQuantizers::input, "_input_amax", "_input_amax_counts"},
    {&LinearQuantizers::grad, "_grad_amax", "_grad_amax_counts"},
};

struct QuantizedLinearOp final : Op {
  static constexpr const char* name = "quantized_linear";
  Rounded qx, qw;
  Tensor x, w;  // only where the straight-through gradient needs them
  Shape x_shape;
  bool has_bias, training;
  std::optional<LinearQuantizers> quantizers;  // handles: the layer may be gone when backward runs

  // y (rows, out) = Q(x) (rows, in) Q(w)^T (in, out) + b
  Tensor forward(const Tensor& in, const Tensor& weight, const std::optional<Tensor>& b, LinearQuantizers& q,
                 bool in_training) {
    const bool codes = on_codes(in, q.input, q.weight);
    qx = Rounded::of(in, q.input, in_training, codes);
    qw = Rounded::of(weight, q.weight, in_training, codes);
    if (q.input.clips()) x = in;
    if (q.weight.clips()) w = weight;
    x_shape = in.shape();
    has_bias = b.has_value();
    training = in_training;
    quantizers = q;
    const Tensor y = Tensor::empty(in.shape().with(-1, qw.rows), in.options());
    product(y, qx, qw, {.m = qx.rows, .n = qw.rows, .k = qw.columns, .trans_b = true}, b);
    return y;
  }

  // dx = Q(dy) Q(w), dw = Q(dy)^T Q(x), db = sum over rows of dy
  void backward(const Tensor& dy, Grads& d) override {
    const int64_t rows = qx.rows, out = qw.rows, in = qw.columns;
    if (d.needs(0) || d.needs(1)) {
      Quantizer& grad = quantizers->grad;
      const Rounded qdy = Rounded::of(dy, grad, training && grad.format, qx.codes && fits_codes(grad.format));
      if (d.needs(0)) {
        const Tensor dx = Tensor::empty(x_shape, dy.options());
        product(dx, qdy, qw, {.m = rows, .n = in, .k = out});
        d.add(0, quantizers->input.gradient(dx, x, qx.scale));
      }
      if (d.needs(1)) {
        const Tensor dw = Tensor::empty({out, in}, dy.options());
        product(dw, qdy, qx, {.m = out, .n = in, .k = rows, .trans_a = true});
        d.add(1, quantizers->weight.gradient(dw, w, qw.scale));
      }
    }
    if (has_bias && d.needs(2)) d.add(2, altgrad::detail::sum_to(dy, {qw.rows}));
  }
};

}  // namespace

Tensor quantized_linear(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b,
                        LinearQuantizers& quantizers, bool training) {
  check_shapes(x, w, b);
  return apply<QuantizedLinearOp>(x, w, b, quantizers, training);
}

void check_quantize_options(const Format& format, const QuantizeOptions& options) {
  check_enum("scaling", options.scaling, Scaling::current);
  check_enum("rounding", options.rounding, Rounding::stochastic);
  check_enum("overflow", options.overflow, Overflow::saturate_all);
  check_enum("ste", options.ste, Ste::clipped);
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
      linear_(std::make_shared<nn::Linear>(other.linear())),
      quantizers_(other.quantizers_) {}

const std::shared_ptr<nn::Linear>& QuantizedLinear::linear_ptr() const {
  if (!linear_) fail("quantized_linear: the layer was moved from");
  return linear_;
}

void QuantizedLinear::reset_histories() {
  for (const SavedHistory& saved : saved_histories) (quantizers_.*saved.role).history.reset();
}

Tensor QuantizedLinear::forward(const Tensor& x) {
  return quantized_linear(x, weight(), bias(), quantizers_, training());
}

void QuantizedLinear::visit(nn::Visitor& v) {
  linear_ptr()->visit(v);
  for (const SavedHistory& saved : saved_histories)
    (quantizers_.*saved.role).history.visit(v, saved.values, saved.counts);
}

void QuantizedLinear::adapt_state(StateDict& part, const nn::LoadOptions& options) const {
  const bool other_weight = part.contains("weight");
  for (const SavedHistory& saved : saved_histories) {
    if (other_weight || part.contains(saved.values) || part.contains(saved.counts))
      (quantizers_.*saved.role).history.adapt_state(part, saved.values, saved.counts, options);
  }
}

std::string QuantizedLinear::extra_repr() const {
  std::string text =
      concat("in_features=", linear().in_features(), ", out_features=", linear().out_features(),
             ", format=", format().name, ", quantize_input=", input_format() ? "true" : "false");
  if (input_format()) text += concat(", input_format=", input_format()->name);
  if (grad_format()) text += concat(", grad_format=", grad_format()->name);
  if (quantizers_.weight.scaling != Scaling::window) text += concat(", scaling=", quantizers_.weight.scaling);
  return text;
}

}  // namespace altgrad::fp8
