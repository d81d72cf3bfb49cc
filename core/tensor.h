// Tensor: a handle, one pointer wide, to contiguous row-major memory. Copies share the body, as in Python:
// writing through one is seen by all. reshape and detach give new bodies on the same memory; everything else
// copies. Autograd stores two integers and a gradient handle in the body; tensors never point at tape nodes,
// so no cycles. Threads may copy handles to a tensor and read it at the same time, but not write it meanwhile.
#pragma once

#include <altgrad/core/dtype.h>
#include <altgrad/core/error.h>
#include <altgrad/core/memory.h>
#include <altgrad/core/random.h>
#include <altgrad/core/shape.h>

#include <span>
#include <type_traits>
#include <utility>
#include <vector>

ALTGRAD_API_BEGIN
namespace altgrad {

class Tensor;

struct TensorOptions {
  DType dtype = DType::f32;
  Device device = Device::cpu();
};

namespace detail {
struct Body;
Body* body_of(const Tensor& x);
}  // namespace detail

class Tensor {
 public:
  Tensor();  ///< holds nothing: defined() is false
  ~Tensor();
  Tensor(const Tensor&);
  Tensor(Tensor&&) noexcept;
  Tensor& operator=(const Tensor&);
  Tensor& operator=(Tensor&&) noexcept;

  // Factories. They throw std::runtime_error where the device is not there or has no memory.
  static Tensor empty(const Shape& shape, TensorOptions options = {});  ///< uninitialised
  static Tensor zeros(const Shape& shape, TensorOptions options = {});
  static Tensor ones(const Shape& shape, TensorOptions options = {});
  static Tensor full(const Shape& shape, double value, TensorOptions options = {});
  /// Gives 0, 1, ..., n - 1, rounded where a floating dtype or bf16 does not hold them.
  static Tensor arange(int64_t n, TensorOptions options = {.dtype = DType::i64});
  /// Draw from [0, 1) uniformly; from the normal distribution with mean 0 and variance 1. For floating dtypes only.
  static Tensor rand(const Shape& shape, TensorOptions options = {},
                     Generator& generator = default_generator());
  static Tensor randn(const Shape& shape, TensorOptions options = {},
                      Generator& generator = default_generator());
  /// Draws integers from [0, high) uniformly, as i64.
  static Tensor randint(int64_t high, const Shape& shape, Device device = Device::cpu(),
                        Generator& generator = default_generator());
  /// Copies values, row-major; the dtype follows T (int gives i64). Throws std::invalid_argument where their
  /// number is not that of the shape, or i64 cannot hold one of them.
  template <class T>
  static Tensor from(std::initializer_list<T> values, const Shape& shape) {
    return from(std::span<const T>(values.begin(), values.size()), shape);
  }
  template <class T>
  static Tensor from(const std::vector<T>& values, const Shape& shape) {
    return from(std::span<const T>(values), shape);
  }
  template <class T>
  static Tensor from(std::span<T> values, const Shape& shape);

  bool defined() const { return bool(body_); }
  const Shape& shape() const;
  int dim() const { return shape().dim(); }
  int64_t size(int axis) const { return shape().size(axis); }
  int64_t numel() const { return shape().numel(); }
  DType dtype() const;
  Device device() const;
  size_t nbytes() const { return size_t(numel()) * size_of(dtype()); }
  TensorOptions options() const { return {dtype(), device()}; }
  /// Do both have the same memory?
  bool is(const Tensor& other) const;
  /// The same for all handles to one tensor, and for no other tensor of that time; null where undefined.
  const void* id() const { return body_.get(); }

  /// The elements, for as long as a tensor holds this memory: a temporary's are gone at the end of its expression,
  /// and for (float v : f(x).data<float>()) reads what is not there any more. Throws std::invalid_argument on
  /// another dtype than T or off the CPU.
  template <class T>
  std::span<T> data() const {
    check_data(dtype_of<T>);
    return {static_cast<T*>(raw()), size_t(numel())};
  }
  /// The memory as it is, on whatever device, of whatever dtype: for kernels.
  void* raw() const;
  template <class T>
  T* ptr() const {
    return static_cast<T*>(raw());
  }
  /// The only element, converted to T. Throws std::invalid_argument where numel is not 1, or T is an integer type
  /// that cannot hold it.
  template <class T>
  T item() const;

  /// Overwrites the elements with those of src (same shape; dtype and device may differ). No tape records it.
  void copy_(const Tensor& src) const;
  void fill_(double value) const;
  /// Copies, to another dtype or device where the options say so. No tape records it: the differentiable forms are
  /// clone and to.
  Tensor copied(TensorOptions options) const;
  Tensor copied() const { return copied(options()); }
  /// Gives a new body on the same memory, without history or gradient.
  Tensor detach() const;
  /// Is detach() under another shape of the same numel. No tape records it: the differentiable form is reshape.
  Tensor alias(const Shape& shape) const;

  // Differentiable: the current tape records them. They are defined with the other ops in autograd/.
  Tensor reshape(const Shape& shape) const;                      ///< shares memory
  Tensor reshape(std::initializer_list<int64_t> sizes) const;    ///< one size may be -1: what is left
  Tensor narrow(int axis, int64_t start, int64_t length) const;  ///< copies
  Tensor transpose(int axis0 = -2, int axis1 = -1) const;        ///< copies
  Tensor permute(const Axes& axes) const;                        ///< copies; its axis i is axes[i] of this
  Tensor clone() const;                                          ///< copies
  /// Gives itself where nothing changes. Floats become integers toward zero, kept in range; NaN becomes 0. An i64
  /// becomes a u8 by its lowest byte. Conversions to narrower floats round to nearest even. A tape records it where the
  /// result is f32, f64 or bf16; others carry no gradients.
  Tensor to(DType dtype) const;
  Tensor to(Device device) const;  ///< itself where nothing changes

  /// Leaves. A tensor that requires a gradient gets one in backward, added to what grad() holds.
  bool requires_grad() const;
  /// Returns *this. Throws std::invalid_argument for integer dtypes and for results of recorded ops (detach() those).
  const Tensor& requires_grad(bool on) const;
  bool has_grad() const;
  /// Is it the result of an op that a tape recorded?
  bool is_recorded() const;
  /// Throws std::invalid_argument where there is none.
  const Tensor& grad() const;
  /// Sets the gradient; shape, dtype and device must match. An undefined tensor drops it. Throws std::invalid_argument,
  /// too, where it is this tensor, or holds it as a gradient of its own: neither would ever be freed. detach() gives
  /// one on the same memory that may be set.
  void set_grad(const Tensor& grad) const;

  /// Gives this body the memory, shape and dtype of another, without a gradient: all handles to this body see it.
  /// For Module::to.
  void assign_(const Tensor& other) const;

 private:
  friend detail::Body* detail::body_of(const Tensor& x);
  explicit Tensor(detail::Body* body);
  void check_data(DType dtype) const;
  struct Item {
    DType dtype;
    double floating;
    float single;  ///< the same, and
    bool nonzero;  ///< this too made by the library, as the caller's environment may flush subnormals
    int64_t integer;
    /// Throws std::invalid_argument where it is outside of an integer type from `low` to `high`; compiled with the
    /// library, as -ffast-math would let a NaN pass.
    void check_range(int64_t low, uint64_t high) const;
  };
  Item only_item() const;
  static Tensor from_raw(const void* values, size_t count, const Shape& shape, DType dtype);

  detail::Ref<detail::Body> body_;
};

/// Prints values; large tensors are abbreviated to their edges: tensor([[1, 2, ...], ...], shape=(1000, 64),
/// f32)
std::ostream& operator<<(std::ostream& out, const Tensor& tensor);

namespace detail {

inline Body* body_of(const Tensor& x) { return x.body_.get(); }

/// A number for what x's memory holds, so that what is made of it can be kept: another one once copy_, fill_ or an
/// optimizer have written there, or data() has handed it out. What is written through a span that was taken before, or by
/// a kernel of one's own, is not seen.
uint64_t contents_of(const Tensor& x);
void contents_change(const Tensor& x);
/// Of all tensors that are not on the CPU: a recorded step, which may have written to any, was run again.
void all_contents_change();

struct Body {
  std::atomic<int> refs{0};
  DType dtype;
  bool requires_grad = false;
  /// Of results of ops, written once, before another thread can see them: the tape, 0 for none, and the place there.
  int32_t slot = -1;
  uint64_t tape = 0;
  Shape shape;
  Ref<Storage> storage;
  Tensor grad;

  /// Gradients of gradients go one by one: a long chain would overflow the stack.
  ~Body() {
    while (grad.defined() && body_of(grad)->refs == 1) grad = std::move(body_of(grad)->grad);
  }
  static void* operator new(size_t size) { return pool_allocate(size); }
  static void operator delete(void* p) { pool_free(p, sizeof(Body)); }
};

}  // namespace detail

inline Tensor::Tensor() = default;
inline Tensor::Tensor(detail::Body* body) : body_(body) {}
inline Tensor::~Tensor() = default;
inline Tensor::Tensor(const Tensor&) = default;
inline Tensor::Tensor(Tensor&&) noexcept = default;
inline Tensor& Tensor::operator=(const Tensor&) = default;
inline Tensor& Tensor::operator=(Tensor&&) noexcept = default;

template <class T>
T Tensor::item() const {
  const Item only = only_item();
  const bool integer = is_integer(only.dtype);
  if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>)
    only.check_range(std::numeric_limits<T>::min(), std::numeric_limits<T>::max());
  if constexpr (std::is_same_v<T, bool>) return only.nonzero;
  if constexpr (std::is_same_v<T, float>) return only.single;
  return integer ? static_cast<T>(only.integer) : static_cast<T>(only.floating);
}

template <class T>
Tensor Tensor::from(std::span<T> values, const Shape& shape) {
  using Value = std::remove_cv_t<T>;
  if constexpr (std::is_integral_v<Value> && !std::is_same_v<Value, int64_t> &&
                !std::is_same_v<Value, uint8_t>) {
    for (const Value v : values)
      if (!std::in_range<int64_t>(v)) fail("from: i64 cannot hold ", v);
    const std::vector<int64_t> wide(values.begin(), values.end());
    return from_raw(wide.data(), wide.size(), shape, DType::i64);
  } else {
    return from_raw(values.data(), values.size(), shape, dtype_of<Value>);
  }
}

}  // namespace altgrad
ALTGRAD_API_END
