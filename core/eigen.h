// Opt-in interop with Eigen: the only public header that includes it. Link Eigen yourself (Eigen3::Eigen
// comes along where altgrad's CMake package finds it).
#pragma once

#include <altgrad/core/tensor.h>

#include <Eigen/Core>

namespace altgrad {

template <class T>
using RowMatrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using RowMatrixXf = RowMatrix<float>;
using RowMatrixXd = RowMatrix<double>;

/// x's memory as a matrix, without a copy: (m, n) as it is, (n) as one row, more axes flattened into rows. The
/// map is valid while x is. Throws std::invalid_argument where x is not a T on the CPU or is a scalar.
template <class T = float>
Eigen::Map<RowMatrix<T>> as_matrix(const Tensor& x) {
  const std::span<T> values = x.data<T>();
  if (x.dim() == 0) fail("as_matrix: a scalar has no rows");
  const int64_t columns = x.size(-1);
  return {values.data(), x.shape().product(0, x.dim() - 1), columns};
}

/// A copy of any dense Eigen matrix or expression, shape (rows, cols), with its scalar type.
template <class Derived>
Tensor from_matrix(const Eigen::DenseBase<Derived>& m) {
  using T = typename Derived::Scalar;
  Tensor t = Tensor::empty({int64_t(m.rows()), int64_t(m.cols())}, {dtype_of<T>});
  Eigen::Map<RowMatrix<T>>(t.ptr<T>(), m.rows(), m.cols()) = m.derived();
  return t;
}

}  // namespace altgrad
