// AmaxHistory: the largest |x| of the last `length` steps, and the scale that follows from it. Its state is two
// tensors, which a layer lists as buffers, so that histories are saved, restored, moved and cloned with the model.
#pragma once

#include <altgrad/fp8/format.h>
#include <altgrad/nn/module.h>

ALTGRAD_API_BEGIN
namespace altgrad::fp8 {

namespace detail {
struct History;
}  // namespace detail

/// A handle, like Tensor: copies share their state. It lives where its layer lives: scales are made from it in memory of
/// the device; what reads its numbers here copies them.
class AmaxHistory {
 public:
  /// Throws std::invalid_argument where length < 1.
  explicit AmaxHistory(int64_t length, Device device = Device::cpu());

  /// Records an amax in place of the oldest one. One that is not finite is counted, not recorded. Throws
  /// std::invalid_argument where it is negative.
  void update(float amax);
  /// Records the amax of x, a floating tensor on this history's device; nothing where it has no elements. Throws
  /// std::invalid_argument for others.
  void update(const Tensor& x);
  /// Forgets everything, the counts too.
  void reset();

  float amax() const;  ///< the largest held, 0 where there is none
  int64_t length() const { return values_.numel(); }
  Device device() const { return values_.device(); }
  int64_t size() const;        ///< held: min(recorded, length)
  int64_t recorded() const;    ///< ever recorded
  int64_t non_finite() const;  ///< ever ignored
  int64_t clipped() const;     ///< steps in which a value was larger than the amax its scale was made from

  /// Lists the two tensors as buffers under these names.
  void visit(nn::Visitor& v, std::string_view values_name, std::string_view counts_name);
  /// For the adapt_state of a module that lists a history so: makes of what a state holds under these names a history
  /// of this length. The same length stays bit for bit; of another one the newest amaxes are kept, in order, and the
  /// counts (places for which too few were saved count as amaxes of 0). Where one of the two is missing, it becomes an
  /// empty history. What is none (an amax held that is negative or not finite, a count below 0 or beyond 2^62, another
  /// dtype or dimension) throws std::invalid_argument, or becomes an empty one where the load is not strict.
  void adapt_state(StateDict& state, const std::string& values_name, const std::string& counts_name,
                   const nn::LoadOptions& options) const;

  /// The two tensors' memory, for the library's kernels (internal/scale.h); those that record must say so.
  detail::History memory(bool records = false) const;
  /// Another number after each change.
  uint64_t contents() const { return altgrad::detail::contents_of(values_); }

 private:
  template <class F>
  auto on_host(F f) const;

  Tensor values_;  // f32 (length), a ring: the n-th amax recorded is at n % length
  Tensor counts_;  // i64 (3): recorded, non-finite, clipped
};

/// The largest |x| as a float, never below the true one (f64 is rounded up); Inf or NaN where x holds one.
float amax(const Tensor& x);

/// amax / max, the divisor that brings amax to the format's largest number; rounded up, so that no |x| <= amax has
/// |x / scale| > max. 1 for amax = 0. Always a positive normal float: it is kept within the normal floats, and formats
/// whose max is beyond 2^127 are scaled to that. Throws std::invalid_argument unless amax is finite and >= 0.
float compute_scale(float amax, const Format& format);

}  // namespace altgrad::fp8
ALTGRAD_API_END
