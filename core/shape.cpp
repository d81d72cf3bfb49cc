// Shapes: the checks that make sizes, and what is counted from them.
#include <altgrad/core/shape.h>

#include <altgrad/core/error.h>

#include <algorithm>
#include <ostream>

namespace altgrad {

Shape::Shape(std::span<const int64_t> sizes) : dim_(int(sizes.size())) {
  if (sizes.size() > size_t(max_dim))
    fail("shape: ", sizes.size(), " dimensions, at most ", max_dim, " are possible");
  int64_t most = 1;  // the product of the sizes that are not 0, and so the largest of any of them
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] < 0) fail("shape: negative size ", sizes[i], " on axis ", i);
    // Room for 16 bytes an element, so that no byte count derived from a shape overflows.
    if (__builtin_mul_overflow(most, std::max<int64_t>(sizes[i], 1), &most) || most > INT64_MAX / 16)
      fail("shape: too many elements");
    sizes_[i] = sizes[i];
    numel_ *= sizes[i];
  }
}

int Shape::wrap(int axis, const char* op) const {
  if (axis < -dim_ || axis >= dim_) fail(op, ": axis ", axis, " is out of range for shape ", *this);
  return axis < 0 ? axis + dim_ : axis;
}

Shape Shape::with(int axis, int64_t size) const {
  std::array<int64_t, max_dim> sizes = sizes_;
  sizes[wrap(axis)] = size;
  return Shape(std::span<const int64_t>(sizes.data(), dim_));
}

Shape Shape::inserted(int axis, int64_t size, const char* op) const {
  if (axis < -dim_ - 1 || axis > dim_)
    fail(op, ": axis ", axis, " is out of range to insert into shape ", *this);
  if (dim_ == max_dim) fail("shape: ", max_dim + 1, " dimensions, at most ", max_dim, " are possible");
  if (axis < 0) axis += dim_ + 1;
  std::array<int64_t, max_dim> sizes{};
  std::copy(begin(), begin() + axis, sizes.begin());
  sizes[axis] = size;
  std::copy(begin() + axis, end(), sizes.begin() + axis + 1);
  return Shape(std::span<const int64_t>(sizes.data(), dim_ + 1));
}

Shape Shape::erased(int axis) const {
  axis = wrap(axis);
  std::array<int64_t, max_dim> sizes = sizes_;
  std::copy(begin() + axis + 1, end(), sizes.begin() + axis);
  return Shape(std::span<const int64_t>(sizes.data(), dim_ - 1));
}

int64_t Shape::product(int first, int last) const {
  if (first < last && (first < 0 || last > dim_)) {
    fail("shape: axes [", first, ", ", last, ") are out of range for shape ", *this);
  }
  int64_t n = 1;
  for (int i = first; i < last; ++i) n *= sizes_[i];
  return n;
}

bool operator==(const Shape& a, const Shape& b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  std::string text = "(";
  for (int i = 0; i < shape.dim(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return out << text + ')';
}

void Axes::assign(std::span<const int> axes) {
  if (axes.size() > axes_.size()) fail("axes: ", axes.size(), " given, a tensor has at most ", axes_.size());
  std::ranges::copy(axes, axes_.begin());
  size_ = axes.size();
}

}  // namespace altgrad
