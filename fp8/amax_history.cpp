// The ring of amaxes and the scale rule, whose corner cases (0, subnormal, huge, a quotient rounded up past
// max) are those that break a plain amax / max.
#include <altgrad/fp8/amax_history.h>

#include <altgrad/core/kernels.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace altgrad::fp8 {

namespace {
enum Count { recorded_count, non_finite_count, clipped_count, num_counts };
constexpr float infinity = std::numeric_limits<float>::infinity();
}  // namespace

AmaxHistory::AmaxHistory(int64_t length) {
  if (length < 1) fail("AmaxHistory: length ", length, ", must be at least 1");
  values_ = Tensor::zeros({length});
  counts_ = Tensor::zeros({num_counts}, {.dtype = DType::i64});
}

void AmaxHistory::update(float amax) {
  if (amax < 0) fail("AmaxHistory: amax ", amax, " is negative");
  const auto counts = counts_.data<int64_t>();
  if (!std::isfinite(amax)) {
    ++counts[non_finite_count];
  } else {
    values_.data<float>()[uint64_t(counts[recorded_count]++) % uint64_t(length())] = amax;
  }
}

void AmaxHistory::update(const Tensor& x) { update(fp8::amax(x)); }

void AmaxHistory::count_clipped() { ++counts_.data<int64_t>()[clipped_count]; }

void AmaxHistory::reset() {
  values_.fill_(0);
  counts_.fill_(0);
}

float AmaxHistory::amax() const {
  const auto held = values_.data<float>().first(size());
  return held.empty() ? 0 : *std::max_element(held.begin(), held.end());
}

std::optional<float> AmaxHistory::settled_amax() const {
  const auto values = values_.data<float>();
  const int64_t held = size(), newest = recorded() - 1;
  float largest = 0;
  for (int64_t i = recorded() - held + (held == length()); i < newest; ++i)
    largest = std::max(largest, values[uint64_t(i) % uint64_t(length())]);
  if (held == 0 || values[uint64_t(newest) % uint64_t(length())] >= largest) return {};
  return largest;
}

int64_t AmaxHistory::size() const { return std::clamp<int64_t>(recorded(), 0, length()); }
int64_t AmaxHistory::recorded() const { return counts_.data<int64_t>()[recorded_count]; }
int64_t AmaxHistory::non_finite() const { return counts_.data<int64_t>()[non_finite_count]; }
int64_t AmaxHistory::clipped() const { return counts_.data<int64_t>()[clipped_count]; }

void AmaxHistory::visit(nn::Visitor& v, std::string_view values_name, std::string_view counts_name) {
  v.buffer(values_name, values_);
  v.buffer(counts_name, counts_);
}

float amax(const Tensor& x) {
  return dispatch("amax", x, [&]<class D, class T>() {
    const T exact = kernels::amax<D>(x.ptr<T>(), x.numel());
    const float rounded = float(exact);
    return T(rounded) < exact ? std::nextafter(rounded, infinity) : rounded;
  });
}

float compute_scale(float amax, const Format& format) {
  if (!(amax >= 0 && amax < infinity)) fail("compute_scale: amax ", amax, " must be finite and not negative");
  if (amax == 0) return 1;
  const float max = float(std::min(format.max(), 0x1p127));
  float scale = amax / max;
  if (amax / scale > max) scale = std::nextafter(scale, infinity);
  return std::clamp(scale, std::numeric_limits<float>::min(), std::numeric_limits<float>::max());
}

}  // namespace altgrad::fp8
