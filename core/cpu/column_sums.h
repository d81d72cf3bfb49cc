// Sums over the rows of a matrix, one for each column, made as the rows are walked: what is in memory side by side is
// read so.
#pragma once

#include <altgrad/core/cpu/parallel.h>

#include <algorithm>
#include <array>
#include <tuple>

namespace altgrad {

// f(r, sums...) for every row r adds that row to sums of n columns each, in f64; over `divisor`, they go to `out`,
// where what is null is not summed. Rows are cut into pieces that depend on the sizes alone, and the pieces' sums are
// added in order.
template <size_t N, class T, class F>
void column_sums(std::array<T*, N> out, int64_t rows, int64_t n, F&& f, double divisor = 1) {
  constexpr int64_t most = 64, few = 8, many_rows = 32, least_work = 1 << 13;
  const int64_t wanted = std::min({std::max(rows / many_rows, few), rows * n / least_work, rows, most});
  const int64_t pieces = std::max<int64_t>(wanted, 1);
  double* const sums = static_cast<double*>(scratch(size_t(pieces * int64_t(N) * n) * sizeof(double)));
  parallel_tasks(pieces, [&](int64_t piece) {
    double* const own = sums + piece * int64_t(N) * n;
    std::fill_n(own, int64_t(N) * n, 0.0);
    std::array<double*, N> of;
    for (size_t i = 0; i < N; ++i) of[i] = out[i] ? own + int64_t(i) * n : nullptr;
    for (int64_t r = rows * piece / pieces; r < rows * (piece + 1) / pieces; ++r) {
      std::apply([&](auto*... sum) { f(r, sum...); }, of);
    }
  });
  for (int64_t piece = 1; piece < pieces; ++piece) {
    for (int64_t i = 0; i < int64_t(N) * n; ++i) sums[i] += sums[piece * int64_t(N) * n + i];
  }
  for (size_t i = 0; i < N; ++i) {
    for (int64_t c = 0; out[i] && c < n; ++c) out[i][c] = T(sums[int64_t(i) * n + c] / divisor);
  }
}

}  // namespace altgrad
