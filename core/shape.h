// Shape: the sizes of a tensor, held inline (no heap), at most 8 dimensions, row-major; and lists of its axes.
// Shape{} is a scalar (numel 1). Dimensions may be counted from the end: size(-1) is the last.
#pragma once

#include <altgrad/core/export.h>

#include <array>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <iosfwd>
#include <span>

ALTGRAD_API_BEGIN
namespace altgrad {

class Shape {
 public:
  static constexpr int max_dim = 8;

  Shape() = default;
  /// Throws std::invalid_argument on a negative size, more than 8 dimensions, or too many elements: 16 bytes for each
  /// must be countable by int64_t, also where a size of 0 leaves none, whose other sizes may not be larger together.
  Shape(std::initializer_list<int64_t> sizes)
      : Shape(std::span<const int64_t>(sizes.begin(), sizes.size())) {}
  explicit Shape(std::span<const int64_t> sizes);

  int dim() const { return dim_; }
  int64_t numel() const { return numel_; }
  int64_t operator[](int axis) const { return sizes_[size_t(axis)]; }  ///< unchecked, axis in [0, dim)
  /// The same, but checked, and counted from the end where axis < 0. Throws std::invalid_argument.
  int64_t size(int axis) const { return sizes_[size_t(wrap(axis, "size"))]; }
  /// The axis as 0 .. dim-1. Throws std::invalid_argument, naming the op, where it is out of range.
  int wrap(int axis, const char* op = "shape") const;

  const int64_t* begin() const { return sizes_.data(); }
  const int64_t* end() const { return sizes_.data() + dim_; }

  /// The same sizes with one replaced, inserted or left out.
  Shape with(int axis, int64_t size) const;
  Shape inserted(int axis, int64_t size, const char* op = "shape") const;
  Shape erased(int axis) const;
  /// Multiplies the sizes of axes [first, last): 1 where there are none. Throws std::invalid_argument for other axes.
  int64_t product(int first, int last) const;

 private:
  std::array<int64_t, max_dim> sizes_{};
  int dim_ = 0;
  int64_t numel_ = 1;
};
bool operator==(const Shape& a, const Shape& b);
std::ostream& operator<<(std::ostream& out, const Shape& shape);  ///< (2, 3)

/// Axes to reduce or to reorder: numbers in braces, or an array, vector or span of them. Holds a copy. Throws
/// std::invalid_argument on more than 8.
class Axes {
 public:
  Axes(std::initializer_list<int> axes) { assign({axes.begin(), axes.size()}); }
  template <std::convertible_to<std::span<const int>> List>
  Axes(const List& axes) {
    assign(axes);
  }

  size_t size() const { return size_; }
  int operator[](size_t i) const { return axes_[i]; }
  const int* begin() const { return axes_.data(); }
  const int* end() const { return axes_.data() + size_; }

 private:
  void assign(std::span<const int> axes);
  std::array<int, Shape::max_dim> axes_{};
  size_t size_ = 0;
};

}  // namespace altgrad
ALTGRAD_API_END
