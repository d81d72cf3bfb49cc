// What the ops share: checks of arguments, broadcasting and its reverse.
#pragma once

#include <altgrad/autograd/tape.h>
#include <altgrad/core/internal/dispatch.h>
#include <altgrad/core/internal/strided.h>

namespace altgrad::detail {

// Throw std::invalid_argument, naming the op, where the dtype is not floating; where dtype or device of two
// differ; where an axis is out of range (the result is counted from the front).
void check_floating(const char* op, const Tensor& x);
void check_same_kind(const char* op, const Tensor& a, const Tensor& b);
int wrap_axis(const char* op, const Shape& shape, int axis);

// Throws where ids are not i64 or one is neither in [0, high) nor `ignore`, with its position and the range.
void check_ids(const char* op, const Tensor& ids, int64_t high, std::optional<int64_t> ignore = {});
// Throws where x is not floating.
bool has_nan(const char* op, const Tensor& x);

// Where element i of a tensor of this shape lies: "(0, 2)".
std::string position(const Shape& shape, int64_t i);

// Appends an inner axis to s, merged with the last one where both strides allow it.
void push_axis(kernels::Strided& s, int64_t size, int64_t a, int64_t b);
// The index space of `out`, into which a and b broadcast.
kernels::Strided broadcast(const Shape& out, const Shape& a, const Shape& b);
// x repeated to `shape`, and the reverse: x summed over the axes along which `shape` would be repeated. Both
// give x itself, or an alias, where nothing is repeated; the sums are divided by `divisor`. Not recorded.
Tensor expand_to(const Tensor& x, const Shape& shape);
Tensor sum_to(const Tensor& x, const Shape& shape, double divisor = 1);

}  // namespace altgrad::detail
