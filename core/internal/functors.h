// The elementwise functions: value and slope in one named functor, for the kernels of any device. A new
// elementwise op is a functor here with its name in the list below, one function in autograd/elementwise.cpp
// and one row in the gradient tests' table.
#pragma once

#include <altgrad/core/internal/math.h>

namespace altgrad {

// What backward needs, so that the tape keeps nothing else alive: what slope reads; or the slope itself, where it shares
// most of its work with the value and both are made at once.
enum class Saves { nothing, x, y, slope };

// slope(x, y): dy/dx, given x and y = value(x); only the one that `saves` names is valid. Functors that save the slope
// have both(x) instead.
#define AG_SLOPE(expression)                                        \
  template <class T>                                                \
  AG_HD T slope([[maybe_unused]] T x, [[maybe_unused]] T y) const { \
    return expression;                                              \
  }
#define AG_NAME(name_, saves_)               \
  static constexpr const char* name = name_; \
  static constexpr Saves saves = Saves::saves_;
#define AG_VALUE(expression) \
  template <class T>         \
  AG_HD T value(T x) const { \
    return expression;       \
  }

template <class T>
struct ValueAndSlope {
  T value, slope;
};

struct Neg {
  AG_NAME("neg", nothing)
  AG_VALUE(-x)
  AG_SLOPE(T(-1))
};
struct Abs {
  AG_NAME("abs", x)
  AG_VALUE(std::abs(x))
  AG_SLOPE(x > T(0) ? T(1) : x < T(0) ? T(-1) : x == T(0) ? T(0) : x)
};
struct Exp {
  AG_NAME("exp", y)
  AG_VALUE(math::exp(x))
  AG_SLOPE(y)
};
struct Log {
  AG_NAME("log", x)
  AG_VALUE(std::log(x))
  AG_SLOPE(T(1) / x)
};
struct Sqrt {
  AG_NAME("sqrt", y)
  AG_VALUE(std::sqrt(x))
  AG_SLOPE(T(0.5) / y)
};
struct Pow {
  AG_NAME("pow", x)
  double p;
  AG_VALUE(std::pow(x, T(p)))
  AG_SLOPE(p == 0 ? T(0) : T(p) * std::pow(x, T(p - 1)))
};
struct TanhFn {
  AG_NAME("tanh", y)
  AG_VALUE(math::tanh(x))
  AG_SLOPE(T(1) - y * y)
};
struct SigmoidFn {
  AG_NAME("sigmoid", y)
  AG_VALUE(math::sigmoid(x))
  AG_SLOPE(y*(T(1) - y))
};
struct Relu {
  AG_NAME("relu", y)
  AG_VALUE(x < T(0) ? T(0) : x)  // NaN stays
  AG_SLOPE(y > T(0) ? T(1) : T(0))
};
// x Phi(x); slope Phi(x) + x phi(x)
struct GeluErf {
  AG_NAME("gelu", slope)
  AG_VALUE(both(x).value)
  template <class T>
  AG_HD ValueAndSlope<T> both(T x) const {
    const T gauss = math::exp(x * x * T(-0.5)), cdf = math::normal_cdf(x, gauss);
    return {x * cdf, cdf + x * gauss * T(0.39894228040143267794)};
  }
};
// x (1 + tanh u) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
struct GeluTanh {
  AG_NAME("gelu", slope)
  AG_VALUE(both(x).value)
  template <class T>
  AG_HD ValueAndSlope<T> both(T x) const {
    constexpr T c = T(1.59576912160573071176), far = 30;  // from where on s is 0 or 1
    const T u = x > far ? far : x < -far ? -far : x, s = math::sigmoid(c * (u + T(0.044715) * u * u * u));
    return {x * s, s + u * s * (T(1) - s) * c * (T(1) + T(0.134145) * u * u)};
  }
};
struct Silu {
  AG_NAME("silu", slope)
  AG_VALUE(both(x).value)
  template <class T>
  AG_HD ValueAndSlope<T> both(T x) const {
    const T s = math::sigmoid(x);
    return {x * s, s + x * s * (T(1) - s)};
  }
};
struct Clamp {
  AG_NAME("clamp", x)
  double low, high;
  AG_VALUE(x<T(low) ? T(low) : x> T(high) ? T(high) : x)
  AG_SLOPE(x<T(low) || x> T(high) ? T(0) : T(1))
};
// Arithmetic with a number c, which is no tensor: x + c, x - c, c - x, x c, x / c, c / x.
struct AddNumber {
  AG_NAME("add", nothing)
  double c;
  AG_VALUE(x + T(c))
  AG_SLOPE(T(1))
};
struct SubNumber {
  AG_NAME("sub", nothing)
  double c;
  AG_VALUE(x - T(c))
  AG_SLOPE(T(1))
};
struct SubFromNumber {
  AG_NAME("sub", nothing)
  double c;
  AG_VALUE(T(c) - x)
  AG_SLOPE(T(-1))
};
struct MulNumber {
  AG_NAME("mul", nothing)
  double c;
  AG_VALUE(x* T(c))
  AG_SLOPE(T(c))
};
struct DivNumber {
  AG_NAME("div", nothing)
  double c;
  AG_VALUE(x / T(c))
  AG_SLOPE(T(1) / T(c))
};
struct DivOfNumber {
  AG_NAME("div", x)
  double c;
  AG_VALUE(T(c) / x)
  AG_SLOPE(-(T(c) / x) / x)
};
#undef AG_NAME
#undef AG_VALUE
#undef AG_SLOPE

#define AG_UNARY_FUNCTORS(X) \
  X(Neg) X(Abs) X(Exp) X(Log) X(Sqrt) X(Pow) X(TanhFn) X(SigmoidFn) X(Relu) X(Clamp)
#define AG_NUMBER_FUNCTORS(X) \
  X(AddNumber) X(SubNumber) X(SubFromNumber) X(MulNumber) X(DivNumber) X(DivOfNumber)
#define AG_UNARY_BOTH_FUNCTORS(X) X(GeluErf) X(GeluTanh) X(Silu)  // those that save the slope

// slope_a(a, b), slope_b(a, b): the two partial derivatives.
#define AG_BINARY(Name, name_, value_, slope_a_, slope_b_)              \
  struct Name {                                                         \
    static constexpr const char* name = name_;                          \
    template <class T>                                                  \
    AG_HD T value(T a, T b) const {                                     \
      return value_;                                                    \
    }                                                                   \
    template <class T>                                                  \
    AG_HD T slope_a([[maybe_unused]] T a, [[maybe_unused]] T b) const { \
      return slope_a_;                                                  \
    }                                                                   \
    template <class T>                                                  \
    AG_HD T slope_b([[maybe_unused]] T a, [[maybe_unused]] T b) const { \
      return slope_b_;                                                  \
    }                                                                   \
  };
AG_BINARY(Add, "add", a + b, T(1), T(1))
AG_BINARY(Sub, "sub", a - b, T(1), T(-1))
AG_BINARY(Mul, "mul", a* b, b, a)
AG_BINARY(Div, "div", a / b, T(1) / b, -(a / b) / b)  // b * b would leave the floats
// NaN in either is the result.
AG_BINARY(Maximum, "maximum", a > b || a != a ? a : b,
          a > b    ? T(1)
          : a == b ? T(0.5)
                   : T(0),
          b > a    ? T(1)
          : a == b ? T(0.5)
                   : T(0))
AG_BINARY(Minimum, "minimum", a < b || a != a ? a : b,
          a < b    ? T(1)
          : a == b ? T(0.5)
                   : T(0),
          b < a    ? T(1)
          : a == b ? T(0.5)
                   : T(0))
#undef AG_BINARY

#define AG_BINARY_FUNCTORS(X) X(Add) X(Sub) X(Mul) X(Div) X(Maximum) X(Minimum)

struct Greater {
  static constexpr const char* name = "greater";
  template <class T>
  AG_HD bool value(T a, T b) const {
    return a > b;
  }
};
struct Equal {
  static constexpr const char* name = "equal";
  template <class T>
  AG_HD bool value(T a, T b) const {
    return a == b;
  }
};
#define AG_COMPARE_FUNCTORS(X) X(Greater) X(Equal)

}  // namespace altgrad
