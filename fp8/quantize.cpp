// Argument checks, the op with its straight-through gradient, and the calls of the kernels. Codes are decoded
// through a table, since a byte has 256 values.
#include <altgrad/fp8/quantize.h>

#include <altgrad/autograd/common.h>
#include <altgrad/fp8/kernels.h>

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

// An enum may hold what is none of its names.
void check(const char* op, const CastOptions& options) {
  if (unsigned(options.rounding) > unsigned(Rounding::stochastic))
    fail(op, ": rounding is ", int(options.rounding), ", none of Rounding");
  if (unsigned(options.overflow) > unsigned(Overflow::saturate_all))
    fail(op, ": overflow is ", int(options.overflow), ", none of Overflow");
  if (unsigned(options.ste) > unsigned(Ste::clipped))
    fail(op, ": ste is ", int(options.ste), ", none of Ste");
}

void check_codes_fit(const char* op, const Format& format) {
  if (format.bits() > 8)
    fail(op, ": codes of ", format.name, " have ", format.bits(), " bits and do not fit a byte");
}

std::optional<RandomStream> draw(Rounding rounding) {
  if (rounding != Rounding::stochastic) return {};
  return rounding_generator().next();
}

struct Quantize final : Op {
  static constexpr const char* name = "quantize";
  Tensor x;  // where the gradient is clipped
  Format format;
  float scale;

  Tensor forward(const Tensor& in, const Format& to, float by, CastOptions options) {
    Tensor y = Tensor::empty(in.shape(), in.options());
    dispatch(name, in, [&]<class D, class T>() {
      kernels::quantize<D>(y.ptr<T>(), in.ptr<T>(), T(by), Rounder<T>(to, options.rounding, options.overflow),
                           draw(options.rounding), in.numel());
    });
    if (options.ste == Ste::clipped) x = in;
    format = to;
    scale = by;
    return y;
  }
  // dx = dy; clipped: 0 where |x / scale| > max
  void backward(const Tensor& dy, Grads& d) override {
    d.add(0, x.defined() ? zero_saturated(dy, x, format, scale) : dy);
  }
};

}  // namespace

Tensor quantize(const Tensor& x, const Format& format, float scale, CastOptions options) {
  altgrad::detail::check_floating("quantize", x);
  check("quantize", format, scale);
  check("quantize", options);
  return apply<Quantize>(x, format, scale, options);
}

Tensor encode(const Tensor& x, const Format& format, float scale, CastOptions options) {
  check("encode", format, scale);
  check("encode", options);
  check_codes_fit("encode", format);
  Tensor codes = Tensor::empty(x.shape(), {DType::u8, x.device()});
  dispatch("encode", x, [&]<class D, class T>() {
    if (!format.has_nan() && kernels::has_nan<D>(x.ptr<T>(), x.numel())) {
      fail("encode: x ", x.shape(), " holds a NaN, and ", format.name, " has no code for it");
    }
    kernels::encode<D>(codes.ptr<uint8_t>(), x.ptr<T>(), T(scale),
                       Rounder<T>(format, options.rounding, options.overflow), draw(options.rounding),
                       x.numel());
  });
  return codes;
}

Tensor decode(const Tensor& codes, const Format& format, float scale) {
  if (codes.dtype() != DType::u8)
    fail("decode: codes must be u8, got ", codes.dtype(), " of shape ", codes.shape());
  check("decode", format, scale);
  check_codes_fit("decode", format);
  Tensor y = Tensor::empty(codes.shape(), {DType::f32, codes.device()});
  dispatch_device(codes.device(), [&]<class D>() {
    std::array<float, 256> table;
    table.fill(std::numeric_limits<float>::quiet_NaN());
    for (uint32_t code = 0; code < format.num_codes(); ++code)
      table[code] = float(format.decode(code)) * scale;
    kernels::decode<D>(y.ptr<float>(), codes.ptr<uint8_t>(), table.data(), codes.numel());
  });
  return y;
}

Tensor zero_saturated(const Tensor& dy, const Tensor& x, const Format& format, float scale) {
  altgrad::detail::check_same_kind("zero_saturated", dy, x);
  if (dy.shape() != x.shape()) fail("zero_saturated: dy ", dy.shape(), " does not match x ", x.shape());
  check("zero_saturated", format, scale);
  Tensor dx = Tensor::empty(x.shape(), x.options());
  dispatch("zero_saturated", x, [&]<class D, class T>() {
    const T max = T(std::min<double>(format.max(), std::numeric_limits<T>::max()));
    kernels::zero_saturated<D>(dx.ptr<T>(), dy.ptr<T>(), x.ptr<T>(), T(scale), max, x.numel());
  });
  return dx;
}

}  // namespace altgrad::fp8
