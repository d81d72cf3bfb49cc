// The elementwise functions, each with its derivative in one named functor, for the kernels of any device. A new
// elementwise op is a functor here with its name in a list below, one function in autograd/elementwise.cpp, declared in
// ops.h, and one row in the gradient tests' table. Constants that are no integers take the argument's
// type, so that a float stays one.
#pragma once

#include <altgrad/core/dtype.h>
#include <altgrad/core/internal/math.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <type_traits>

namespace altgrad {

// What the derivative is computed from, so that the tape keeps nothing else alive: the input x, the result y, or
// nothing; or the derivative itself, where it shares most of its work with the value and both are made at once, by
// value_and_derivative(x), with derivative(x) for where x is kept all the same (autograd/elementwise.cpp).
enum class Saved { nothing, x, y, derivative };

// An op's name as a template argument.
template <size_t size>
struct OpName {
  char text[size];
  constexpr OpName(const char (&name)[size]) { std::copy_n(name, size, text); }
};
// What a functor says of itself.
template <OpName op>
struct Named {
  static constexpr const char* name = op.text;
};
template <OpName op, Saved saved>
struct Elementwise : Named<op> {
  static constexpr Saved saved_for_backward = saved;
};
// The same for functions of a tensor and a number c, which is no tensor.
template <OpName op, Saved saved>
struct WithNumber {
  static constexpr const char* name = op.text;
  static constexpr Saved saved_for_backward = saved;
  double c;
};

template <class T>
struct ValueAndDerivative {
  T value, derivative;
};

struct Neg : Elementwise<"neg", Saved::nothing> {
  AG_HD auto value(auto x) const { return -x; }
  AG_HD auto derivative(auto) const { return -1; }
};
struct Abs : Elementwise<"abs", Saved::x> {
  AG_HD auto value(auto x) const { return std::abs(x); }
  AG_HD auto derivative(auto x) const { return x > 0 ? 1 : x < 0 ? -1 : x == 0 ? 0 : x; }  // NaN stays
};
struct Exp : Elementwise<"exp", Saved::y> {
  AG_HD auto value(auto x) const { return math::exp(x); }
  AG_HD auto derivative(auto y) const { return y; }
};
struct Log : Elementwise<"log", Saved::x> {
  AG_HD auto value(auto x) const { return std::log(x); }
  AG_HD auto derivative(auto x) const { return 1 / x; }
};
struct Sqrt : Elementwise<"sqrt", Saved::y> {
  AG_HD auto value(auto x) const { return std::sqrt(x); }
  AG_HD auto derivative(auto y) const { return decltype(y)(0.5) / y; }
};
struct Pow : WithNumber<"pow", Saved::x> {
  AG_HD auto value(auto x) const { return std::pow(x, decltype(x)(c)); }
  template <class T>
  AG_HD T derivative(T x) const {
    return c == 0 ? T(0) : T(c) * std::pow(x, T(c - 1));
  }
};
struct TanhFn : Elementwise<"tanh", Saved::y> {
  AG_HD auto value(auto x) const { return math::tanh(x); }
  AG_HD auto derivative(auto y) const { return 1 - y * y; }
};
struct SigmoidFn : Elementwise<"sigmoid", Saved::y> {
  AG_HD auto value(auto x) const { return math::sigmoid(x); }
  AG_HD auto derivative(auto y) const { return y * (1 - y); }
};
struct Relu : Elementwise<"relu", Saved::y> {
  AG_HD auto value(auto x) const { return x < 0 ? 0 : x; }  // NaN stays
  AG_HD auto derivative(auto y) const { return y > 0 ? decltype(y)(1) : 0; }
};
// x Phi(x), with derivative Phi(x) + x phi(x)
struct GeluErf : Elementwise<"gelu", Saved::derivative> {
  AG_HD auto value(auto x) const { return value_and_derivative(x).value; }
  AG_HD auto derivative(auto x) const { return value_and_derivative(x).derivative; }
  template <class T>
  AG_HD ValueAndDerivative<T> value_and_derivative(T x) const {
    const T gauss = math::exp_bounded(x * x * T(-0.5)), cdf = math::normal_cdf(x, gauss);
    return {x * cdf, cdf + x * gauss * T(0.39894228040143267794)};
  }
};
// x (1 + tanh u) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
struct GeluTanh : Elementwise<"gelu", Saved::derivative> {
  AG_HD auto value(auto x) const { return value_and_derivative(x).value; }
  AG_HD auto derivative(auto x) const { return value_and_derivative(x).derivative; }
  template <class T>
  AG_HD ValueAndDerivative<T> value_and_derivative(T x) const {
    constexpr T c = T(1.59576912160573071176), far = 30;  // from where on s is 0 or 1
    const T u = x > far ? far : x < -far ? -far : x, s = math::sigmoid(c * (u + T(0.044715) * u * u * u));
    return {x * s, s + u * s * (T(1) - s) * c * (T(1) + T(0.134145) * u * u)};
  }
};
struct Silu : Elementwise<"silu", Saved::derivative> {
  AG_HD auto value(auto x) const { return value_and_derivative(x).value; }
  AG_HD auto derivative(auto x) const { return value_and_derivative(x).derivative; }
  template <class T>
  AG_HD ValueAndDerivative<T> value_and_derivative(T x) const {
    const T s = math::sigmoid(x);
    return {x * s, s + x * s * (T(1) - s)};
  }
};
struct Clamp : Elementwise<"clamp", Saved::x> {
  double low, high;
  template <class T>
  AG_HD T value(T x) const {
    return x < T(low) ? T(low) : x > T(high) ? T(high) : x;
  }
  template <class T>
  AG_HD T derivative(T x) const {
    return x < T(low) || x > T(high) ? T(0) : T(1);
  }
};
// Arithmetic with a number: x + c, x - c, c - x, x c, x / c, c / x.
struct AddNumber : WithNumber<"add", Saved::nothing> {
  AG_HD auto value(auto x) const { return x + decltype(x)(c); }
  AG_HD auto derivative(auto) const { return 1; }
};
struct SubNumber : WithNumber<"sub", Saved::nothing> {
  AG_HD auto value(auto x) const { return x - decltype(x)(c); }
  AG_HD auto derivative(auto) const { return 1; }
};
struct SubFromNumber : WithNumber<"sub", Saved::nothing> {
  AG_HD auto value(auto x) const { return decltype(x)(c) - x; }
  AG_HD auto derivative(auto) const { return -1; }
};
struct MulNumber : WithNumber<"mul", Saved::nothing> {
  AG_HD auto value(auto x) const { return x * decltype(x)(c); }
  AG_HD auto derivative(auto x) const { return decltype(x)(c); }
};
struct DivNumber : WithNumber<"div", Saved::nothing> {
  AG_HD auto value(auto x) const { return x / decltype(x)(c); }
  AG_HD auto derivative(auto x) const { return 1 / decltype(x)(c); }
};
struct DivOfNumber : WithNumber<"div", Saved::x> {
  AG_HD auto value(auto x) const { return decltype(x)(c) / x; }
  AG_HD auto derivative(auto x) const { return -(decltype(x)(c) / x) / x; }
};
#define AG_UNARY_FUNCTORS(X) \
  X(Neg) X(Abs) X(Exp) X(Log) X(Sqrt) X(Pow) X(TanhFn) X(SigmoidFn) X(Relu) X(Clamp)
#define AG_NUMBER_FUNCTORS(X) \
  X(AddNumber) X(SubNumber) X(SubFromNumber) X(MulNumber) X(DivNumber) X(DivOfNumber)
#define AG_VALUE_AND_DERIVATIVE_FUNCTORS(X) X(GeluErf) X(GeluTanh) X(Silu)

// Functions of two numbers have two partial derivatives. Those of Add and Sub are constants, which need no kernel.
struct Add : Named<"add"> {
  AG_HD auto value(auto a, auto b) const { return a + b; }
};
struct Sub : Named<"sub"> {
  AG_HD auto value(auto a, auto b) const { return a - b; }
};
struct Mul : Named<"mul"> {
  AG_HD auto value(auto a, auto b) const { return a * b; }
  AG_HD auto derivative_a(auto, auto b) const { return b; }
  AG_HD auto derivative_b(auto a, auto) const { return a; }
};
struct Div : Named<"div"> {
  AG_HD auto value(auto a, auto b) const { return a / b; }
  AG_HD auto derivative_a(auto, auto b) const { return 1 / b; }
  AG_HD auto derivative_b(auto a, auto b) const { return -(a / b) / b; }  // b * b would leave the floats
};
// Where a or b is NaN, that is the result.
struct Maximum : Named<"maximum"> {
  AG_HD auto value(auto a, auto b) const { return a > b || a != a ? a : b; }
  AG_HD auto derivative_a(auto a, auto b) const { return a > b ? 1 : a == b ? decltype(a)(0.5) : 0; }
  AG_HD auto derivative_b(auto a, auto b) const { return derivative_a(b, a); }
};
struct Minimum : Named<"minimum"> {
  AG_HD auto value(auto a, auto b) const { return a < b || a != a ? a : b; }
  AG_HD auto derivative_a(auto a, auto b) const { return Maximum().derivative_a(b, a); }
  AG_HD auto derivative_b(auto a, auto b) const { return Maximum().derivative_a(a, b); }
};
#define AG_BINARY_FUNCTORS(X) X(Add) X(Sub) AG_BINARY_DERIVATIVE_FUNCTORS(X)
#define AG_BINARY_DERIVATIVE_FUNCTORS(X) X(Mul) X(Div) X(Maximum) X(Minimum)

struct Greater : Named<"greater"> {
  AG_HD bool value(auto a, auto b) const { return a > b; }
};
struct Equal : Named<"equal"> {
  AG_HD bool value(auto a, auto b) const { return a == b; }
};
#define AG_COMPARE_FUNCTORS(X) X(Greater) X(Equal)

// x as a To; where that is an integer it saturates, and NaN is 0.
template <class To, class From>
AG_HD To converted(From x) {
  if constexpr (!std::is_integral_v<From> && std::is_integral_v<To>) {
    constexpr To low = std::numeric_limits<To>::min(), high = std::numeric_limits<To>::max();
    return fits<To>(x) ? To(x) : x < 0 ? low : x > 0 ? high : To(0);
  } else {
    return To(x);
  }
}

}  // namespace altgrad
