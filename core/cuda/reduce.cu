// Reductions. Sums are carried in f64, but for the short runs of columns.h, in an order that depends on the sizes alone.
#include <altgrad/core/internal/kernels/reduce.h>

#include <altgrad/core/cuda/amax.h>
#include <altgrad/core/cuda/columns.h>
#include <altgrad/core/cuda/row.h>
#include <altgrad/core/internal/instantiate.h>

namespace altgrad::kernels {
inline namespace on_cuda {
namespace {

// The bits of the largest |x|.
template <class T>
void find_amax(const Cuda& device, unsigned* top, const T* x, int64_t n) {
  cuda::each(device, "amax", 1, [=] AG_LAMBDA(int64_t) { *top = 0; });
  cuda::rows(device, "amax", cuda::pieces_for(n), n, [=] AG_LAMBDA(int64_t r) {
    const int64_t first = r * cuda::piece, left = n - first;
    unsigned own = 0;
    cuda::each_of_row(left < cuda::piece ? left : cuda::piece,
                      [&](int64_t i) { own = cuda::Larger()(own, cuda::magnitude_bits(x[first + i])); });
    cuda::take_largest(top, own);
  });
}

}  // namespace

template <class T>
void sum(const Cuda& device, Compute<T>* y, const T* x, int64_t outer, int64_t n, int64_t inner,
         double divisor) {
  if (outer == 1 && inner == 1 && n > cuda::piece) {
    const cuda::Scratch<double> total(device, 1);
    cuda::sum_all(device, "sum", total.data(), n, [=] AG_LAMBDA(int64_t i) { return double(x[i]); });
    cuda::each(device, "sum", 1,
               [=, total = total.data()] AG_LAMBDA(int64_t) { *y = Compute<T>(*total / divisor); });
  } else if (inner == 1) {
    const auto add = [=] AG_LAMBDA(int64_t r, auto row) {
      const double total = row.sum([](Compute<T> u) { return double(u); }, row.read(cuda::Same(), x + r * n));
      if (row.thread() == 0) y[r] = Compute<T>(total / divisor);
    };
    cuda::each_row<T>(device, "sum", outer, n, add, x);
  } else {
    cuda::column_sums<1>(
        device, "sum", outer, n, inner,
        [=] AG_LAMBDA(int64_t, Compute<T> u) { return std::array<Compute<T>, 1>{u}; },
        [=] AG_LAMBDA(int64_t matrix, int, int64_t column, double total) {
          y[matrix * inner + column] = Compute<T>(total / divisor);
        },
        x);
  }
}

template <std::floating_point T>
void max(const Cuda& device, T* y, const T* x, int64_t outer, int64_t n, int64_t inner) {
  cuda::each(device, "max", outer * inner, [=] AG_LAMBDA(int64_t i) {
    const T* const column = x + i / inner * n * inner + i % inner;
    T top = -std::numeric_limits<T>::infinity();
    for (int64_t r = 0; r < n; ++r) {
      const T v = column[r * inner];
      top = v > top || v != v ? v : top;
    }
    y[i] = top;
  });
}

template <std::floating_point T>
void max_grad(const Cuda& device, T* dx, const T* dy, const T* x, const T* y, int64_t outer, int64_t n,
              int64_t inner) {
  cuda::each(device, "max_grad", outer * inner, [=] AG_LAMBDA(int64_t i) {
    const int64_t first = i / inner * n * inner + i % inner;
    const T top = y[i];
    int64_t equal = 0;
    for (int64_t r = 0; r < n; ++r) equal += x[first + r * inner] == top;
    const T share = equal ? dy[i] / T(equal) : std::numeric_limits<T>::quiet_NaN();
    for (int64_t r = 0; r < n; ++r) {
      const int64_t at = first + r * inner;
      dx[at] = x[at] == top ? share : x[at] != x[at] ? x[at] : T(0);
    }
  });
}

// The first NaN, or else the first element that is equal to the largest.
template <std::floating_point T>
void argmax(const Cuda& device, int64_t* y, const T* x, int64_t rows, int64_t n) {
  cuda::rows(device, "argmax", rows, n, [=] AG_LAMBDA(int64_t r) {
    const T* const row = x + r * n;
    const T top = cuda::row_max(row, n);
    int64_t largest = n, nan = n;
    cuda::each_of_row(n, [&](int64_t i) {
      if (row[i] == top && i < largest) largest = i;
      if (row[i] != row[i] && i < nan) nan = i;
    });
    largest = cuda::block_reduce(largest, n, cuda::Smaller());
    nan = cuda::block_reduce(nan, n, cuda::Smaller());
    if (threadIdx.x == 0) y[r] = nan < n ? nan : largest;
  });
}

template <class T>
void amax(const Cuda& device, float* result, const T* x, int64_t n) {
  find_amax(device, reinterpret_cast<unsigned*>(result), x, n);  // the bits are the float
}

template <std::floating_point T>
void has_nan(const Cuda& device, uint8_t* result, const T* x, int64_t n) {
  const cuda::Scratch<unsigned> top(device, 1);
  find_amax(device, top.data(), x, n);
  cuda::each(device, "has_nan", 1, [=, top = top.data()] AG_LAMBDA(int64_t) {
    *result = *top > cuda::magnitude_bits(std::numeric_limits<float>::infinity());
  });
}

AG_INSTANTIATE_STORED(sum)
AG_INSTANTIATE_FLOATING(max)
AG_INSTANTIATE_FLOATING(max_grad)
AG_INSTANTIATE_FLOATING(argmax)
AG_INSTANTIATE_STORED(amax)
AG_INSTANTIATE_FLOATING(has_nan)

}  // namespace on_cuda
}  // namespace altgrad::kernels
