// Rounding while the amax that decides the scale is not known yet. Reading a tensor twice, for its amax and to round
// it, would cost more than rounding does; so it is rounded with the scale that is to be expected while the amax is
// looked for, and a second time only where the scale has turned out to be another. The expected scale is the final
// one unless the amax exceeds all that are held.
#include <altgrad/fp8/quantizer.h>

#include <altgrad/autograd/op_writer.h>
#include <altgrad/fp8/internal/kernels.h>
#include <altgrad/fp8/internal/operand.h>

#include <algorithm>
#include <ostream>

namespace altgrad::fp8 {

std::ostream& operator<<(std::ostream& out, Scaling scaling) {
  return out << (scaling == Scaling::window ? "window" : scaling == Scaling::delayed ? "delayed" : "current");
}

void detail::check_quantizer(const char* op, const std::optional<Format>& format, Scaling scaling,
                             const CastOptions& cast) {
  check_cast(op, cast);
  if (unsigned(scaling) > unsigned(Scaling::current))
    fail(op, ": scaling is ", int(scaling), ", none of Scaling");
  if (!format) return;
  format->validate();
  if (!format->has_sign) fail(op, ": the format ", format->name, " has no sign and is for scales only");
}

QTensor Quantizer::apply(const Tensor& x, bool record, std::initializer_list<Partner> partners,
                         bool native_fp8) {
  check_activation("quantize", x);
  detail::check_quantizer("quantize", format, scaling, cast);
  record = record && x.numel() > 0;  // no elements have no amax
  if (x.device() != history.device())
    fail("quantize: x is on ", x.device(), ", the amax history on ", history.device());
  if (!format) {
    replayed([&] {
      if (record) history.update(x);
      return Tensor();
    });
    return {x, {}, {}};
  }
  QTensor q = detail::empty_operand(x, *format, partners, native_fp8);
  const TensorOptions number{DType::f32, x.device()};
  const Tensor amax = Tensor::empty({}, number), expected = Tensor::empty({}, number);
  const float* rounded_with = nullptr;  // stays so where checkpoint() runs this again
  std::optional<RandomStream> random;
  if (cast.rounding == Rounding::stochastic) random = rounding_generator().next();
  q.scale = replayed([&] {
    const detail::ScaleRule rule{scaling, float(std::min(format->max(), 0x1p127)), record};
    const Tensor next = Tensor::empty({}, number);
    dispatch_device(x.device(), [&](const auto& device) {
      kernels::predict_scale(device, expected.ptr<float>(), amax.ptr<float>(), history.memory(), rule);
      detail::round_into(q, x, cast, random, expected, amax.ptr<float>());
      kernels::update_scale(device, next.ptr<float>(), history.memory(), amax.ptr<float>(), rule);
    });
    rounded_with = expected.ptr<float>();
    return next;
  });
  detail::round_into(q, x, cast, random, q.scale, nullptr, rounded_with);
  return q;
}

Tensor Quantizer::gradient(const Tensor& dy, const Tensor& x, const QTensor& q) const {
  check_defined("quantize", dy);
  return clips() ? detail::clipped_ste_grad(dy, x, *format, q.scale) : dy;
}

}  // namespace altgrad::fp8
