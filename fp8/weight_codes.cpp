// Codes are kept only where they give back what rounding has given, which is looked at once, when they are made.
#include <altgrad/fp8/internal/weight_codes.h>

#include <altgrad/autograd/internal/common.h>
#include <altgrad/autograd/ops.h>
#include <altgrad/autograd/tape.h>
#include <altgrad/core/dispatch.h>
#include <altgrad/core/internal/coded.h>
#include <altgrad/core/internal/kernels/gemm.h>
#include <altgrad/fp8/internal/kernels.h>

#include <cmath>

namespace altgrad::fp8::detail {
namespace {

kernels::CodedWeight coded(const WeightCodes& w) {
  return {w.panels.ptr<uint8_t>(),
          w.scale.ptr<float>(),
          23 - w.format.mantissa_bits,
          std::ldexp(1.0f, 127 - w.format.bias),
          w.rows,
          w.columns};
}

}  // namespace

Tensor decoded(const WeightCodes& w) {
  const Tensor y = Tensor::empty({w.rows, w.columns}, {DType::f32, w.panels.device()});
  dispatch_device(y.device(), [&](const auto& device) { kernels::decode(device, y.ptr<float>(), coded(w)); });
  return y;
}

std::optional<WeightCodes> weight_codes(const Tensor& w, Quantizer& quantizer) {
  const std::optional<Format>& format = quantizer.format;
  if (!format || format->bits() > 8 || !format->has_subnormals || w.dtype() != DType::f32 || w.numel() == 0 ||
      quantizer.cast.rounding == Rounding::stochastic)
    return {};
  const QTensor rounded = quantizer.apply(w, /*record=*/false);
  const int64_t n = w.size(0), k = w.size(1), panels = (n + coded_panel - 1) / coded_panel;
  const TensorOptions bytes{DType::u8, w.device()};
  WeightCodes result{Tensor::empty({panels * coded_panel, k}, bytes), rounded.scale, *format, n, k};
  const float factor = rounded.scale.item<float>() * coded(result).unit;
  if (!std::isnormal(factor)) return {};
  dispatch_device(w.device(), [&](const auto& device) {
    const Tensor codes = Tensor::empty(w.shape(), bytes);
    const kernels::ElementRounder<float> rounding{
        Rounder<float>(*format, quantizer.cast.rounding, quantizer.cast.overflow), {}};
    kernels::encode(device, codes.ptr<uint8_t>(), w.ptr<float>(), rounded.scale.ptr<float>(), rounding,
                    w.numel());
    kernels::pack_codes(device, result.panels.ptr<uint8_t>(), codes.ptr<uint8_t>(), format->sign_code(), n,
                        k);
  });
  const NoGrad off;
  const bool same = max(abs(decoded(result) - rounded.values)).item<float>() == 0;
  return same ? std::optional(std::move(result)) : std::nullopt;
}

Tensor coded_linear(const char* op, const Tensor& x, const WeightCodes& w, const std::optional<Tensor>& b,
                    Quantizer& input) {
  check_activation(op, x);
  if (x.dtype() == DType::f64 || x.device() != w.panels.device())
    fail(op, ": x is of ", x.dtype(), " on ", x.device(), ", for a weight in codes of f32 on ",
         w.panels.device());
  if (x.dim() == 0 || x.size(-1) != w.columns)
    fail(op, ": x ", x.shape(), " does not match weight ", Shape{w.rows, w.columns}, ": in_features must be ",
         w.columns);
  const NoGrad off;
  const Tensor in = input.apply(x, /*record=*/false).dequantize().to(DType::f32);
  const Tensor y = Tensor::empty(x.shape().with(-1, w.rows), in.options());
  const int64_t rows = x.shape().product(0, x.dim() - 1);
  if (rows > kernels::coded_rows) {
    launch(op, AG_KERNEL(kernels::linear), y, in, decoded(w), in_compute(b), rows, w.rows, w.columns);
  } else if (rows > 0) {
    dispatch_device(x.device(), [&](const auto& device) {
      kernels::coded_linear(device, y.ptr<float>(), in.ptr<float>(), coded(w), b ? b->ptr<float>() : nullptr,
                            rows);
    });
  }
  return y.to(x.dtype());
}

std::shared_ptr<const WeightCodes> KeptCodes::of(const Tensor& w, Quantizer& quantizer) {
  const std::lock_guard lock(mutex_);
  const uint64_t weight = altgrad::detail::contents_of(w), history = quantizer.history.contents();
  if (weight != weight_ || history != history_) {
    codes_ = nullptr;
    if (auto made = weight_codes(w, quantizer))
      codes_ = std::make_shared<const WeightCodes>(std::move(*made));
    weight_ = weight, history_ = history;
  }
  return codes_;
}

void KeptCodes::drop() {
  const std::lock_guard lock(mutex_);
  codes_ = nullptr;
  weight_ = 0;
}

}  // namespace altgrad::fp8::detail
