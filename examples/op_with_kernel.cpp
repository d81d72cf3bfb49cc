// An op with kernels of its own, written as the built-in ones are: y = silu(x + b), a bias and its activation in one
// pass over memory. The op checks, allocates and launches; the kernels are loops over pointers.
#include <altgrad/altgrad.h>

#include <cmath>
#include <cstdio>

namespace ag = altgrad;

namespace kernels {

constexpr int64_t rows_a_thread = 64;  // at least: a thread is to have more to do than to start

// y (rows, n) = silu(x + b), b (n)
template <class T>
void bias_silu(const ag::Cpu&, T* y, const T* x, const T* b, int64_t rows, int64_t n) {
  ag::parallel_for(rows, rows_a_thread, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t i = r * n; i < (r + 1) * n; ++i) {
        const T u = x[i] + b[i - r * n];
        y[i] = u / (1 + std::exp(-u));
      }
    }
  });
}

// With s = sigmoid(x + b): dx = dy * (s + (x + b) s (1 - s))
template <class T>
void bias_silu_grad(const ag::Cpu&, T* dx, const T* dy, const T* x, const T* b, int64_t rows, int64_t n) {
  ag::parallel_for(rows, rows_a_thread, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t i = r * n; i < (r + 1) * n; ++i) {
        const T u = x[i] + b[i - r * n], s = 1 / (1 + std::exp(-u));
        dx[i] = dy[i] * (s + u * s * (1 - s));
      }
    }
  });
}

}  // namespace kernels

struct BiasSilu final : ag::Op {
  static constexpr const char* name = "bias_silu";
  ag::Tensor x, b;  // saved for backward

  ag::Tensor forward(const ag::Tensor& x_in, const ag::Tensor& b_in) {
    x = x_in, b = b_in;
    ag::Tensor y = ag::Tensor::empty(x.shape(), x.options());
    ag::launch(name, AG_KERNEL(kernels::bias_silu), y, x, b, rows(), b.numel());
    return y;
  }

  // dx = dy * silu'(x + b), db = dx summed over the rows
  void backward(const ag::Tensor& dy, ag::Grads& d) override {
    ag::Tensor dx = ag::Tensor::empty(x.shape(), x.options());
    ag::launch(name, AG_KERNEL(kernels::bias_silu_grad), dx, dy, x, b, rows(), b.numel());
    d.add(0, dx);
    if (d.needs(1)) d.add(1, ag::reduce_to_shape(dx, b.shape()));
  }

  int64_t rows() const { return x.shape().product(0, x.dim() - 1); }
};

// x (..., n), b (n) -> (..., n)
ag::Tensor bias_silu(const ag::Tensor& x, const ag::Tensor& b) {
  ag::check_same_kind("bias_silu", x, b);
  ag::check_floating("bias_silu", x);
  if (x.dim() == 0 || !(b.shape() == ag::Shape{x.size(-1)}))
    ag::fail("bias_silu: bias ", b.shape(), " does not match the last axis of x ", x.shape());
  return ag::apply<BiasSilu>(x, b);
}

int main() {
  ag::manual_seed(0);
  const ag::Tensor x = ag::Tensor::randn({200, 8}), b = ag::Tensor::randn({8});
  const double difference = ag::max(ag::abs(bias_silu(x, b) - ag::silu(x + b))).item<double>();
  std::printf("bias_silu differs from silu(x + b) by %.1e\n", difference);

  const auto check = ag::gradcheck([](std::span<const ag::Tensor> in) { return bias_silu(in[0], in[1]); },
                                   {x.narrow(0, 0, 5).to(ag::DType::f64), b.to(ag::DType::f64)});
  std::printf("gradients: %s (largest error %.1e)\n", check.ok ? "ok" : check.message.c_str(),
              check.max_error);
  return difference < 1e-5 && check.ok ? 0 : 1;
}
