// Attention by tiles against plain loops in f64 over the same numbers. Each result's tolerance is made of what is
// rounded on the way to it. In bfloat16, by u = 2^-8 at most, the weights p, their gradients ds, and the result; in f32
// u = 2^-22, which is what exp is off by; in tf32 u = 2^-10, as both operands of a product are off by 2^-11. Sums of n
// terms in f32, whose products tensor cores may cut instead of round, by n 2^-23 of the sum of magnitudes; and scores
// so rounded change p by as much as they change themselves.
#include "attention.h"

#include <altgrad/core/cuda/runtime.h>

#include <cmath>

using namespace altgrad;

namespace {

// What a result should be, and by how much it may be off.
struct Expected {
  std::vector<double> value, tolerance;
  explicit Expected(size_t n) : value(n), tolerance(n) {}
  void add(size_t i, double x, double off) { value[i] += x, tolerance[i] += off; }
  void round(double u) {
    for (size_t i = 0; i < value.size(); ++i)
      tolerance[i] = (tolerance[i] + u * std::abs(value[i])) * (1 + 0x1p-6);  // roundings of roundings
  }
};

// The largest of all |results - expected| / tolerance.
double worst(const std::vector<double>& found, const Expected& expected) {
  double most = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    const double off = std::abs(found[i] - expected.value[i]);
    most = std::max(most, off <= expected.tolerance[i] ? off / (expected.tolerance[i] + 1e-300) : INFINITY);
  }
  return most;
}

// Of the results themselves y is taken for what it is in sum(dy * y).
void check(const Tensor& qkv, const Tensor& dy, const AttentionSizes& s, const AttentionResults& results,
           bool in_tf32 = false) {
  const std::vector<double> x = values(qkv), g = values(dy), rounded_y = values(results.y);
  const int64_t C = s.channels(), T = s.length;
  const double of_tf32 = in_tf32 ? 0x1p-10 : 0, of_f32 = 0x1p-23;
  const double u = qkv.dtype() == DType::bf16 ? 0x1p-8 : std::max(of_tf32, 0x1p-22),
               scale = 1 / std::sqrt(double(s.size));
  Expected y(g.size()), dqkv(x.size()), lse(size_t(s.batch * s.heads * T));
  for (int64_t pair = 0; pair < s.batch * s.heads; ++pair) {
    const int64_t b = pair / s.heads, first = pair % s.heads * s.size;
    const auto packed = [&](int part, int64_t t, int64_t c) {
      return size_t((b * T + t) * 3 * C + part * C + first + c);
    };
    const auto at = [&](int64_t t, int64_t c) { return size_t((b * T + t) * C + first + c); };
    for (int64_t i = 0; i < T; ++i) {
      std::vector<double> p(size_t(i + 1), 0.0);
      double off = 0, top = -INFINITY, total = 0;  // of a score, and so of p relative to it
      for (int64_t j = 0; j <= i; ++j) {
        double magnitude = 0;
        for (int64_t c = 0; c < s.size; ++c) {
          const double term = scale * x[packed(0, i, c)] * x[packed(1, j, c)];
          p[size_t(j)] += term, magnitude += std::abs(term);
        }
        off = std::max(off, (double(s.size + 4) * of_f32 + of_tf32) * magnitude);
        top = std::max(top, p[size_t(j)]);
      }
      for (double& score : p) total += score = std::exp(score - top);
      off = 3 * (off + double(T + 8) * of_f32);  // with its row's sum and the sum's logarithm
      lse.add(size_t(pair * T + i), top + std::log(total), off * (1 + std::abs(top)));
      double delta = 0, of_delta = 0;
      for (int64_t c = 0; c < s.size; ++c) {
        delta += g[at(i, c)] * rounded_y[at(i, c)];
        of_delta += std::abs(g[at(i, c)] * rounded_y[at(i, c)]);
      }
      for (int64_t j = 0; j <= i; ++j) {
        const double weight = p[size_t(j)] / total;
        double dp = 0, of_dp = 0;
        for (int64_t c = 0; c < s.size; ++c) {
          const double v = x[packed(2, j, c)], d = g[at(i, c)];
          dp += d * v, of_dp += std::abs(d * v);
          y.add(at(i, c), weight * v, weight * std::abs(v) * (u + off));
          dqkv.add(packed(2, j, c), weight * d, weight * std::abs(d) * (u + off));
        }
        const double ds = scale * weight * (dp - delta),
                     of_ds = std::abs(ds) * (u + off) +
                             scale * weight * (of_dp + of_delta) * double(s.size + 4) * of_f32 +
                             scale * weight * of_dp * of_tf32;
        for (int64_t c = 0; c < s.size; ++c) {
          const double q = x[packed(0, i, c)], k = x[packed(1, j, c)];
          dqkv.add(packed(0, i, c), ds * k, of_ds * std::abs(k));
          dqkv.add(packed(1, j, c), ds * q, of_ds * std::abs(q));
        }
      }
    }
  }
  y.round(u);
  dqkv.round(u);
  CHECK(worst(rounded_y, y) < 1);
  CHECK(worst(values(results.dqkv), dqkv) < 1);
  std::vector<double> sums = values(results.lse);
  for (size_t i = 0; i < lse.value.size(); ++i) sums[i] = sums[2 * i] + sums[2 * i + 1];
  sums.resize(lse.value.size());
  CHECK(worst(sums, lse) < 1);
}

}  // namespace

TEST_CASE("attention by tiles agrees with f64, up to what is rounded", "[backend]") {
  for (const DType dtype : {DType::bf16, DType::f32}) {
    for (const int64_t size : {32, 48, 64, 96, 128}) {
      for (const int64_t length : {1, 15, 64, 65, 130}) {
        const AttentionSizes s = {length < 64 ? 2 : 1, length, length < 130 ? 3 : 1, size};
        CAPTURE(dtype == DType::f32, size, length);
        const Tensor qkv = randn_as(dtype, {s.batch, s.length, 3 * s.channels()}, 1),
                     dy = randn_as(dtype, {s.batch, s.length, s.channels()}, 2);
        check(qkv, dy, s, run_attention(qkv, dy, s));
      }
    }
  }
}

TEST_CASE("heads that tiles do not suit, or do not fill, are attended to as well", "[backend]") {
  for (const DType dtype : {DType::bf16, DType::f32}) {
    for (const int64_t size : {1, 4, 20, 22, 100, 136}) {
      const AttentionSizes s = {2, 33, 2, size};
      CAPTURE(dtype == DType::f32, size);
      const Tensor qkv = randn_as(dtype, {s.batch, s.length, 3 * s.channels()}, 1),
                   dy = randn_as(dtype, {s.batch, s.length, s.channels()}, 2);
      check(qkv, dy, s, run_attention(qkv, dy, s));
    }
  }
}

TEST_CASE("attention of floats is in tf32 where f32 is not asked for, and tiles have room", "[backend]") {
  struct Precision {
    explicit Precision(MatmulPrecision precision) { set_matmul_precision(precision); }
    ~Precision() { set_matmul_precision(MatmulPrecision::f32); }
  };
  const int sm = cuda::compute_capability(device().index);
  const bool little_room =
      sm == 86 || sm == 89 || sm / 10 == 12;  // shared memory of a multiprocessor: 100 KB
  for (const int64_t size : {20, 64, 96, 128}) {
    for (const int64_t length : {1, 64, 130}) {
      const AttentionSizes s = {1, length, 2, size};
      CAPTURE(size, length);
      const Tensor qkv = randn_as(DType::f32, {s.batch, s.length, 3 * s.channels()}, 1),
                   dy = randn_as(DType::f32, {s.batch, s.length, s.channels()}, 2);
      const AttentionResults exact = run_attention(qkv, dy, s);
      const Precision precision(length == 64 ? MatmulPrecision::bf16 : MatmulPrecision::tf32);
      const AttentionResults results = run_attention(qkv, dy, s);
      check(qkv, dy, s, results, true);
      if (size > 20 && little_room) continue;
      CHECK(!same_bits(results.y, exact.y));
      CHECK(!same_bits(results.dqkv, exact.dqkv));
    }
  }
}

namespace {

template <class T>
void check_nans(DType dtype) {
  const AttentionSizes s = {1, 130, 2, 32};
  const int64_t at = 70, C = s.channels();
  const Tensor qkv = randn_as(dtype, {s.batch, s.length, 3 * C}, 1),
               dy = randn_as(dtype, {s.batch, s.length, C}, 2), y = run_attention(qkv, dy, s).y;
  const std::vector<T> before = values<T>(y);
  for (const bool of_key : {false, true}) {
    CAPTURE(of_key);
    std::vector<T> changed = values<T>(qkv);
    changed[size_t(at * 3 * C + of_key * C + 5)] = T(NAN);  // of the first head
    const AttentionResults results = run_attention(here::from(changed, qkv.shape()), dy, s);
    const std::vector<T> found = values<T>(results.y);
    int64_t wrong = 0;
    for (int64_t i = 0; i < s.length * C; ++i) {
      const int64_t row = i / C;
      const bool hit = i % C < s.size && (of_key ? row >= at : row == at);
      const float was = float(before[size_t(i)]), is = float(found[size_t(i)]);
      wrong += hit ? !std::isnan(is) : is != was;
    }
    CHECK(wrong == 0);
    const std::vector<T> grads = values<T>(results.dqkv);
    for (int64_t row = 0; row < at; ++row) CHECK(std::isfinite(float(grads[size_t(row * 3 * C)])));
    CHECK(std::isnan(float(grads[size_t(at * 3 * C)])));
  }
}

}  // namespace

TEST_CASE("NaN in a query stays in its row, and in a key in the rows from it on", "[backend]") {
  check_nans<bfloat16>(DType::bf16);
  check_nans<float>(DType::f32);
}
