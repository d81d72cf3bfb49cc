// Tensors: where they come from, how they are read and written, what they hold for autograd.
#include <altgrad/core/tensor.h>

#include <altgrad/core/cuda/cuda.h>
#include <altgrad/core/dispatch.h>
#include <altgrad/core/internal/graph.h>
#include <altgrad/core/internal/host_reads.h>
#include <altgrad/core/internal/kernels/elementwise.h>
#include <altgrad/core/internal/kernels/random.h>

#include <cstring>

namespace altgrad {
namespace {

void copy_bytes(void* dst, Device to, const void* src, Device from, size_t bytes) {
  if (bytes == 0) return;
  if (to.is_cpu() && from.is_cpu()) {
    std::memcpy(dst, src, bytes);
  } else {
    cuda::copy(dst, to, src, from, bytes);
  }
}

}  // namespace

Tensor Tensor::empty(const Shape& shape, TensorOptions options) {
  if (size_of(options.dtype) == 0) fail("empty: dtype ", int(options.dtype), " is none of DType");
  Tensor t(new detail::Body);
  t.body_->dtype = options.dtype;
  t.body_->shape = shape;
  t.body_->storage =
      detail::Ref(new detail::Storage(size_t(shape.numel()) * size_of(options.dtype), options.device));
  return t;
}

Tensor Tensor::zeros(const Shape& shape, TensorOptions options) { return full(shape, 0, options); }
Tensor Tensor::ones(const Shape& shape, TensorOptions options) { return full(shape, 1, options); }
Tensor Tensor::full(const Shape& shape, double value, TensorOptions options) {
  Tensor t = empty(shape, options);
  t.fill_(value);
  return t;
}

Tensor Tensor::arange(int64_t n, TensorOptions options) {
  if (n < 0) fail("arange: n = ", n);
  if (options.dtype == DType::u8 && n > 256) fail("arange: u8 cannot hold ", n - 1);
  Tensor t = empty({n}, {options.dtype});
  dispatch_all(t, [&]<class T>(const auto&) {
    for (int64_t i = 0; i < n; ++i) t.ptr<T>()[i] = T(i);
  });
  return t.to(options.device);
}

Tensor Tensor::rand(const Shape& shape, TensorOptions options, Generator& generator) {
  check_floating("rand", options.dtype, shape);
  Tensor t = empty(shape, options);
  launch("rand", AG_KERNEL(kernels::uniform), t, generator.next(), t.numel());
  return t;
}

Tensor Tensor::randn(const Shape& shape, TensorOptions options, Generator& generator) {
  check_floating("randn", options.dtype, shape);
  Tensor t = empty(shape, options);
  launch("randn", AG_KERNEL(kernels::normal), t, generator.next(), t.numel());
  return t;
}

Tensor Tensor::randint(int64_t high, const Shape& shape, Device device, Generator& generator) {
  if (high < 1) fail("randint: high must be at least 1, got ", high);
  Tensor t = empty(shape, {DType::i64, device});
  dispatch_device(device, [&](const auto& on) {
    kernels::randint(on, t.ptr<int64_t>(), high, generator.next(), t.numel());
  });
  return t;
}

Tensor Tensor::from_raw(const void* values, size_t count, const Shape& shape, DType dtype) {
  if (int64_t(count) != shape.numel()) fail("from: ", count, " values do not fill shape ", shape);
  Tensor t = empty(shape, {dtype});
  copy_bytes(t.raw(), Device::cpu(), values, Device::cpu(), t.nbytes());
  return t;
}

namespace {
detail::Body& defined_body(const Tensor& t) {
  if (!t.defined()) fail("this tensor is empty: it was default-constructed or moved from");
  return *detail::body_of(t);
}

// The last number that contents_of has given, and the last that counts for nothing off the CPU.
std::atomic<uint64_t> last_contents{0}, past_contents{0};
}  // namespace

uint64_t detail::contents_of(const Tensor& x) {
  std::atomic<uint64_t>& contents = defined_body(x).storage->contents;
  const uint64_t past = x.device().is_cpu() ? 0 : past_contents.load(std::memory_order_relaxed);
  uint64_t known = contents.load(std::memory_order_relaxed);
  if (known <= past) {
    const uint64_t next = last_contents.fetch_add(1, std::memory_order_relaxed) + 1;
    if (contents.compare_exchange_strong(known, next, std::memory_order_relaxed)) known = next;
  }
  return known;
}
void detail::all_contents_change() {
  uint64_t past = past_contents.load();
  const uint64_t now = last_contents.load();
  while (past < now && !past_contents.compare_exchange_weak(past, now)) {
  }
}
void detail::contents_change(const Tensor& x) {
  defined_body(x).storage->contents.store(0, std::memory_order_relaxed);
}

const Shape& Tensor::shape() const { return defined_body(*this).shape; }
DType Tensor::dtype() const { return defined_body(*this).dtype; }
Device Tensor::device() const { return defined_body(*this).storage->device; }
void* Tensor::raw() const { return defined_body(*this).storage->data; }
bool Tensor::is(const Tensor& other) const {
  return defined_body(*this).storage.get() == defined_body(other).storage.get();
}

void Tensor::check_data(DType wanted) const {
  if (dtype() != wanted) fail("data<", wanted, ">: this tensor holds ", dtype(), ", shape ", shape());
  if (!device().is_cpu()) fail("data: this tensor is on ", device(), "; copy it with to(Device::cpu())");
  detail::contents_change(*this);
}

Tensor::Item Tensor::only_item() const {
  if (numel() != 1) fail("item: needs one element, shape is ", shape());
  ++detail::host_reads;
  Item item{dtype(), 0, 0, false, 0};
  dispatch_all(*this, [&]<class T>(const auto&) {
    T element;
    copy_bytes(&element, Device::cpu(), raw(), device(), sizeof(T));
    if constexpr (std::is_integral_v<T>) {
      item.integer = element;
    } else {
      item.floating = element;
    }
    item.single = float(element);
    item.nonzero = element != 0;
  });
  return item;
}

void Tensor::Item::check_range(int64_t low, uint64_t high) const {
  const bool fits = is_integer(dtype) ? integer >= low && (integer < 0 || uint64_t(integer) <= high)
                                      : floating >= double(low) && floating < double(high) + 1;
  if (!fits) fail("item: the integer type asked for cannot hold the element");
}

void Tensor::copy_(const Tensor& src) const {
  if (!(shape() == src.shape())) fail("copy_: shape ", src.shape(), " does not match ", shape());
  detail::contents_change(*this);
  if (dtype() == src.dtype()) {
    copy_bytes(raw(), device(), src.raw(), src.device(), nbytes());
    return;
  }
  const Tensor moved = src.device() == device() ? src : src.copied({src.dtype(), device()});
  dispatch_all(*this, [&]<class To>(const auto& device) {
    dispatch_all(moved, [&]<class From>(const auto&) {
      kernels::cast(device, ptr<To>(), moved.ptr<From>(), numel());
    });
  });
}

void Tensor::fill_(double value) const {
  detail::contents_change(*this);
  dispatch_all(*this, [&]<class T>(const auto& device) {
    if (!fits<T>(value)) fail("fill: ", dtype(), " cannot hold ", value);
    kernels::fill(device, ptr<T>(), T(value), numel());
  });
}

Tensor Tensor::copied(TensorOptions options) const {
  const Tensor copy = empty(shape(), options);
  copy.copy_(*this);
  return copy;
}

Tensor Tensor::detach() const { return alias(shape()); }

Tensor Tensor::alias(const Shape& shape) const {
  if (shape.numel() != numel()) fail("alias: ", this->shape(), " does not fill shape ", shape);
  Tensor t(new detail::Body);
  t.body_->dtype = dtype();
  t.body_->shape = shape;
  t.body_->storage = body_->storage;
  return t;
}

bool Tensor::requires_grad() const { return defined_body(*this).requires_grad; }

const Tensor& Tensor::requires_grad(bool on) const {
  if (on && !has_gradient(dtype())) fail("requires_grad: a tensor of ", dtype(), " has no gradient");
  if (on && is_recorded())
    fail("requires_grad: this tensor, shape ", shape(), ", is the result of an op; detach() it");
  body_->requires_grad = on;
  return *this;
}

bool Tensor::is_recorded() const { return defined_body(*this).tape != 0; }

bool Tensor::has_grad() const { return defined_body(*this).grad.defined(); }

const Tensor& Tensor::grad() const {
  if (!has_grad()) fail("grad: this tensor, shape ", shape(), ", has no gradient; see has_grad()");
  return body_->grad;
}

void Tensor::set_grad(const Tensor& grad) const {
  if (grad.defined() &&
      (!(grad.shape() == shape()) || grad.dtype() != dtype() || !(grad.device() == device()))) {
    fail("set_grad: gradient ", grad.shape(), " ", grad.dtype(), " ", grad.device(), " does not match ",
         shape(), " ", dtype(), " ", device());
  }
  for (const detail::Body* b = detail::body_of(grad); b; b = detail::body_of(b->grad)) {
    if (b == body_.get())
      fail("set_grad: a tensor, shape ", shape(), ", cannot be the gradient of itself; detach() it");
  }
  defined_body(*this).grad = grad;
  if (detail::Graph* const graph = detail::Graph::recording()) graph->add_gradient_of(*this);
}

void Tensor::assign_(const Tensor& other) const {
  detail::Body &to = defined_body(*this), &from = defined_body(other);
  to.dtype = from.dtype;
  to.shape = from.shape;
  to.storage = from.storage;
  to.grad = Tensor();
  detail::Graph::model_changed();
}

}  // namespace altgrad
