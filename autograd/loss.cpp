// Losses. cross_entropy is fused: on the CPU it keeps the logits and two numbers a row, no probabilities. On a GPU,
// whose time goes into memory, forward makes the gradient while it has a row at hand, and keeps that, not the logits.
#include <altgrad/autograd/internal/common.h>
#include <altgrad/autograd/ops.h>
#include <altgrad/core/internal/kernels/rows.h>

namespace altgrad {
namespace {

struct CrossEntropy final : Op {
  static constexpr const char* name = "cross_entropy";
  Tensor x, targets, lse, weight;  // on the CPU
  Tensor dx;                       // on a GPU, for dy = 1
  int64_t ignore;

  Tensor forward(const Tensor& logits, const Tensor& targets_in, int64_t ignore_index) {
    x = logits, targets = targets_in, ignore = ignore_index;
    weight = Tensor::empty({}, detail::in_compute_dtype(x));
    launch(name, AG_KERNEL(kernels::target_weight), weight, targets.ptr<int64_t>(), targets.numel(), ignore);
    const Tensor losses = Tensor::empty(targets.shape(), weight.options());
    if (recorded && !x.device().is_cpu()) {
      dx = Tensor::empty(x.shape(), x.options());
      on_gpu([&]<class T>(const Cuda& device) {
        kernels::cross_entropy_with_grad(device, losses.ptr<Compute<T>>(), dx.ptr<T>(),
                                         weight.ptr<Compute<T>>(), x.ptr<T>(), targets.ptr<int64_t>(),
                                         targets.numel(), x.size(-1), ignore);
      });
      x = Tensor();
    } else {
      lse = Tensor::empty({targets.numel(), 2}, weight.options());
      launch(name, AG_KERNEL(kernels::cross_entropy), in_compute(losses), structs_in<kernels::LogSumExp>(lse),
             x, targets.ptr<int64_t>(), targets.numel(), x.size(-1), ignore);
    }
    return sum(losses) * weight;
  }

  // dx = dy * weight * (softmax(x) - [column = target]), 0 in ignored rows. In bf16 what forward has made is rounded once
  // more where dy is no power of two.
  void backward(const Tensor& dy, Grads& d) override {
    if (dx.defined()) {
      on_gpu([&]<class T>(const Cuda& device) {
        kernels::scale(device, dx.ptr<T>(), dy.ptr<Compute<T>>(), dx.numel());
      });
    } else {
      dx = Tensor::empty(x.shape(), x.options());
      launch(name, AG_KERNEL(kernels::cross_entropy_grad), dx, in_compute(dy), in_compute(weight), x,
             structs_in<kernels::LogSumExp>(lse), targets.ptr<int64_t>(), targets.numel(), x.size(-1),
             ignore);
    }
    d.add(0, dx);
  }

 private:
  // f.operator()<T>(device) for dx's dtype and device.
  template <class F>
  void on_gpu(F f) const {
    dispatch_activation(name, dx, [&]<class T, class On>(const On& device) {
      if constexpr (std::is_same_v<On, Cuda>) f.template operator()<T>(device);
    });
  }
};

}  // namespace

Tensor cross_entropy(const Tensor& logits, const Tensor& targets, int64_t ignore_index) {
  check_activation("cross_entropy", logits);
  if (logits.dim() == 0 || !(logits.shape().erased(-1) == targets.shape())) {
    fail("cross_entropy: targets ", targets.shape(), " do not match logits ", logits.shape(),
         ", (..., classes)");
  }
  if (targets.device() != logits.device()) {
    fail("cross_entropy: logits are on ", logits.device(), ", targets on ", targets.device());
  }
  detail::check_ids("cross_entropy", targets, logits.size(-1), ignore_index);
  return apply<CrossEntropy>(logits, targets, ignore_index);
}

Tensor mse_loss(const Tensor& x, const Tensor& target) {
  check_same_kind("mse_loss", x, target);
  check_floating("mse_loss", x);
  if (!(x.shape() == target.shape()))
    fail("mse_loss: x ", x.shape(), " and target ", target.shape(), " differ");
  const Tensor difference = x - target;
  return mean(difference * difference);
}

}  // namespace altgrad
