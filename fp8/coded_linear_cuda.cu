// Weights in codes, on a GPU: their panels, what they stand for, and their products with few rows.
#include <altgrad/fp8/internal/kernels.h>

#include <altgrad/core/cuda/launch.h>
#include <altgrad/core/internal/coded.h>

namespace altgrad::kernels {
inline namespace on_cuda {

void pack_codes(const Cuda& device, uint8_t* panels, const uint8_t* codes, uint32_t sign_code, int64_t n,
                int64_t k) {
  const int64_t bytes = (n + coded_panel - 1) / coded_panel * coded_panel * k;
  cuda::each(device, "pack_codes", bytes, [=] AG_LAMBDA(int64_t at) {
    const int64_t i = at / coded_panel % k, j = at / coded_panel / k * coded_panel + at % coded_panel;
    panels[coded_place(j, i, k)] = j < n ? byte_code(codes[j * k + i], sign_code) : uint8_t(0);
  });
}

void decode(const Cuda& device, float* y, const CodedWeight& w) {
  cuda::each(device, "decode", w.n * w.k, [=] AG_LAMBDA(int64_t at) {
    y[at] = coded_value(w.panels[coded_place(at / w.k, at % w.k, w.k)], w.shift, *w.scale * w.unit);
  });
}

// A block has a panel, a warp of it a part of the sums: a lane has one of the panel's rows, and reads its byte beside the
// other lanes'.
void coded_linear(const Cuda& device, float* y, const float* x, const CodedWeight& w, const float* bias,
                  int64_t rows) {
  static_assert(coded_panel == 32);
  constexpr int warps = cuda::most_threads / 32;
  cuda::rows(device, "coded_linear", (w.n + coded_panel - 1) / coded_panel, cuda::most_threads,
             [=] AG_LAMBDA(int64_t panel) {
               AG_SHARED(float, parts, coded_rows* cuda::most_threads);
               const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
               const uint8_t* const codes = w.panels + coded_place(panel * coded_panel + lane, 0, w.k);
               const float factor = *w.scale * w.unit;
               float sum[coded_rows] = {};
               for (int64_t i = warp; i < w.k; i += warps) {
                 const float value = coded_value(codes[i * coded_panel], w.shift, factor);
                 AG_UNROLL for (int r = 0; r < coded_rows; ++r) {
                   if (r < rows) sum[r] += x[r * w.k + i] * value;
                 }
               }
               AG_UNROLL for (int r = 0; r < coded_rows; ++r)
                   parts[r * cuda::most_threads + int(threadIdx.x)] = sum[r];
               __syncthreads();
               const int64_t j = panel * coded_panel + lane;
               if (warp < rows && j < w.n) {  // warp r adds up row r
                 float total = 0;
                 for (int part = 0; part < warps; ++part)
                   total += parts[warp * cuda::most_threads + part * 32 + lane];
                 y[warp * w.n + j] = total + (bias ? bias[j] : 0);
               }
               __syncthreads();  // before another panel's are written
             });
}

}  // namespace on_cuda
}  // namespace altgrad::kernels
