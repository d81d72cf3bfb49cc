// Rounding while the amax that decides the scale is not known yet. Reading a tensor twice, for its amax and to round
// it, would cost more than rounding does; so it is rounded with the scale that is to be expected while the amax is
// looked for, and a second time only where the scale has turned out to be another. The expected scale is the final
// one unless the amax exceeds all that are held.
#include <altgrad/fp8/quantizer.h>

#include <altgrad/autograd/op_writer.h>
#include <altgrad/fp8/internal/operand.h>
#include <altgrad/fp8/internal/scale.h>

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
  return detail::quantized(*this, x, record, partners, native_fp8);
}

QTensor detail::quantized(Quantizer& quantizer, const Tensor& x, bool record,
                          std::initializer_list<Partner> partners, bool native_fp8, const Tensor& sums) {
  const std::optional<Format>& format = quantizer.format;
  AmaxHistory& history = quantizer.history;
  const CastOptions& cast = quantizer.cast;
  check_activation("quantize", x);
  check_quantizer("quantize", format, quantizer.scaling, cast);
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
  QTensor q = empty_operand(x, *format, partners, native_fp8);
  std::optional<RandomStream> random;
  if (cast.rounding == Rounding::stochastic) random = rounding_generator().next();
  bool rounded = false;  // stays so where checkpoint() runs this again, with the scale that was made
  q.scale = replayed([&] {
    const ScaleRule rule{quantizer.scaling, float(std::min(format->max(), 0x1p127)), record};
    const Tensor scale = Tensor::empty({}, {DType::f32, x.device()});
    round_into(q, x, cast, random, scale, history.memory(record), rule, sums);
    rounded = true;
    return scale;
  });
  if (!rounded) round_into(q, x, cast, random, q.scale, sums);
  return q;
}

Tensor Quantizer::gradient(const Tensor& dy, const Tensor& x, const QTensor& q) const {
  check_defined("quantize", dy);
  return clips() ? detail::clipped_ste_grad(dy, x, *format, q.scale) : dy;
}

}  // namespace altgrad::fp8
