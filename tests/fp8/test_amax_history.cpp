// Histories of amaxes and the scale made from them: sequences worked out by hand, and the inputs that break
// amax / max.
#include "catch.h"
#include "reference.h"

#include <altgrad/fp8/internal/scale.h>
#include <altgrad/fp8/quantizer.h>

#include <cmath>
#include <limits>
#include <random>

using namespace altgrad;
using namespace altgrad::fp8;

namespace {
constexpr float infinity = std::numeric_limits<float>::infinity();
const float nan_value = std::nanf("");
}  // namespace

TEST_CASE("an amax history holds the largest of its last `length` amaxes", "[fp8]") {
  AmaxHistory h(3, device());
  REQUIRE(h.length() == 3);
  REQUIRE(h.size() == 0);
  REQUIRE(h.amax() == 0);
  const float given[] = {5, 1, 2, 3, 0.5f, 0.25f, 0.125f};
  const float largest[] = {5, 5, 5, 3, 3, 3, 0.5f};
  for (int i = 0; i < 7; ++i) {
    h.update(given[i]);
    REQUIRE(h.amax() == largest[i]);
    REQUIRE(h.size() == std::min(i + 1, 3));
    REQUIRE(h.recorded() == i + 1);
  }
  h.reset();
  REQUIRE(h.size() == 0);
  REQUIRE(h.amax() == 0);
  REQUIRE(h.recorded() == 0);
}

TEST_CASE("an amax history of length 1 holds the last amax", "[fp8]") {
  AmaxHistory h(1, device());
  h.update(7.0f);
  h.update(2.0f);
  REQUIRE(h.amax() == 2);
  REQUIRE(h.size() == 1);
}

TEST_CASE("an amax history records the amax of tensors", "[fp8]") {
  AmaxHistory h(4, device());
  h.update(here::from({1.f, -3.f, 2.f}, {3}));
  REQUIRE(h.amax() == 3);
  h.update(here::from({-8.0, 0.0}, {2}));
  REQUIRE(h.amax() == 8);
  REQUIRE_THROWS_AS(h.update(here::zeros({2}, {.dtype = DType::i64})), std::invalid_argument);
  REQUIRE(h.size() == 2);
}

TEST_CASE("a tensor without elements has no amax, and a history of zeros says nothing of what follows",
          "[fp8]") {
  AmaxHistory h(2, device());
  h.update(here::ones({1}));
  h.update(here::ones({0, 2}));
  CHECK(h.recorded() == 1);
  for (const Scaling scaling : {Scaling::window, Scaling::delayed, Scaling::current}) {
    CAPTURE(scaling);
    Quantizer q{E4M3, AmaxHistory(2, device()), scaling, {}};
    const Tensor x = here::from({448.f * 4}, {1});
    for (int step = 0; step < 3; ++step) {
      q.apply(x, true);
      q.apply(here::ones({0, 2}), true);
    }
    CHECK(q.history.recorded() == 3);
    CHECK(q.apply(x, false).dequantize().item<float>() == 448.f * 4);

    Quantizer started{E4M3, AmaxHistory(2, device()), scaling, {}};
    started.apply(here::zeros({1}), true);
    for (const bool record : {false, true}) {
      CHECK(started.apply(here::from({0x1p-20f}, {1}), record).dequantize().item<float>() == 0x1p-20f);
    }
  }
}

TEST_CASE("an f64 amax is rounded up to a float, so that no scale from it clips", "[fp8]") {
  const double x = 1 + 1e-12;
  REQUIRE(double(amax(here::from({x}, {1}))) >= x);
  REQUIRE(amax(here::from({x}, {1})) == std::nextafter(1.0f, 2.0f));
  REQUIRE(amax(here::from({1.0}, {1})) == 1.0f);
}

TEST_CASE("an amax history ignores and counts amaxes that are not finite", "[fp8]") {
  AmaxHistory h(2, device());
  h.update(3.0f);
  h.update(infinity);
  h.update(nan_value);
  h.update(here::from({1.f, nan_value}, {2}));
  h.update(here::from({1e300}, {1}));  // not finite as a float
  REQUIRE(h.amax() == 3);
  REQUIRE(h.size() == 1);
  REQUIRE(h.non_finite() == 4);
  h.reset();
  REQUIRE(h.non_finite() == 0);
}

TEST_CASE("an amax history refuses a length below 1 and a negative amax", "[fp8]") {
  REQUIRE_THROWS_AS(AmaxHistory(0, device()), std::invalid_argument);
  REQUIRE_THROWS_AS(AmaxHistory(-1), std::invalid_argument);
  AmaxHistory h(2, device());
  REQUIRE_THROWS_AS(h.update(-1.0f), std::invalid_argument);
  REQUIRE_THROWS_AS(h.update(-infinity), std::invalid_argument);
  REQUIRE(h.size() == 0);
  REQUIRE(h.non_finite() == 0);
}

TEST_CASE("compute_scale is amax / max", "[fp8]") {
  REQUIRE(compute_scale(448, E4M3) == 1);
  REQUIRE(compute_scale(224, E4M3) == 0.5f);
  REQUIRE(compute_scale(57344, E5M2) == 1);
  REQUIRE(compute_scale(6, float4_e2m1fn) == 1);
  REQUIRE(compute_scale(3, E4M3) == Approx(3.0 / 448).epsilon(2e-7));
  REQUIRE(compute_scale(0, E4M3) == 1);
}

TEST_CASE("no value up to amax is beyond max after division by its scale", "[fp8]") {
  for (const Format& f : formats()) {
    const float top = float(std::min(f.max(), 0x1p127));
    for (float a = 1; a < 4; a += 0.00137f) {
      for (float factor : {1.0f, 1e-20f, 1e20f}) {
        const float scale = compute_scale(a * factor, f);
        INFO(f.name << " " << a * factor);
        REQUIRE(a * factor / scale <= top);
        if (scale > 2 * std::numeric_limits<float>::min()) REQUIRE(a * factor / scale >= top * (1 - 3e-7f));
      }
    }
  }
}

TEST_CASE("compute_scale is a positive normal float for every amax a float can hold", "[fp8]") {
  const float limits[] = {
      std::numeric_limits<float>::denorm_min(), 1e-40f, std::numeric_limits<float>::min(), 1e-30f, 1, 1e30f,
      std::numeric_limits<float>::max()};
  for (const Format& f : formats()) {
    for (float a : limits) {
      INFO(f.name << " " << a);
      const float scale = compute_scale(a, f);
      REQUIRE(std::isnormal(scale));
      REQUIRE(scale > 0);
      REQUIRE(std::isfinite(a / scale));
    }
  }
}

TEST_CASE("compute_scale refuses an amax that is negative or not finite", "[fp8]") {
  for (float bad : {-1.0f, -infinity, infinity, nan_value}) {
    REQUIRE_THROWS_AS(compute_scale(bad, E4M3), std::invalid_argument);
  }
}

namespace {

// The scale with which a tensor of this amax is rounded.
float scale_for(Quantizer& q, float amax, bool record) {
  const Tensor scale = q.apply(here::full({1, 1}, amax), record).scale;
  return scale.defined() ? scale.item<float>() : 1;
}

// The amaxes behind the scales of a sequence of steps on tensors with these amaxes; E2M1 with its max 6.
std::vector<float> amaxes_used(Quantizer& q, std::vector<float> amaxes, bool record) {
  std::vector<float> used;
  for (float a : amaxes) used.push_back(scale_for(q, a, record) * 6);
  return used;
}
Quantizer quantizer(Scaling scaling, int64_t length) {
  return {float4_e2m1fn, AmaxHistory(length, device()), scaling, {}};
}

}  // namespace

TEST_CASE("window scaling uses the history with this step in it", "[fp8]") {
  Quantizer q = quantizer(Scaling::window, 3);
  REQUIRE(amaxes_used(q, {3, 6, 1.5f, 1.5f, 0.75f, 24}, true) == std::vector<float>{3, 6, 6, 6, 1.5f, 24});
  REQUIRE(q.history.clipped() == 0);
  REQUIRE(amaxes_used(q, {96}, false) == std::vector<float>{24});
}

TEST_CASE("delayed scaling uses the history before this step and counts the steps that clipped", "[fp8]") {
  Quantizer q = quantizer(Scaling::delayed, 2);
  REQUIRE(amaxes_used(q, {3, 6, 1.5f, 0.75f, 0.375f, 24}, true) ==
          std::vector<float>{3, 3, 6, 6, 1.5f, 0.75f});
  REQUIRE(q.history.clipped() == 2);
  REQUIRE(amaxes_used(q, {96}, false) == std::vector<float>{24});
  REQUIRE(q.history.clipped() == 2);
}

TEST_CASE("current scaling uses this tensor alone and records all the same", "[fp8]") {
  Quantizer q = quantizer(Scaling::current, 2);
  REQUIRE(amaxes_used(q, {3, 6, 1.5f}, true) == std::vector<float>{3, 6, 1.5f});
  REQUIRE(q.history.recorded() == 3);
  REQUIRE(q.history.amax() == 6);
  REQUIRE(amaxes_used(q, {96, 0.375f}, false) == std::vector<float>{96, 0.375f});
  REQUIRE(q.history.recorded() == 3);
}

TEST_CASE("with an empty history every scaling uses the tensor's own amax and, unrecorded, leaves it empty",
          "[fp8]") {
  for (Scaling scaling : {Scaling::window, Scaling::delayed, Scaling::current}) {
    Quantizer q = quantizer(scaling, 2);
    REQUIRE(amaxes_used(q, {3, 12}, false) == std::vector<float>{3, 12});
    REQUIRE(q.history.size() == 0);
  }
}

TEST_CASE("an amax that is not finite is counted and the history's stands in for it", "[fp8]") {
  for (Scaling scaling : {Scaling::window, Scaling::delayed, Scaling::current}) {
    Quantizer q = quantizer(scaling, 4);
    REQUIRE(scale_for(q, nan_value, true) == 1);  // nothing held yet
    REQUIRE(amaxes_used(q, {3, infinity, 3}, true) == std::vector<float>{3, 3, 3});
    REQUIRE(q.history.non_finite() == 2);
    REQUIRE(q.history.size() == 2);
    REQUIRE(q.history.clipped() == 0);
  }
}

TEST_CASE("what is no amax is only counted in f64 too, where it is found or predicted", "[fp8]") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    for (const Scaling scaling : {Scaling::window, Scaling::delayed, Scaling::current}) {
      Quantizer q = quantizer(scaling, 4);
      for (const double amax : {6.0, 3.0, 1e300, 1e300, double(infinity), std::nan(""), 1.5}) {
        q.apply(here::full({1, 1}, amax, {DType::f64}).to(dtype), true);
        REQUIRE(q.history.amax() == 6);
      }
      CAPTURE(dtype, scaling);
      REQUIRE(q.history.recorded() == 3);
      REQUIRE(q.history.non_finite() == 4);
    }
  }
}

TEST_CASE("without a format a quantizer only records", "[fp8]") {
  Quantizer q{{}, AmaxHistory(2, device()), Scaling::window, {}};
  REQUIRE(scale_for(q, 2, true) == 1);
  REQUIRE(q.history.amax() == 2);
  scale_for(q, 2, false);
  REQUIRE(q.history.recorded() == 1);
}

TEST_CASE("a predicted scale is the one that follows, unless an amax exceeds the history's", "[fp8]") {
  std::mt19937 random(3);
  for (Scaling scaling : {Scaling::window, Scaling::delayed, Scaling::current}) {
    int predicted = 0, met = 0;
    for (int64_t length : {1, 2, 3, 16}) {
      Quantizer q{float4_e2m1fn, AmaxHistory(length), scaling, {}};  // read by the host
      for (int step = 0; step < 200; ++step) {
        const bool record = random() % 4 != 0;
        const float amax = random() % 20 == 0 ? nan_value : float(1 + random() % 1000);
        const fp8::detail::ScaleRule rule{scaling, float(q.format->max()), record};
        const fp8::detail::History history = q.history.memory();
        const fp8::detail::Held held = fp8::detail::held_by(history);
        const float before = fp8::detail::predicted_scale(history, held, rule);
        const float scale = fp8::detail::update_scale(history, held, amax, rule);
        predicted += !std::isnan(before);
        met += before == scale;
        if (!std::isnan(before) &&
            before != scale) {  // then only because this amax is larger than all that are held
          REQUIRE(scaling == Scaling::window);
          REQUIRE(record);
          REQUIRE(scale == compute_scale(amax, *q.format));
          REQUIRE(scale > before);
        }
      }
    }
    CAPTURE(scaling, predicted, met);
    REQUIRE((scaling == Scaling::current ? predicted == 0 : predicted > 300));
    REQUIRE((scaling == Scaling::delayed ? met == predicted : met >= predicted * 3 / 4));
  }
}

TEST_CASE("window scaling predicts from what one more update leaves, where the newest amax is below it",
          "[fp8]") {
  AmaxHistory h(3);  // read by the host
  const fp8::detail::ScaleRule rule{Scaling::window, 6, true};
  // The amax behind the prediction, 0 where there is none.
  const auto predicted = [&] {
    const fp8::detail::History history = h.memory();
    const float scale = fp8::detail::predicted_scale(history, fp8::detail::held_by(history), rule);
    return std::isnan(scale) ? 0 : scale * 6;
  };
  const auto after = [&](float amax) {
    h.update(amax);
    return predicted();
  };
  REQUIRE(predicted() == 0);
  REQUIRE(after(6) == 0);      // 6: the newest is the largest
  REQUIRE(after(3) == 6);      // 6 3
  REQUIRE(after(3) == 0);      // 6 3 3: 6 goes next, and the newest is the largest of the others
  REQUIRE(after(12) == 0);     // 3 3 12
  REQUIRE(after(1.5f) == 12);  // 3 12 1.5
  REQUIRE(after(3) == 0);      // 12 1.5 3: 12 goes next
  REQUIRE(after(0.75f) == 3);  // 1.5 3 0.75
}

TEST_CASE("what is rounded while its amax is looked for is what is rounded with the final scale",
          "[fp8][codes]") {
  const Tensor x = reference::randn({37, 65}, 1, DType::f32);
  for (const Scaling scaling : {Scaling::window, Scaling::delayed, Scaling::current}) {
    for (const Rounding rounding : {Rounding::nearest_even, Rounding::stochastic}) {
      for (const DType dtype : {DType::f32, DType::f64}) {
        Quantizer q{E4M3, AmaxHistory(3, device()), scaling, {.rounding = rounding}};
        for (const double size : {1.0, 0.5, 4.0, 0.1, 0.1, 0.1, 0.1, 2.0}) {
          const Tensor in = (x * size).to(dtype);
          manual_seed(4);
          const QTensor got = q.apply(in, true, {E4M3});
          manual_seed(4);
          const Tensor expected = quantize(in, E4M3, got.scale.item<float>(), {.rounding = rounding});
          CAPTURE(scaling, int(rounding), dtype, size);
          REQUIRE(same_bits(got.dequantize(), expected));
        }
      }
    }
  }
}

TEST_CASE("products of operands refuse what does not fit", "[fp8][codes]") {
  const auto operand = [](const Shape& shape, DType dtype) {
    Quantizer q{E4M3, AmaxHistory(1, device()), Scaling::current, {}};
    return q.apply(reference::randn(shape, 1, dtype), false, {E4M3});
  };
  const QTensor x = operand({3, 32}, DType::f32), w = operand({4, 32}, DType::f32),
                wide = operand({4, 32}, DType::f64);
  REQUIRE(matmul(x, w.t(), here::zeros({4})).shape() == Shape{3, 4});
  for (const Tensor& bias : {here::zeros({1}), here::zeros({4}, {DType::f64}), Tensor()})
    REQUIRE_THROWS_WITH(matmul(x, w.t(), bias), ContainsSubstring("bias"));
  REQUIRE_THROWS_WITH(matmul(x, w), ContainsSubstring("do not match"));
  REQUIRE_THROWS_WITH(matmul(x.t(), x, here::zeros({32})), ContainsSubstring("bias needs"));
  REQUIRE_THROWS_AS(matmul(x, wide.t()), std::invalid_argument);

  // In bf16 by hand, whether this CPU multiplies it or not.
  const QTensor ones{here::ones({5, 7}).to(DType::bf16), here::full({}, 0.5), E4M3};
  const Tensor y = matmul(ones, ones.t());
  for (const float v : values<float>(y)) REQUIRE(v == 7 * 0.25f);

  Quantizer clipped{E4M3, AmaxHistory(1, device()), Scaling::current, {.ste = Ste::clipped}};
  const Tensor in = reference::randn({2, 3}, 1, DType::f32);
  const QTensor q = clipped.apply(in, false);
  REQUIRE_THROWS_AS(clipped.gradient(here::ones({1}), in, q), std::invalid_argument);
  REQUIRE_THROWS_AS(clipped.gradient(here::ones({2, 3}, {DType::f64}), in, q), std::invalid_argument);
}
