// Eager calls come first: they load kernels, choose algorithms, fill the cache of memory and make what an optimizer keeps.
#include <altgrad/nn/optim/captured_step.h>

#include <altgrad/core/internal/graph.h>

#include <algorithm>

namespace altgrad::optim {
namespace {

constexpr int eager_calls = 2;

Tensor own(const Tensor& y) { return y.defined() ? y.copied() : y; }

}  // namespace

CapturedStep::CapturedStep(Device device, Function step, std::vector<Generator*> generators)
    : device_(device), step_(std::move(step)), generators_(std::move(generators)) {}
CapturedStep::~CapturedStep() = default;
CapturedStep::CapturedStep(CapturedStep&& other) noexcept = default;
CapturedStep& CapturedStep::operator=(CapturedStep&& other) noexcept = default;

void CapturedStep::reset() {
  graph_.reset();
  result_ = Tensor();
  calls_ = 0;
}

Tensor CapturedStep::run(const std::vector<Tensor>& inputs) {
  if (detail::Graph::recording()) fail("CapturedStep: called by a step that is being captured");
  for (const Tensor& x : inputs) {
    if (x.requires_grad() || x.is_recorded())
      fail("CapturedStep: an input of shape ", x.shape(), " takes part in a gradient; detach() it");
  }
  if (device_.is_cpu()) {
    inputs_.clear();
    for (const Tensor& x : inputs) inputs_.push_back(x.to(device_));
    return own(step_(inputs_));
  }
  if (graph_ && !graph_->fits()) reset();
  take(inputs);
  if (calls_ < eager_calls) {
    const Tensor y = own(call());
    ++calls_;
    return y;
  }
  if (!graph_) record();
  graph_->run();
  return own(result_);
}

// Copies the inputs to where the recorded step reads them, or begins anew where they are others.
void CapturedStep::take(const std::vector<Tensor>& inputs) {
  const auto alike = [](const Tensor& a, const Tensor& b) {
    return a.shape() == b.shape() && a.dtype() == b.dtype();
  };
  if (!std::ranges::equal(inputs, inputs_, alike)) {
    reset();
    inputs_.clear();
    for (const Tensor& x : inputs) inputs_.push_back(Tensor::empty(x.shape(), {x.dtype(), device_}));
  }
  for (size_t i = 0; i < inputs.size(); ++i) inputs_[i].copy_(inputs[i]);
}

Tensor CapturedStep::call() const {
  const Tensor y = step_(inputs_);
  if (y.defined() && y.device() != device_)
    fail("CapturedStep: the function gives a tensor on ", y.device(), ", and the step is one of ", device_);
  return y;
}

void CapturedStep::record() {
  Tensor result;
  graph_ = std::make_unique<detail::Graph>(device_, generators_, [&] { result = call(); });
  result_ = result.defined() ? result.detach() : result;
}

}  // namespace altgrad::optim
