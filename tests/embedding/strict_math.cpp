// Linked against an altgrad whose parent compiles with -Ofast: it must round, see NaN and keep subnormals all the same.
#include <altgrad/altgrad.h>

#include <cmath>
#include <cstdio>
#include <limits>

using namespace altgrad;

namespace {

int failures = 0;
void check(bool ok, const char* what) {
  if (!ok) std::printf("FAILED: %s\n", what), ++failures;
}

template <class T>
void rounding(const fp8::Format& format, fp8::Rounding rounding) {
  const Tensor x = Tensor::randn({1000}, {dtype_of<T>});
  const Tensor y = fp8::quantize(x, format, 1.f, {.rounding = rounding});
  const fp8::Rounder<T> rounder(format, rounding);
  bool on_grid = true, nearest = true;
  for (int64_t i = 0; i < x.numel(); ++i) {
    const T v = y.data<T>()[size_t(i)];
    on_grid = on_grid && T(format.decode(format.encode(v))) == v;
    nearest = nearest && v == rounder(x.data<T>()[size_t(i)]);
  }
  check(on_grid, "quantize gives numbers of the format");
  check(nearest || rounding == fp8::Rounding::stochastic, "quantize gives what the Rounder gives");
}

template <class T>
void not_a_number() {
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const Tensor x = Tensor::from({T(1), nan, T(-2)}, {3});
  check(std::isnan(max(x).item<T>()), "max sees NaN");
  check(std::isnan(relu(x).data<T>()[1]), "relu keeps NaN");
  check(argmax(x).item<int64_t>() == 1, "argmax: NaN counts as largest");
  check(std::isnan(exp(x).data<T>()[1]) && std::isnan(tanh(x).data<T>()[1]), "exp and tanh keep NaN");
  check(std::isnan(fp8::amax(x)), "amax sees NaN");
  fp8::AmaxHistory history(4);
  history.update(x);
  check(history.non_finite() == 1 && history.size() == 0, "a history ignores an amax of NaN");
  try {
    Tape tape(TapeOptions{.detect_anomaly = true});
    log(Tensor::from({T(-1)}, {1}).requires_grad(true));
    check(false, "detect_anomaly finds NaN");
  } catch (const std::runtime_error&) {
  }
}

}  // namespace

int main() {
  using fp8::Rounding;
  for (const fp8::Format& format : {fp8::E4M3, fp8::E5M2, fp8::E3M4, fp8::E7M0, fp8::bf16}) {
    for (const Rounding r : {Rounding::nearest_even, Rounding::toward_zero, Rounding::stochastic}) {
      rounding<float>(format, r);
      rounding<double>(format, r);
    }
  }
  not_a_number<float>();
  not_a_number<double>();

  volatile float smallest = std::numeric_limits<float>::min();
  check(smallest / 2 != 0, "linking altgrad leaves the processor's treatment of subnormals alone");
  check((Tensor::from({float(smallest)}, {1}) * 0.5).item<float>() != 0, "a product may be subnormal");
  const Tensor ones = Tensor::full({1000}, 0.1f);
  check((ones / 3.0).data<float>()[0] == 0.1f / 3.0f, "a quotient is divided, not multiplied by 1 / 3");
  std::printf("%d failures\n", failures);
  return failures != 0;
}
