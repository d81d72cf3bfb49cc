// Element types, known at run time: f32 and f64 compute, i64 holds ids, u8 holds 8-bit codes and masks, bf16 stores
// numbers in half the memory of f32, such as the activations of a model on a GPU whose parameters are f32.
#pragma once

#include <altgrad/core/bfloat16.h>
#include <altgrad/core/export.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <ostream>
#include <type_traits>

ALTGRAD_API_BEGIN
namespace altgrad {

/// Switches over it have no default, so that the compiler finds those that a new one is missing in (-Wswitch).
enum class DType : uint8_t { f32, f64, i64, u8, bf16 };

namespace detail {
struct DTypeFacts {
  size_t size;
  const char* name;
  bool floating, integer;
};
constexpr DTypeFacts facts_of(DType t) {
  switch (t) {
    case DType::f32: return {4, "f32", true, false};
    case DType::f64: return {8, "f64", true, false};
    case DType::i64: return {8, "i64", false, true};
    case DType::u8: return {1, "u8", false, true};
    case DType::bf16: return {2, "bf16", false, false};
  }
  return {0, "none of DType", false, false};  // cast from another number
}
constexpr DType dtype_at(const float*) { return DType::f32; }
constexpr DType dtype_at(const double*) { return DType::f64; }
constexpr DType dtype_at(const int64_t*) { return DType::i64; }
constexpr DType dtype_at(const uint8_t*) { return DType::u8; }
constexpr DType dtype_at(const bfloat16*) { return DType::bf16; }
}  // namespace detail

constexpr size_t size_of(DType t) { return detail::facts_of(t).size; }
constexpr const char* name_of(DType t) { return detail::facts_of(t).name; }
/// f32 and f64, of which parameters are, and in which is computed on all devices. Not bf16: everywhere it moves, is
/// compared and converted, and on a GPU many ops compute with it, in f32, each result rounded once (autograd/ops.h).
constexpr bool is_floating(DType t) { return detail::facts_of(t).floating; }
constexpr bool is_integer(DType t) { return detail::facts_of(t).integer; }
/// Do tapes record results of this dtype? Their gradients have it, too.
constexpr bool has_gradient(DType t) { return is_floating(t) || t == DType::bf16; }
/// What numbers that are stored as t are computed in: f32 for bf16, else t.
constexpr DType compute_dtype(DType t) { return t == DType::bf16 ? DType::f32 : t; }
inline std::ostream& operator<<(std::ostream& out, DType t) { return out << name_of(t); }

/// The DType of a C++ type; does not compile for types that no tensor holds.
template <class T>
inline constexpr DType dtype_of = detail::dtype_at(static_cast<T*>(nullptr));

/// compute_dtype of C++ types.
template <class T>
using Compute = std::conditional_t<std::is_same_v<T, bfloat16>, float, T>;

/// Can a T hold x, for integers without the digits after the point?
template <class T>
constexpr bool fits(double x) {
  if constexpr (std::is_integral_v<T>) {
    return x >= double(std::numeric_limits<T>::min()) && x < double(std::numeric_limits<T>::max()) + 1;
  } else {
    return true;
  }
}

}  // namespace altgrad
ALTGRAD_API_END
