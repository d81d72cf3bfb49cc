// Element types, known at run time: f32 and f64 compute, i64 holds ids, u8 holds 8-bit codes and masks.
#pragma once

#include <altgrad/core/export.h>

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <limits>
#include <type_traits>

ALTGRAD_API_BEGIN
namespace altgrad {

enum class DType : uint8_t { f32, f64, i64, u8 };

constexpr size_t size_of(DType t) { return t == DType::f32 ? 4 : t == DType::u8 ? 1 : 8; }
constexpr bool is_floating(DType t) { return t == DType::f32 || t == DType::f64; }
constexpr const char* name_of(DType t) {
  return t == DType::f32 ? "f32" : t == DType::f64 ? "f64" : t == DType::i64 ? "i64" : "u8";
}
std::ostream& operator<<(std::ostream& out, DType t);

// The DType of a C++ type; the primary template is left undefined for types no tensor holds.
template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> : std::integral_constant<DType, DType::f32> {};
template <>
struct DTypeOf<double> : std::integral_constant<DType, DType::f64> {};
template <>
struct DTypeOf<int64_t> : std::integral_constant<DType, DType::i64> {};
template <>
struct DTypeOf<uint8_t> : std::integral_constant<DType, DType::u8> {};
template <class T>
inline constexpr DType dtype_of = DTypeOf<T>::value;

// Can a T hold x, for integers without the digits after the point?
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
