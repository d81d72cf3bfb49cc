// Printing tensors: nested brackets as NumPy does, the middle of long axes left out.
#include <altgrad/core/float_environment.h>
#include <altgrad/core/tensor.h>

#include <iomanip>
#include <ostream>

namespace altgrad {
namespace {

constexpr int64_t edge = 3;           // elements kept at each end of a long axis
constexpr int64_t long_axis = 8;      // longer axes are abbreviated
constexpr int64_t small_tensor = 64;  // but tensors up to this size are printed in full

class Printer {
 public:
  Printer(std::ostream& out, const Tensor& tensor)
      : out_(out), tensor_(tensor), full_(tensor.numel() > 0 && tensor.numel() <= small_tensor) {}

  // The part of the tensor below the first `axis` indices, starting at flat element `begin`.
  void print(int axis, int64_t begin) {
    const Shape& shape = tensor_.shape();
    if (axis == shape.dim()) {
      element(begin);
      return;
    }
    const int64_t n = shape[axis], step = shape.product(axis + 1, shape.dim());
    out_ << '[';
    for (int64_t i = 0; i < n; ++i) {
      if (i > 0) separator(axis);
      if (!full_ && n > long_axis && i == edge) {
        out_ << "...";
        i = n - edge - 1;
        continue;
      }
      print(axis + 1, begin + i * step);
    }
    out_ << ']';
  }

 private:
  void separator(int axis) {
    if (axis + 1 == tensor_.dim()) {
      out_ << ", ";
    } else {
      out_ << ",\n" << std::string(size_t(axis) + 8, ' ');  // under the bracket after "tensor("
    }
  }
  void element(int64_t i) {
    switch (tensor_.dtype()) {  // in strings, so that the stream's own settings and locale stay out of it
      case DType::f32: out_ << concat(std::setprecision(5), tensor_.ptr<float>()[i]); break;
      case DType::f64: out_ << concat(std::setprecision(8), tensor_.ptr<double>()[i]); break;
      case DType::i64: out_ << std::to_string(tensor_.ptr<int64_t>()[i]); break;
      case DType::u8: out_ << std::to_string(tensor_.ptr<uint8_t>()[i]); break;
      case DType::bf16: out_ << concat(std::setprecision(4), tensor_.ptr<bfloat16>()[i]); break;
    }
  }

  std::ostream& out_;
  const Tensor& tensor_;
  bool full_;
};

}  // namespace

std::ostream& operator<<(std::ostream& out, const Tensor& tensor) {
  if (!tensor.defined()) return out << "tensor()";
  const Tensor host = tensor.device().is_cpu() ? tensor : tensor.copied({tensor.dtype()});
  const DefaultFloatEnvironment environment;
  out << "tensor(";
  Printer(out, host).print(0, 0);
  out << ", shape=" << tensor.shape() << ", " << tensor.dtype();
  if (!tensor.device().is_cpu()) out << ", " << tensor.device();
  if (tensor.requires_grad()) out << ", requires_grad";
  return out << ')';
}

}  // namespace altgrad
