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

// Can these be the two tensors of a history? They are on the CPU.
bool is_history(const Tensor& values, const Tensor& counts) {
  if (!values.defined() || values.dtype() != DType::f32 || values.dim() != 1 || values.numel() == 0)
    return false;
  if (!counts.defined() || counts.dtype() != DType::i64 || counts.shape() != Shape{num_counts}) return false;
  const auto amaxes = values.data<float>();
  const auto numbers = counts.data<int64_t>();
  const auto held = std::min(amaxes.size(), size_t(std::max<int64_t>(numbers[recorded_count], 0)));
  return std::ranges::all_of(numbers, [](int64_t n) { return n >= 0 && n <= int64_t(1) << 62; }) &&
         std::ranges::all_of(amaxes.first(held), [](float a) { return a >= 0 && a < infinity; });
}
}  // namespace

AmaxHistory::AmaxHistory(int64_t length) {
  if (length < 1) fail("AmaxHistory: length ", length, ", must be at least 1");
  values_ = Tensor::zeros({length});
  counts_ = Tensor::zeros({num_counts}, {.dtype = DType::i64});
}

void AmaxHistory::update(float amax) {
  const DefaultFloatEnvironment environment;
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
  const DefaultFloatEnvironment environment;
  const auto held = values_.data<float>().first(size());
  return held.empty() ? 0 : *std::max_element(held.begin(), held.end());
}

std::optional<float> AmaxHistory::settled_amax() const {
  const DefaultFloatEnvironment environment;
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

void AmaxHistory::adapt_state(StateDict& state, const std::string& values_name,
                              const std::string& counts_name, const nn::LoadOptions& options) const {
  const auto host = [](const Tensor& t) {
    if (!t.defined()) return t;
    return (is_floating(t.dtype()) ? t.to(DType::f32) : t).to(Device::cpu());
  };
  const bool saved = state.contains(values_name) && state.contains(counts_name);
  const Tensor values = saved ? host(state[values_name]) : Tensor(),
               counts = saved ? host(state[counts_name]) : Tensor();
  const bool usable = saved && is_history(values, counts);
  if (saved && !usable && options.strict) {
    fail("AmaxHistory: \"", values_name, "\" and \"", counts_name,
         "\" are no history of amaxes and its counts");
  }
  if (usable && values.numel() == length()) return;

  const Tensor adapted = Tensor::zeros({length()});
  if (usable) {
    const auto from = values.data<float>(), to = adapted.data<float>();
    const int64_t end = counts.data<int64_t>()[recorded_count];
    for (int64_t n = std::max<int64_t>(0, end - std::min(values.numel(), length())); n < end; ++n)
      to[uint64_t(n) % to.size()] = from[uint64_t(n) % from.size()];
  }
  state[values_name] = adapted;
  state[counts_name] = usable ? counts : Tensor::zeros({num_counts}, {.dtype = DType::i64});
}

float amax(const Tensor& x) {
  return dispatch("amax", x, [&]<class D, class T>() {
    const T exact = kernels::amax<D>(x.ptr<T>(), x.numel());
    const float rounded = float(exact);
    return T(rounded) < exact ? std::nextafter(rounded, infinity) : rounded;
  });
}

float compute_scale(float amax, const Format& format) {
  const DefaultFloatEnvironment environment;  // where subnormals count as 0, an amax would
  if (!(amax >= 0 && amax < infinity)) fail("compute_scale: amax ", amax, " must be finite and not negative");
  if (amax == 0) return 1;
  const float max = float(std::min(format.max(), 0x1p127));
  float scale = amax / max;
  if (amax / scale > max) scale = std::nextafter(scale, infinity);
  return std::clamp(scale, std::numeric_limits<float>::min(), std::numeric_limits<float>::max());
}

}  // namespace altgrad::fp8
