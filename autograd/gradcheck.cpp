// Gradients against central differences. Both sides see the same random numbers: the thread's generators are
// set back before each call of fn.
#include <altgrad/autograd/gradcheck.h>
#include <altgrad/autograd/internal/common.h>
#include <altgrad/autograd/internal/recompute_log.h>
#include <altgrad/autograd/ops.h>
#include <altgrad/core/internal/ids.h>

#include <cmath>
#include <iomanip>
#include <limits>

namespace altgrad {
namespace {

// What the check touches besides its own tensors, put back when it ends, also by an exception.
class Restore {
 public:
  ~Restore() {
    rewind();
    for (const auto& [leaf, values] : values_) leaf.copy_(values);
  }
  void rewind() const { random_.restore(); }
  // The values to be put back at the end.
  const Tensor& keep_values(const Tensor& leaf) { return values_.emplace_back(leaf, leaf.copied()).second; }

 private:
  const detail::RandomState random_{};
  std::vector<std::pair<Tensor, Tensor>> values_;
};

// +-[0.5, 1.5), so that no element of the output goes unseen.
Tensor random_cotangent(const Tensor& y, uint64_t seed) {
  const RandomStream random{seed, 0};
  Tensor v = Tensor::empty(y.shape(), {DType::f64});
  for (int64_t i = 0; i < v.numel(); ++i) {
    const uint32_t word = random.word(uint64_t(i));
    v.ptr<double>()[i] = (word & 1 ? 1 : -1) * (0.5 + uniform01(word));
  }
  return v.to(y.device());
}

// v^T fn()'s gradients, and v, undefined where fn's result has no gradient.
struct Analytic {
  Tensor v;
  std::vector<Tensor> leaves, grads;

  // Undefined where it is zero.
  Tensor grad(const Tensor& leaf) const {
    for (size_t i = 0; i < leaves.size(); ++i) {
      if (leaves[i].id() == leaf.id()) return grads[i];
    }
    return {};
  }
};

// Runs fn on a tape and backward; a message tells where there is no gradient.
Analytic run_backward(const std::function<Tensor()>& fn, const Restore& restore, uint64_t seed,
                      std::string& message) {
  restore.rewind();
  Tape tape;
  const Tensor result = fn();
  if (!is_floating(result.dtype())) {
    message = concat("the result, ", result.dtype(), " of shape ", result.shape(), ", is not differentiable");
    return {};
  }
  const Tensor y = result.reshape(result.shape());  // an op of this tape, also where fn returns a leaf
  if (!y.is_recorded()) {
    message =
        concat("the result, of shape ", y.shape(), ", does not depend on the inputs through recorded ops");
    return {};
  }
  const Tensor v = random_cotangent(y, seed).to(y.dtype());
  std::vector<Tensor> grads = tape.gradients(y, v);
  return {v.copied({DType::f64}), tape.leaves(), std::move(grads)};
}

// The central difference of v^T fn() along whatever move(step) changes.
double central_difference(const std::function<Tensor()>& fn, const std::function<void(double)>& move,
                          double step, const Tensor& v, const Restore& restore) {
  const NoGrad off;
  const auto at = [&](double h) {
    move(h);
    restore.rewind();
    return fn().copied({DType::f64});  // fn may return what move changes
  };
  const Tensor above = at(step), below = at(-step);
  if (!(above.shape() == v.shape() && below.shape() == v.shape())) {
    fail("gradcheck: the shape of the result changes with its inputs' values: ", v.shape(), ", then ",
         above.shape());
  }
  double difference = 0;
  for (int64_t i = 0; i < v.numel(); ++i) {
    difference += v.ptr<double>()[i] * (above.ptr<double>()[i] - below.ptr<double>()[i]);
  }
  return difference / (2 * step);
}

// Notes one comparison; the worst one so far becomes the message, where() saying what it is of.
template <class F>
void compare(GradcheckResult& result, double tolerance, double analytic, double numeric, F&& where) {
  const double scale = std::max({1.0, std::abs(analytic), std::abs(numeric)});
  double error = std::abs(analytic - numeric) / scale;
  if (!std::isfinite(analytic) || !std::isfinite(numeric)) error = std::numeric_limits<double>::infinity();
  if (!result.message.empty() && !(error > result.max_error)) return;
  result.max_error = error;
  result.ok = error <= tolerance;
  result.message = concat(std::setprecision(10), where(), ": analytic ", analytic, ", numeric ", numeric,
                          ", error ", error, result.ok ? " <= " : " > ", "tolerance ", tolerance);
}

}  // namespace

GradcheckResult gradcheck(const std::function<Tensor(std::span<const Tensor>)>& fn,
                          std::vector<Tensor> inputs, GradcheckOptions options) {
  if (!fn) fail("gradcheck: it was given no function");
  bool any = false;
  for (size_t i = 0; i < inputs.size(); ++i) {
    Tensor& x = inputs[i];
    if (x.dtype() == DType::f32) fail("gradcheck: input ", i, ", shape ", x.shape(), ", is f32; needs f64");
    any = any || x.dtype() == DType::f64;
  }
  if (!any) fail("gradcheck: none of ", inputs.size(), " inputs is f64");

  const Restore restore;
  for (Tensor& x : inputs) {
    x = x.copied();
    if (is_floating(x.dtype())) x.requires_grad(true);
  }
  const auto call = [&] { return fn(inputs); };
  GradcheckResult result;
  const Analytic at = run_backward(call, restore, options.seed, result.message);
  if (!at.v.defined()) return result;

  result.ok = true;
  for (size_t k = 0; k < inputs.size(); ++k) {
    const Tensor& x = inputs[k];
    if (!is_floating(x.dtype())) continue;
    const Tensor values = x.copied({x.dtype()}), probe = values.copied();
    const Tensor grad = at.grad(x),
                 analytic = grad.defined() ? grad.to(Device::cpu()) : Tensor::zeros(x.shape(), {DType::f64});
    for (int64_t i = 0; i < x.numel(); ++i) {
      const double x0 = values.ptr<double>()[i];
      const auto move = [&](double h) {
        probe.ptr<double>()[i] = x0 + h;
        x.copy_(probe);
      };
      const double step = options.step * std::max(1.0, std::abs(x0));
      const double numeric = central_difference(call, move, step, at.v, restore);
      move(0);
      compare(result, options.tolerance, analytic.ptr<double>()[i], numeric,
              [&] { return concat("input ", k, ", element ", position(x.shape(), i)); });
    }
  }
  return result;
}

GradcheckResult gradcheck_directional(const std::function<Tensor()>& fn,
                                      const std::vector<Tensor>& parameters, GradcheckOptions options) {
  if (!fn) fail("gradcheck_directional: it was given no function");
  if (parameters.empty()) fail("gradcheck_directional: no parameters given");
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Tensor& p = parameters[i];
    if (p.dtype() != DType::f64) {
      fail("gradcheck_directional: parameter ", i, ", shape ", p.shape(), ", is ", p.dtype(), "; needs f64");
    }
    if (!p.requires_grad()) {
      fail("gradcheck_directional: parameter ", i, ", shape ", p.shape(), ", does not require a gradient");
    }
  }
  Restore restore;
  Generator random(options.seed + 1);
  std::vector<Tensor> directions;
  std::vector<Tensor> values;
  for (const Tensor& p : parameters) {
    directions.push_back(Tensor::randn(p.shape(), p.options(), random));
    values.push_back(restore.keep_values(p));
  }
  GradcheckResult result;
  const Analytic at = run_backward(fn, restore, options.seed, result.message);
  if (!at.v.defined()) return result;

  const NoGrad off;
  double analytic = 0;
  for (size_t k = 0; k < parameters.size(); ++k) {
    const Tensor grad = at.grad(parameters[k]);
    if (grad.defined()) analytic += sum(grad * directions[k]).item<double>();
  }
  const auto move = [&](double h) {
    for (size_t k = 0; k < parameters.size(); ++k) parameters[k].copy_(values[k] + directions[k] * h);
  };
  const double numeric = central_difference(fn, move, options.step, at.v, restore);
  compare(result, options.tolerance, analytic, numeric,
          [&] { return concat("directional derivative over ", parameters.size(), " parameters"); });
  return result;
}

}  // namespace altgrad
