// Eigen, for CPU kernels only, and the views they use: row-major blocks inside larger rows.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
// GCC bug 105593: its own AVX-512 intrinsics set off this warning wherever Eigen inlines them.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <Eigen/Core>

#include <cstdint>

namespace altgrad {

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using Map = Eigen::Map<Matrix<T>, 0, Eigen::OuterStride<>>;
template <class T>
using ConstMap = Eigen::Map<const Matrix<T>, 0, Eigen::OuterStride<>>;

// A (rows, columns) block at data, `stride` elements from one row to the next.
template <class T>
Map<T> block_at(T* data, int64_t rows, int64_t columns, int64_t stride) {
  return Map<T>(data, rows, columns, Eigen::OuterStride<>(stride));
}
template <class T>
ConstMap<T> block_at(const T* data, int64_t rows, int64_t columns, int64_t stride) {
  return ConstMap<T>(data, rows, columns, Eigen::OuterStride<>(stride));
}

}  // namespace altgrad
