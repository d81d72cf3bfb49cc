// Gathering rows by index, and adding them back. An id out of range has been seen by check_ids, and its error is on
// its way: here it only must not be followed.
#include <altgrad/core/internal/kernels/gather.h>

#include <altgrad/core/cuda/launch.h>
#include <altgrad/core/cuda/runtime.h>
#include <altgrad/core/internal/instantiate.h>

namespace altgrad::kernels {
inline namespace on_cuda {

template <std::floating_point T>
void gather(const Cuda& device, T* y, const T* x, const int64_t* ids, int64_t outer, int64_t n, int64_t count,
            int64_t inner) {
  cuda::each(device, "gather", inner == 0 ? 0 : outer * count * inner, [=] AG_LAMBDA(int64_t i) {
    const int64_t row = i / inner;
    y[i] = n == 0 ? T(0) : x[(row / count * n + nearest_id(ids[row % count], n)) * inner + i % inner];
  });
}

// A thread owns a column of one outer index and adds the rows in the order of ids: no two threads meet.
template <std::floating_point T>
void gather_grad(const Cuda& device, T* dx, double beta, const T* dy, const int64_t* ids, int64_t outer,
                 int64_t n, int64_t count, int64_t inner) {
  cuda::each(device, "gather_grad", n == 0 ? 0 : outer * inner, [=] AG_LAMBDA(int64_t i) {
    const int64_t o = i / inner, column = i % inner;
    T* const to = dx + o * n * inner + column;
    const T* const from = dy + o * count * inner + column;
    for (int64_t r = 0; beta == 0 && r < n; ++r) to[r * inner] = 0;
    for (int64_t r = 0; r < count; ++r) to[nearest_id(ids[r], n) * inner] += from[r * inner];
  });
}

void check_ids(const Cuda& device, const IdRange& range, const int64_t* ids) {
  const int64_t count = range.shape.numel();
  if (count == 0) return;
  cuda::WrongId* const wrong = cuda::wrong_id(device.index);
  cuda::rows(device, "check_ids", 1, count, [=] AG_LAMBDA(int64_t) {
    int64_t first = count;
    for (int64_t i = threadIdx.x; i < count && first == count; i += blockDim.x) {
      if (!range.holds(ids[i])) first = i;
    }
    first = cuda::block_reduce(first, count, cuda::Smaller());
    if (threadIdx.x == 0 && first < count && !wrong->found) *wrong = {true, first, ids[first], range};
  });
}

AG_INSTANTIATE_FLOATING(gather)
AG_INSTANTIATE_FLOATING(gather_grad)

}  // namespace on_cuda
}  // namespace altgrad::kernels
