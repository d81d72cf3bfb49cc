// What the ops share, beside what op_writer.h gives to all: checks, broadcasting.
#pragma once

#include <altgrad/autograd/op_writer.h>
#include <altgrad/core/internal/loop_nest.h>

namespace altgrad::detail {

// Throws where ids are not i64 or one is neither in [0, high) nor `ignore`, with its position and the range.
void check_ids(const char* op, const Tensor& ids, int64_t high, std::optional<int64_t> ignore = {});
// Throws where x (..., in), w (out, in) and b (out) are not floating or do not fit each other.
void check_linear(const char* op, const Tensor& x, const Tensor& w, const std::optional<Tensor>& b);
// The same for an x that is like another tensor but for its shape.
void check_linear(const char* op, const Tensor& like, const Shape& shape, const Tensor& w,
                  const std::optional<Tensor>& b);
// Adds the gradients of a weight (n, k), input w of an op, and of a bias, the one behind it, from that of x (..., k) times
// the weight.
void add_linear_grads(const char* op, Grads& d, int w, const Tensor& dy, const Tensor& x, int64_t n,
                      int64_t k);
// Throws where x is not floating.
bool has_nan(const char* op, const Tensor& x);

// Options for what is kept of x in the dtype that x is computed in.
inline TensorOptions in_compute_dtype(const Tensor& x) { return {compute_dtype(x.dtype()), x.device()}; }
// x, or a copy of another dtype. Not recorded.
inline Tensor as_dtype(const Tensor& x, DType dtype) {
  return x.dtype() == dtype ? x : x.copied({dtype, x.device()});
}

// How many rows, along the last axis, a kernel is to walk. Rows without elements are none: there may be more of them
// than can be walked.
inline int64_t rows_of(const Tensor& x) { return x.numel() == 0 ? 0 : x.numel() / x.size(-1); }

// The index space of `out`, into which a and b broadcast.
kernels::LoopNest broadcast(const Shape& out, const Shape& a, const Shape& b);
// kernels::copy_strided for any dtype, from element `to` of dst and `from` of src on.
void copy_strided(const Tensor& dst, int64_t to, const Tensor& src, int64_t from, const kernels::LoopNest& s);
// reduce_to_shape, with the sums in compute_dtype(x.dtype()): the gradient of a parameter, which x's rows repeat.
Tensor sum_to_shape(const Tensor& x, const Shape& shape);
// x repeated to `shape`; x itself, or an alias, where nothing is repeated. Not recorded.
Tensor expand_to(const Tensor& x, const Shape& shape);

}  // namespace altgrad::detail
