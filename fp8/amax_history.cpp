// Histories as tensors: what they hold, and how a saved one is adapted. The ring and the rule that makes scales of it
// are in internal/scale.h, for all devices.
#include <altgrad/fp8/amax_history.h>

#include <altgrad/core/dispatch.h>
#include <altgrad/core/internal/kernels/reduce.h>
#include <altgrad/fp8/internal/kernels.h>

#include <algorithm>
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

// The largest |x|, f32 (), on the device of x.
Tensor amax_of(const Tensor& x) {
  const Tensor result = Tensor::empty({}, {DType::f32, x.device()});
  launch("amax", AG_KERNEL(kernels::amax), result.ptr<float>(), x, x.numel());
  return result;
}

void record(const AmaxHistory& history, const Tensor& amax) {
  dispatch_device(amax.device(), [&](const auto& device) {
    kernels::record_amax(device, history.memory(/*records=*/true), amax.ptr<float>());
  });
}
}  // namespace

detail::History AmaxHistory::memory(bool records) const {
  if (records) altgrad::detail::contents_change(values_);
  return {values_.ptr<float>(), values_.numel(), counts_.ptr<int64_t>()};
}

// Calls f with the history, copied to memory of the host.
template <class F>
auto AmaxHistory::on_host(F f) const {
  const Tensor values = values_.to(Device::cpu()), counts = counts_.to(Device::cpu());
  return f(detail::History{values.ptr<float>(), values.numel(), counts.ptr<int64_t>()});
}

AmaxHistory::AmaxHistory(int64_t length, Device device) {
  if (length < 1) fail("AmaxHistory: length ", length, ", must be at least 1");
  values_ = Tensor::zeros({length}, {.device = device});
  counts_ = Tensor::zeros({num_counts}, {DType::i64, device});
}

void AmaxHistory::update(float amax) {
  const DefaultFloatEnvironment environment;
  if (amax < 0) fail("AmaxHistory: amax ", amax, " is negative");
  record(*this, Tensor::full({}, amax, {DType::f32, device()}));
}

void AmaxHistory::update(const Tensor& x) {
  check_activation("AmaxHistory", x);
  if (x.device() != device()) fail("AmaxHistory: it is on ", device(), ", and x on ", x.device());
  if (x.numel() > 0) record(*this, amax_of(x));
}

void AmaxHistory::reset() {
  values_.fill_(0);
  counts_.fill_(0);
}

float AmaxHistory::amax() const {
  const DefaultFloatEnvironment environment;
  return on_host([](const detail::History& h) { return detail::held_by(h).amax; });
}
int64_t AmaxHistory::size() const {
  return on_host([](const detail::History& h) { return h.size(); });
}
int64_t AmaxHistory::recorded() const {
  return on_host([](const detail::History& h) { return h.recorded(); });
}
int64_t AmaxHistory::non_finite() const {
  return on_host([](const detail::History& h) { return h.non_finite(); });
}
int64_t AmaxHistory::clipped() const {
  return on_host([](const detail::History& h) { return h.clipped(); });
}

void AmaxHistory::visit(nn::Visitor& v, std::string_view values_name, std::string_view counts_name) {
  v.buffer(values_name, values_);
  v.buffer(counts_name, counts_);
}

void AmaxHistory::adapt_state(StateDict& state, const std::string& values_name,
                              const std::string& counts_name, const nn::LoadOptions& options) const {
  const auto host = [](const Tensor& t) {
    if (!t.defined()) return t;
    return (is_integer(t.dtype()) ? t : t.to(DType::f32)).to(Device::cpu());
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

float amax(const Tensor& x) { return amax_of(x).item<float>(); }

float compute_scale(float amax, const Format& format) {
  const DefaultFloatEnvironment environment;  // where subnormals count as 0, an amax would
  if (!(amax >= 0 && amax < infinity)) fail("compute_scale: amax ", amax, " must be finite and not negative");
  return detail::scale_of(amax, float(std::min(format.max(), 0x1p127)));
}

}  // namespace altgrad::fp8
