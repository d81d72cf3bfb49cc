// A training step that is started as one piece. On a GPU the host of a small model cannot start kernels as fast as they
// run; so the step is recorded once, as a CUDA graph, and replayed:
//
//   optim::CapturedStep step(device, [&](const Tensor& x, const Tensor& y) {
//     Tape tape;
//     const Tensor loss = model.loss(x, y);
//     tape.backward(loss);
//     nn::clip_grad_norm_(parameters, 1.0);
//     opt.step();
//     opt.zero_grad();
//     return loss;
//   });
//   for (int64_t i = 0; i < steps; ++i) {
//     opt.set_lr(schedule(i));
//     auto [x, y] = data.batch("train", 64);
//     const Tensor loss = step(x, y);
//     if (i % 10 == 9) std::cout << loss.item<float>() << '\n';  // here alone the host waits
//   }
//
// The results are those of the function itself, to the last bit, on a CPU it is called each time.
#pragma once

#include <altgrad/core/tensor.h>

#include <concepts>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

ALTGRAD_API_BEGIN
namespace altgrad {
namespace detail {
class Graph;
}

namespace optim {

/// The first two calls, and the first two with inputs of other shapes or dtypes, run the function; then it is called once
/// more to record what it starts on the device, and from there on that is replayed, without the function. So it must do
/// the same each time:
/// - What changes with each step comes in as an input, or is one of these, which the library keeps account of: learning
///   rates, the optimizers' counts, random numbers, and all that lies in memory of the device, such as amax histories.
///   After a change of a weight decay, of a seed or of the precision of products, where a module's tensors have got other
///   memory, as by to(), and after surgery, it records anew.
/// - After a change of anything else, of a layer's mode or formats, say, call reset().
/// - A tensor that it keeps from step to step must be written in place.
/// - It draws from the thread's two generators, or from those that are given here, and seeds none.
/// - An optimizer makes one step in it.
/// - It reads nothing, waits for nothing, copies nothing from the host and works on no other GPU: in the call that
///   records it that throws std::invalid_argument. So does another generator. What the function throws there leaves
///   parameters, optimizers and generators as they were, and drops the gradients that were set; the next call records
///   again.
/// While it is recorded, no other thread may use the device. Its memory, about that of one step, is its own until it is
/// destroyed or reset.
class CapturedStep {
 public:
  /// `step` is a function of tensors that gives a tensor, which may be undefined. `generators` must live as long as this.
  template <class F>
  CapturedStep(Device device, F step, std::vector<Generator*> generators = {})
      : CapturedStep(device, of_inputs(std::function(std::move(step))), std::move(generators)) {}
  ~CapturedStep();
  CapturedStep(CapturedStep&& other) noexcept;
  CapturedStep& operator=(CapturedStep&& other) noexcept;

  /// Makes a step on these inputs, which may lie on the host; the function gets them in memory of the device. Gives what
  /// it gives, in memory of its own. Throws std::invalid_argument where their number is not the function's, or one takes
  /// part in a gradient.
  template <std::same_as<Tensor>... Inputs>
  Tensor operator()(const Inputs&... inputs) {
    return run(std::vector<Tensor>{inputs...});
  }
  /// Forgets what is recorded, and gives its memory back.
  void reset();
  /// Is there a recorded step, which the next call replays if it fits?
  bool is_captured() const { return graph_ != nullptr; }

 private:
  using Function = std::function<Tensor(std::span<const Tensor>)>;
  template <class... Inputs>
  static Function of_inputs(std::function<Tensor(Inputs...)> step) {
    return [step = std::move(step)](std::span<const Tensor> inputs) {
      if (inputs.size() != sizeof...(Inputs))
        fail("CapturedStep: got ", inputs.size(), " inputs, the function has ", sizeof...(Inputs));
      return [&]<size_t... I>(std::index_sequence<I...>) { return step(inputs[I]...); }
      (std::index_sequence_for<Inputs...>());
    };
  }
  CapturedStep(Device device, Function step, std::vector<Generator*> generators);
  Tensor run(const std::vector<Tensor>& inputs);
  void take(const std::vector<Tensor>& inputs);
  Tensor call() const;
  void record();

  Device device_;
  Function step_;
  std::vector<Generator*> generators_;
  std::vector<Tensor> inputs_;  // in the memory that the recorded step reads
  int calls_ = 0;               // of the function with such inputs
  std::unique_ptr<detail::Graph> graph_;
  Tensor result_;  // of the recorded step
};

}  // namespace optim
}  // namespace altgrad
ALTGRAD_API_END
