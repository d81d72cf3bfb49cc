// The one place that knows in which form operands are rounded and multiplied.
#include <altgrad/fp8/qtensor.h>

#include <altgrad/core/dispatch.h>
#include <altgrad/core/internal/kernels/gemm.h>
#include <altgrad/fp8/internal/kernels.h>
#include <altgrad/fp8/internal/operand.h>

#include <algorithm>

namespace altgrad::fp8 {
namespace {

int64_t rows_in_memory(const Tensor& values) { return values.shape().product(0, values.dim() - 1); }

// Are all products of two numbers of such formats, and sums of those, floats, with room to spare?
bool fits_bf16(const Format& f) {
  return f.mantissa_bits <= 7 && f.max() <= 0x1p48 && f.min_subnormal() >= 0x1p-60;
}
// What is not rounded, but stored in bf16, has a wider range: only a product of one beyond 2^79 with a number of such a
// format may be Inf, of which the scale makes no float again.
bool is_in_bf16(const Partner& p) { return p.format ? fits_bf16(*p.format) : p.dtype == DType::bf16; }

// By which FP8 tensor cores multiply it.
std::optional<kernels::Fp8> fp8_of(const std::optional<Format>& f) {
  if (f && *f == E4M3) return kernels::Fp8::e4m3;
  if (f && *f == E5M2) return kernels::Fp8::e5m2;
  return {};
}

void check(const char* op, const QTensor& q) {
  const Tensor &x = q.values, &scale = q.scale;
  check_defined(op, x);
  if (x.dtype() != DType::bf16 && x.dtype() != DType::u8) return check_floating(op, x);
  if (x.dtype() == DType::bf16 && !q.format && !scale.defined()) return;
  if (!scale.defined() || scale.dtype() != DType::f32 || scale.dim() != 0 || scale.device() != x.device())
    fail(op, ": values in ", x.dtype(), ", ", x.shape(),
         ", need a scale in f32 of shape (), on their device");
  if (x.dtype() == DType::bf16) return;
  const Tensor& t = q.values_t;
  if (!fp8_of(q.format) || !t.defined() || t.dtype() != DType::u8 || t.device() != x.device() ||
      t.shape() != Shape{x.size(-1), rows_in_memory(x)})
    fail(op, ": values in u8, ", x.shape(), ", are codes of E4M3 or E5M2, and need the same, transposed");
}

}  // namespace

bool detail::has_bf16(Device on) {
  return dispatch_device(on, [](const auto& device) { return kernels::has_bf16(device); });
}

bool has_native_fp8(Device on) {
  return dispatch_device(on, [](const auto& device) { return kernels::has_fp8(device); });
}

void detail::check_native_fp8(const char* op, std::initializer_list<std::optional<Format>> formats) {
  int of_e5m2 = 0;
  for (const std::optional<Format>& f : formats) {
    if (!fp8_of(f))
      fail(op, ": native FP8 multiplies E4M3 and E5M2, not ", f ? f->name : "what is not rounded");
    of_e5m2 += *f == E5M2;
  }
  if (of_e5m2 > 1) fail(op, ": native FP8 does not multiply E5M2 by E5M2");
}
void detail::check_native_fp8(const char* op, const Tensor& x) {
  if (x.dtype() == DType::f64) fail(op, ": native FP8 products are of f32, got ", x.dtype());
  if (!has_native_fp8(x.device()))
    fail(op, ": native FP8 needs a GPU of compute capability 8.9 or higher, got ", x.device());
}

int64_t QTensor::rows() const { return transposed ? values.size(-1) : rows_in_memory(values); }
int64_t QTensor::columns() const { return transposed ? rows_in_memory(values) : values.size(-1); }

QTensor QTensor::t() const {
  QTensor q = *this;
  q.transposed = !transposed;
  return q;
}

Tensor QTensor::dequantize() const {
  check("dequantize", *this);
  const bool codes = values.dtype() == DType::u8;
  if (values.dtype() != DType::bf16 && !codes) return values;
  if (!scale.defined()) return values.copied({DType::f32, values.device()});
  const Tensor y = Tensor::empty(values.shape(), {DType::f32, values.device()});
  dispatch_device(values.device(), [&](const auto& device) {
    if (codes)
      return kernels::decode(device, y.ptr<float>(), values.ptr<uint8_t>(), detail::decoded_codes(*format, 1),
                             values.numel(), scale.ptr<float>());
    kernels::dequantize(device, y.ptr<float>(), values.ptr<bfloat16>(), scale.ptr<float>(), values.numel());
  });
  return y;
}

QTensor detail::empty_operand(const Tensor& x, const Format& format, std::initializer_list<Partner> partners,
                              bool native_fp8) {
  if (native_fp8) {
    check_native_fp8("quantize", {format});
    check_native_fp8("quantize", x);
    const TensorOptions codes{DType::u8, x.device()};
    return {.values = Tensor::empty(x.shape(), codes),
            .scale = {},
            .format = format,
            .values_t = Tensor::empty({x.size(-1), rows_in_memory(x)}, codes)};
  }
  const DType dtype = compute_dtype(x.dtype());
  const bool in_bf16 = dtype == DType::f32 && fits_bf16(format) && partners.size() > 0 &&
                       std::ranges::all_of(partners, is_in_bf16) && has_bf16(x.device());
  return {Tensor::empty(x.shape(), {in_bf16 ? DType::bf16 : dtype, x.device()}), {}, format};
}

namespace {

// Calls f(device, y, x, rounding) with what the kernels of this way to round x into q take.
template <class F>
void with_rounding(const QTensor& q, const Tensor& x, const CastOptions& cast,
                   const std::optional<RandomStream>& random, const Tensor& sums, F f) {
  const Tensor& values = q.values;
  dispatch_activation("quantize", x, [&]<class T, class On>(const On& device) {
    using C = Compute<T>;
    const kernels::ElementRounder<C> rounding{Rounder<C>(*q.format, cast.rounding, cast.overflow), random};
    if constexpr (std::is_same_v<On, Cuda> && std::is_same_v<C, float>) {
      if (values.dtype() == DType::u8) {
        const kernels::Codes codes{values.ptr<uint8_t>(), q.values_t.ptr<uint8_t>(),
                                   *fp8_of(q.format),     q.rows(),
                                   q.columns(),           sums.defined() ? sums.ptr<float>() : nullptr};
        return f(device, codes, x.ptr<T>(), rounding);
      }
    }
    if constexpr (std::is_same_v<C, float>) {
      if (values.dtype() == DType::bf16) return f(device, values.ptr<bfloat16>(), x.ptr<T>(), rounding);
    }
    f(device, values.ptr<C>(), x.ptr<T>(), rounding);
  });
}

}  // namespace

void detail::round_into(const QTensor& q, const Tensor& x, const CastOptions& cast,
                        const std::optional<RandomStream>& random, const Tensor& scale, const Tensor& sums) {
  const float* const s = scale.ptr<float>();
  with_rounding(q, x, cast, random, sums,
                [&](const auto& device, const auto& y, const auto* in, const auto& how) {
                  kernels::quantize(device, y, in, s, how, x.numel());
                });
}
void detail::round_into(const QTensor& q, const Tensor& x, const CastOptions& cast,
                        const std::optional<RandomStream>& random, const Tensor& scale,
                        const History& history, const ScaleRule& rule, const Tensor& sums) {
  with_rounding(q, x, cast, random, sums,
                [&](const auto& device, const auto& y, const auto* in, const auto& how) {
                  kernels::quantize(device, y, in, scale.ptr<float>(), history, rule, how, x.numel());
                });
}

namespace {

// With the result in its own dtype where none is asked for; or + beta into, which is of that dtype, in its place.
Tensor product(const QTensor& a, const QTensor& b, const std::optional<Tensor>& bias,
               std::optional<DType> result, const Tensor& into = {}, double beta = 0) {
  check("matmul", a);
  check("matmul", b);
  kernels::Gemm g{.m = a.rows(),
                  .n = b.columns(),
                  .k = a.columns(),
                  .trans_a = a.transposed,
                  .trans_b = b.transposed,
                  .beta = beta};
  if (b.rows() != g.k) fail("matmul: (", g.m, ", ", g.k, ") and (", b.rows(), ", ", g.n, ") do not match");
  if (a.values.device() != b.values.device())
    fail("matmul: operands are on ", a.values.device(), " and ", b.values.device());
  const bool as_linear = g.trans_b && !g.trans_a;
  if (bias && !as_linear) fail("matmul: a bias needs a matrix times a transposed one");
  if (bias && (!bias->defined() || bias->shape() != Shape{g.n} || bias->device() != a.values.device()))
    fail("matmul: the bias must be of shape (", g.n, "), on the operands' device");
  const auto check_bias = [&](DType dtype) {
    if (bias && bias->dtype() != dtype)
      fail("matmul: a bias of ", bias->dtype(), " for a product of ", dtype);
  };

  const bool native = a.values.dtype() == DType::u8 && b.values.dtype() == DType::u8;
  const bool in_bf16 = a.values.dtype() == DType::bf16 && b.values.dtype() == DType::bf16;
  if (native || (in_bf16 && detail::has_bf16(a.values.device()))) {
    check_bias(DType::f32);
    if (native) {
      detail::check_native_fp8("matmul", {a.format, b.format});
      detail::check_native_fp8("matmul", a.values);
    }
    if (a.scale.defined()) g.scale_a = a.scale.ptr<float>();
    if (b.scale.defined()) g.scale_b = b.scale.ptr<float>();
    const Tensor c =
        into.defined() ? into : Tensor::empty({g.m, g.n}, {result.value_or(DType::f32), a.values.device()});
    dispatch_activation("matmul", c, [&]<class T, class On>(const On& device) {
      const float* const added = bias ? bias->ptr<float>() : nullptr;
      if constexpr (!std::is_same_v<T, double>) {
        if constexpr (std::is_same_v<On, Cuda>) {
          if (native) {
            const Tensor &left = a.transposed ? a.values_t : a.values,
                         &right = b.transposed ? b.values : b.values_t;
            return kernels::gemm_fp8(device, c.ptr<T>(), left.ptr<uint8_t>(), *fp8_of(a.format),
                                     right.ptr<uint8_t>(), *fp8_of(b.format), added, g);
          }
        }
        kernels::gemm(device, c.ptr<T>(), a.values.ptr<bfloat16>(), b.values.ptr<bfloat16>(), added, g);
      }
    });
    return c;
  }
  const Tensor left = a.dequantize(), right = b.dequantize();
  if (left.dtype() != right.dtype()) fail("matmul: operands of ", left.dtype(), " and ", right.dtype());
  check_bias(left.dtype());
  const Tensor c = into.defined() ? into : Tensor::empty({g.m, g.n}, left.options());
  if (as_linear) {
    launch("matmul", AG_KERNEL(kernels::linear), c, left, right, in_compute(bias), g.m, g.n, g.k);
  } else {
    launch("matmul", AG_KERNEL(kernels::gemm), c, left, right, g);
  }
  return !result || *result == c.dtype() ? c : c.copied({*result, c.device()});
}

}  // namespace

Tensor matmul(const QTensor& a, const QTensor& b, const std::optional<Tensor>& bias) {
  return product(a, b, bias, {});
}
Tensor detail::product(const QTensor& a, const QTensor& b, const std::optional<Tensor>& bias, DType result) {
  return fp8::product(a, b, bias, result);
}
void detail::add_product(const Tensor& c, const QTensor& a, const QTensor& b, double beta) {
  fp8::product(a, b, {}, {}, c, beta);
}

}  // namespace altgrad::fp8
