// Argument checks, the op with its straight-through gradient, and the calls of the kernels. Codes are decoded
// through a table, since a byte has 256 values.
#include <altgrad/fp8/quantize.h>

#include <altgrad/autograd/internal/common.h>
#include <altgrad/fp8/internal/kernels.h>
#include <altgrad/fp8/internal/operand.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace altgrad::fp8 {
namespace {

void check(const char* op, const Format& format, float scale) {
  format.validate();
  const DefaultFloatEnvironment environment;  // flushed, a subnormal scale would be 0
  if (!(scale > 0 && std::isfinite(scale))) fail(op, ": scale ", scale, " must be positive and finite");
}

void check_codes_fit(const char* op, const Format& format) {
  if (format.bits() > 8)
    fail(op, ": codes of ", format.name, " have ", format.bits(), " bits and do not fit a byte");
}

std::optional<RandomStream> draw(Rounding rounding) {
  if (rounding != Rounding::stochastic) return {};
  return rounding_generator().next();
}

Tensor scale_on(Device device, float scale) {
  const DefaultFloatEnvironment environment;  // flushed, a subnormal scale would become 0 on its way
  return Tensor::full({}, scale, {DType::f32, device});
}

struct Quantize final : Op {
  static constexpr const char* name = "quantize";
  Tensor x;  // where the gradient is clipped
  Tensor scale;
  Format format;

  Tensor forward(const Tensor& in, const Format& to, float in_scale, CastOptions options) {
    const Tensor y = Tensor::empty(in.shape(), in.options());
    scale = scale_on(in.device(), in_scale);
    detail::round_into({y, {}, to}, in, options, draw(options.rounding), scale);
    if (options.ste == Ste::clipped) x = in;
    format = to;
    return y;
  }
  // dx = dy; clipped: 0 where |x / scale| > max
  void backward(const Tensor& dy, Grads& d) override {
    d.add(0, x.defined() ? detail::clipped_ste_grad(dy, x, format, scale) : dy);
  }
};

}  // namespace

// An enum may hold what is none of its names.
void detail::check_cast(const char* op, const CastOptions& options) {
  if (unsigned(options.rounding) > unsigned(Rounding::stochastic))
    fail(op, ": rounding is ", int(options.rounding), ", none of Rounding");
  if (unsigned(options.overflow) > unsigned(Overflow::saturate_all))
    fail(op, ": overflow is ", int(options.overflow), ", none of Overflow");
  if (unsigned(options.ste) > unsigned(Ste::clipped))
    fail(op, ": ste is ", int(options.ste), ", none of Ste");
}

Tensor quantize(const Tensor& x, const Format& format, float scale, CastOptions options) {
  check_floating("quantize", x);
  check("quantize", format, scale);
  detail::check_cast("quantize", options);
  return apply<Quantize>(x, format, scale, options);
}

Tensor encode(const Tensor& x, const Format& format, float scale, CastOptions options) {
  check_floating("encode", x);
  check("encode", format, scale);
  detail::check_cast("encode", options);
  check_codes_fit("encode", format);
  if (!format.has_nan() && altgrad::detail::has_nan("encode", x))
    fail("encode: x ", x.shape(), " holds a NaN, and ", format.name, " has no code for it");
  const Tensor codes = Tensor::empty(x.shape(), {DType::u8, x.device()}),
               divisor = scale_on(x.device(), scale);
  dispatch("encode", x, [&]<class T>(const auto& device) {
    const kernels::ElementRounder<T> rounding{Rounder<T>(format, options.rounding, options.overflow),
                                              draw(options.rounding)};
    kernels::encode(device, codes.ptr<uint8_t>(), x.ptr<T>(), divisor.ptr<float>(), rounding, x.numel());
  });
  return codes;
}

Tensor decode(const Tensor& codes, const Format& format, float scale) {
  if (codes.dtype() != DType::u8)
    fail("decode: codes must be u8, got ", codes.dtype(), " of shape ", codes.shape());
  check("decode", format, scale);
  check_codes_fit("decode", format);
  Tensor y = Tensor::empty(codes.shape(), {DType::f32, codes.device()});
  dispatch_device(codes.device(), [&](const auto& device) {
    kernels::decode(device, y.ptr<float>(), codes.ptr<uint8_t>(), detail::decoded_codes(format, scale),
                    codes.numel());
  });
  return y;
}

std::array<float, 256> detail::decoded_codes(const Format& format, float scale) {
  std::array<float, 256> table;
  table.fill(std::numeric_limits<float>::quiet_NaN());
  for (uint32_t code = 0; code < format.num_codes(); ++code) table[code] = float(format.decode(code)) * scale;
  return table;
}

Tensor detail::clipped_ste_grad(const Tensor& dy, const Tensor& x, const Format& format,
                                const Tensor& scale) {
  check_same_kind("clipped_ste_grad", dy, x);
  if (dy.shape() != x.shape()) fail("clipped_ste_grad: dy ", dy.shape(), " does not match x ", x.shape());
  const Tensor dx = Tensor::empty(x.shape(), x.options());
  dispatch_activation("clipped_ste_grad", x, [&]<class T>(const auto& device) {
    using C = Compute<T>;
    const C max = C(std::min<double>(format.max(), std::numeric_limits<C>::max()));
    kernels::clipped_ste_grad(device, dx.ptr<T>(), dy.ptr<T>(), x.ptr<T>(), scale.ptr<float>(), max,
                              x.numel());
  });
  return dx;
}

}  // namespace altgrad::fp8
