// Elementwise ops of one tensor, arithmetic with numbers among them: one op for every functor, which says by
// `saved_for_backward` what its derivative is computed from. Where value and derivative share most of their work, the
// CPU, whose time goes into arithmetic, makes both at once and keeps the derivative; a GPU, whose time goes into
// memory, keeps x, which is there, and works twice.
#include <altgrad/autograd/op_writer.h>
#include <altgrad/autograd/ops.h>
#include <altgrad/core/internal/functors.h>
#include <altgrad/core/internal/kernels/elementwise.h>

namespace altgrad {
namespace {

template <class F>
struct Unary final : Op {
  static constexpr const char* name = F::name;
  F f;
  Tensor saved;  // what F::saved_for_backward says, but that a GPU saves x in place of the derivative

  Tensor forward(const Tensor& x, F functor) {
    f = functor;
    Tensor y = Tensor::empty(x.shape(), x.options());
    if constexpr (F::saved_for_backward == Saved::derivative) {
      if (recorded && saves_derivative(x)) {
        saved = Tensor::empty(x.shape(), x.options());
        launch(name, AG_KERNEL(kernels::unary_with_derivative), f, y, saved, x, x.numel());
        return y;
      }
    }
    launch(name, AG_KERNEL(kernels::unary), f, y, x, x.numel());
    if (F::saved_for_backward == Saved::x || F::saved_for_backward == Saved::derivative) saved = x;
    if (F::saved_for_backward == Saved::y) saved = y;
    return y;
  }

  // dx = dy * the derivative
  void backward(const Tensor& dy, Grads& d) override {
    if constexpr (std::is_same_v<F, AddNumber> || std::is_same_v<F, SubNumber>) {
      d.add(0, dy);
    } else if (saves_derivative(dy)) {
      d.add(0, dy * saved);
    } else {
      Tensor dx = Tensor::empty(dy.shape(), dy.options());
      launch(name, AG_KERNEL(kernels::unary_grad), f, dx, dy, saved, dy.numel());
      d.add(0, dx);
    }
  }

  static bool saves_derivative(const Tensor& x) {
    return F::saved_for_backward == Saved::derivative && x.device().is_cpu();
  }
};

template <class F>
Tensor unary(const Tensor& x, F f = {}) {
  check_activation(F::name, x);
  return apply<Unary<F>>(x, f);
}

}  // namespace

Tensor operator+(const Tensor& x, double c) { return unary(x, AddNumber{c}); }
Tensor operator-(const Tensor& x, double c) { return unary(x, SubNumber{c}); }
Tensor operator*(const Tensor& x, double c) { return unary(x, MulNumber{c}); }
Tensor operator/(const Tensor& x, double c) { return unary(x, DivNumber{c}); }
Tensor operator+(double c, const Tensor& x) { return unary(x, AddNumber{c}); }
Tensor operator-(double c, const Tensor& x) { return unary(x, SubFromNumber{c}); }
Tensor operator*(double c, const Tensor& x) { return unary(x, MulNumber{c}); }
Tensor operator/(double c, const Tensor& x) { return unary(x, DivOfNumber{c}); }

Tensor neg(const Tensor& x) { return unary<Neg>(x); }
Tensor abs(const Tensor& x) { return unary<Abs>(x); }
Tensor exp(const Tensor& x) { return unary<Exp>(x); }
Tensor log(const Tensor& x) { return unary<Log>(x); }
Tensor sqrt(const Tensor& x) { return unary<Sqrt>(x); }
Tensor pow(const Tensor& x, double exponent) { return unary(x, Pow{exponent}); }
Tensor tanh(const Tensor& x) { return unary<TanhFn>(x); }
Tensor sigmoid(const Tensor& x) { return unary<SigmoidFn>(x); }
Tensor relu(const Tensor& x) { return unary<Relu>(x); }
Tensor gelu(const Tensor& x, Gelu form) {
  if (form != Gelu::erf && form != Gelu::tanh) fail("gelu: form ", int(form), " is none of Gelu");
  return form == Gelu::erf ? unary<GeluErf>(x) : unary<GeluTanh>(x);
}
Tensor silu(const Tensor& x) { return unary<Silu>(x); }

Tensor clamp(const Tensor& x, double low, double high) {
  if (!(low <= high)) fail("clamp: low ", low, " is not below high ", high, " for x ", x.shape());
  return unary(x, Clamp{{}, low, high});
}

}  // namespace altgrad
