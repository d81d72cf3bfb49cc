// checkpoint: the gradients of the function itself, for less memory.
#include <altgrad/altgrad.h>

#include "errors.h"
#include "reference.h"

using namespace altgrad;
using reference::randn;

namespace {

struct Net {
  Tensor w1 = randn({8, 4}, 1), w2 = randn({4, 8}, 2);
  Net() { w1.requires_grad(true), w2.requires_grad(true); }
  Tensor operator()(const Tensor& x) const { return linear(gelu(dropout(linear(x, w1), 0.3)), w2); }
};

struct Result {
  Tensor y, dx, dw1, dw2;
  Generator::State state;
};
// Two blocks, the second on the result of the first, run plainly or checkpointed.
Result run(bool recompute) {
  const Net net;
  const Tensor x = randn({5, 4}, 3);
  x.requires_grad(true);
  manual_seed(9);
  const auto block = [&](const Tensor& t) { return recompute ? checkpoint(net, t) : net(t); };
  Tape tape;
  const Tensor y = block(block(x) + x);
  tape.backward(y, randn({5, 4}, 4));
  return {y, x.grad(), net.w1.grad(), net.w2.grad(), default_generator().state()};
}

struct Refuses final : Op {
  static constexpr const char* name = "refuses";
  Tensor forward(const Tensor& x) { return x.clone(); }
  void backward(const Tensor&, Grads&) override { throw std::runtime_error("no gradient today"); }
};

}  // namespace

TEST_CASE("checkpoint changes neither values nor gradients, with dropout inside", "[checkpoint]") {
  const Result plain = run(false), again = run(true);
  CHECK(same_bits(again.y, plain.y));
  CHECK(same_bits(again.dx, plain.dx));
  CHECK(same_bits(again.dw1, plain.dw1));
  CHECK(same_bits(again.dw2, plain.dw2));
  CHECK(again.state == plain.state);
  // Dropout draws anew each time, so the check above is not of a constant.
  CHECK(reference::distance(Net()(randn({5, 4})), Net()(randn({5, 4}))) > 1e-3);
}

TEST_CASE("checkpoint needs less memory", "[checkpoint]") {
  const Tensor x = randn({64, 64}, 1, DType::f32), w = randn({64, 64}, 2, DType::f32) * 0.1;
  const auto block = [&](Tensor t) {
    for (int i = 0; i < 8; ++i) t = tanh(linear(t, w));
    return t;
  };
  block(x);  // the first product on a GPU makes the workspace of all
  const auto peak = [&](bool recompute) {
    const Tensor input = x.clone();
    input.requires_grad(true);
    Tape tape;
    const int64_t before = memory_stats(device()).in_use;
    reset_peak_memory(device());
    Tensor y = input;
    for (int i = 0; i < 8; ++i) y = recompute ? checkpoint(block, y) : block(y);
    y = sum(y);
    tape.backward(y);
    return memory_stats(device()).peak - before;
  };
  CHECK(peak(true) * 2 < peak(false));
}

TEST_CASE("checkpoint takes token ids, frozen inputs, and functions that return what they were given",
          "[checkpoint]") {
  const Tensor ids = here::from({1, 0, 1}, {3}), w = randn({2, 4}), constant = randn({2, 4}, 2);
  w.requires_grad(true);
  const auto gradient = [&](auto&& fn, const Tensor& x) {
    w.set_grad(Tensor());
    Tape tape;
    const Tensor y = checkpoint(fn, x);
    tape.backward(y, here::ones(y.shape(), y.options()));
    return w.has_grad() ? values(w.grad()) : std::vector<double>{};
  };
  const auto all = [](double a, double b) { return std::vector<double>{a, a, a, a, b, b, b, b}; };
  CHECK(gradient([&](const Tensor& i) { return embedding(i, w); }, ids) == all(1, 2));
  CHECK(gradient([&](const Tensor& t) { return w + t; }, constant) == all(1, 1));
  CHECK(gradient([](const Tensor& t) { return t; }, w) == all(1, 1));
  CHECK(gradient([&](const Tensor&) { return w; }, constant) == all(1, 1));
  CHECK(gradient([](const Tensor& t) { return t * 2.0; }, constant).empty());
  const auto inner = [&](const Tensor& t) { return t * w; };
  CHECK(gradient([&](const Tensor& t) { return checkpoint(inner, t) + checkpoint(inner, t); },
                 here::ones({2, 4}, w.options())) == all(2, 2));
}

TEST_CASE("checkpoint outside a tape is the function", "[checkpoint]") {
  const Tensor x = randn({2, 3});
  CHECK(same_bits(checkpoint([](const Tensor& t) { return exp(t); }, x), exp(x)));
}

TEST_CASE("an exception inside a checkpointed function passes through and restores the generator",
          "[checkpoint]") {
  const Tensor x = randn({2, 3});
  x.requires_grad(true);
  int calls = 0;
  const auto fn = [&](const Tensor& t) {
    const Tensor y = dropout(t, 0.5);
    if (++calls == 2) throw std::runtime_error("second call");
    return y;
  };
  Tape tape;
  const Tensor y = sum(checkpoint(fn, x));
  const Generator::State state = default_generator().state();
  CHECK(throws<std::runtime_error>([&] { tape.backward(y); }, {"second call"}));
  CHECK(default_generator().state() == state);
  CHECK_FALSE(x.has_grad());
}

TEST_CASE("leaves that a checkpointed function holds change only after the last op has run", "[checkpoint]") {
  const Tensor x = randn({2, 3}), w = randn({2, 3}, 2);
  x.requires_grad(true), w.requires_grad(true);
  Tape tape;
  const Tensor y = sum(checkpoint([&](const Tensor& t) { return t * w; }, apply<Refuses>(x)));
  CHECK(throws<std::runtime_error>([&] { tape.backward(y); }, {"no gradient today"}));
  CHECK_FALSE(w.has_grad());
}

TEST_CASE("a checkpointed function that holds another result of the tape is refused", "[checkpoint]") {
  const Tensor x = randn({2, 3}), w = randn({2, 3}, 2);
  x.requires_grad(true), w.requires_grad(true);
  {
    Tape tape;
    const Tensor h = w * 5.0, y = sum(checkpoint([&](const Tensor&t) { return t * h; }, x));
    CHECK(throws([&] { tape.backward(y); }, {"outer tape", "detach"}));
    CHECK_FALSE((x.has_grad() || w.has_grad()));
  }
  Tape tape;
  const Tensor h = w * 5.0, y = sum(checkpoint([&](const Tensor&t) { return t * h.detach(); }, x));
  tape.backward(y);
  CHECK(same_bits(x.grad(), h.detach()));
}

TEST_CASE("a quantized layer inside a checkpoint records once and scales the same both times",
          "[checkpoint]") {
  for (const fp8::Scaling scaling : {fp8::Scaling::window, fp8::Scaling::delayed, fp8::Scaling::current}) {
    const auto train = [&](bool recompute, bool twice_nested) {
      auto layer = fp8::QuantizedLinear::from_linear(
          nn::Linear(here::from({1.f, 0.5f}, {1, 2})), fp8::E4M3,
          {.input_format = fp8::E4M3, .grad_format = fp8::E5M2, .scaling = scaling});
      layer.weight().requires_grad(true);
      std::vector<float> seen;
      for (const float large : {1.f, 37.f, 5.f}) {
        const Tensor x = here::from({large, 0.3f}, {1, 2});
        layer.zero_grad();
        const auto run = [&](const Tensor& t) { return layer.forward(t); };
        const auto nested = [&](const Tensor& t) { return checkpoint(run, t); };
        Tape tape;
        const Tensor y = twice_nested ? checkpoint(nested, x) : recompute ? checkpoint(run, x) : run(x);
        tape.backward(sum(y));
        for (const float v : values<float>(layer.weight().grad())) seen.push_back(v);
      }
      for (const fp8::AmaxHistory* h :
           {&layer.weight_history(), &layer.input_history(), &layer.grad_history()})
        seen.push_back(float(h->recorded()));
      return seen;
    };
    const std::vector<float> plain = train(false, false);
    CHECK(train(true, false) == plain);
    CHECK(train(true, true) == plain);
    CHECK(plain.back() == 3);
  }
}

namespace {

using Block = std::function<Tensor(const Tensor&)>;

// Where the checkpoints are: around each of two blocks that share layers, or around both, or some in others.
enum class Nesting { none, neighbours, around, inside, twice, in_places };

Tensor run_blocks(Nesting nesting, const Block& block, const Tensor& x) {
  const auto marked = [&block](const Tensor& t) { return checkpoint(block, t); };
  const auto both = [](const Block& f, const Tensor& t) { return f(f(t) + t); };
  switch (nesting) {
    case Nesting::none: return both(block, x);
    case Nesting::neighbours: return both(marked, x);
    case Nesting::around: return checkpoint([=, &block](const Tensor& t) { return both(block, t); }, x);
    case Nesting::inside: return checkpoint([=](const Tensor& t) { return both(marked, t); }, x);
    case Nesting::twice: return checkpoint(marked, checkpoint(marked, x) + x);
    case Nesting::in_places: return block(marked(x) + x);
  }
  return {};
}

// All that three steps of training leave behind, as numbers.
std::vector<double> train(Nesting nesting, fp8::Scaling scaling, fp8::Rounding rounding, fp8::Ste ste) {
  manual_seed(11);
  const auto quantized = [&](int64_t in, int64_t out) {
    return fp8::QuantizedLinear::from_linear(on_device(nn::Linear(in, out)), fp8::E4M3,
                                             {.input_format = fp8::E4M3,
                                              .grad_format = fp8::E5M2,
                                              .scaling = scaling,
                                              .history_length = 2,
                                              .rounding = rounding,
                                              .ste = ste});
  };
  auto up = quantized(8, 16), down = quantized(16, 8);
  const Tensor gain = here::ones({8}).requires_grad(true);
  std::vector<Tensor> parameters = up.parameters();
  for (const Tensor& p : down.parameters()) parameters.push_back(p);
  parameters.push_back(gain);
  optim::AdamW optimizer(parameters, {.lr = 0.05});
  const Block block = [&](const Tensor& t) {  // every parameter is used in several places
    const Tensor h = dropout(gelu(up.forward(t * gain)), 0.25);
    return fp8::quantize(down.forward(h) * gain, fp8::E4M3, 0.01f, {.rounding = rounding});
  };
  std::vector<double> seen;
  const auto see = [&](const Tensor& t) {
    for (const double v : values(t)) seen.push_back(v);
  };
  for (int step = 0; step < 3; ++step) {
    const Tensor x = here::randn({4, 8}) * double(1 + step % 2), target = dropout(x, 0.5);
    x.requires_grad(true);
    Tape tape;
    const Tensor loss =
        mse_loss(linear(run_blocks(nesting, block, x * gain), up.weight().detach()) * sum(gain),
                 here::zeros({4, 16})) +
        mse_loss(run_blocks(nesting, block, x), target);
    tape.backward(loss);
    see(loss), see(x.grad());
    for (const Tensor& p : parameters) see(p.grad());
    for (const auto& g : {default_generator().state(), rounding_generator().state()})
      seen.push_back(double(g.next - (g.next >> 63 << 63)));
    optimizer.step(), optimizer.zero_grad();
  }
  for (const Tensor& p : parameters) see(p);
  for (auto* layer : {&up, &down}) {
    for (const auto& [name, buffer] : layer->named_buffers()) see(buffer);
  }
  return seen;
}

}  // namespace

TEST_CASE("training with checkpoints is training without, to the last bit", "[checkpoint]") {
  std::vector<std::vector<double>> different;
  for (const fp8::Scaling scaling : {fp8::Scaling::window, fp8::Scaling::delayed, fp8::Scaling::current}) {
    for (const fp8::Rounding rounding : {fp8::Rounding::nearest_even, fp8::Rounding::stochastic}) {
      for (const fp8::Ste ste : {fp8::Ste::identity, fp8::Ste::clipped}) {
        const std::vector<double> plain = train(Nesting::none, scaling, rounding, ste);
        different.push_back(plain);
        for (const Nesting nesting :
             {Nesting::neighbours, Nesting::around, Nesting::inside, Nesting::twice, Nesting::in_places}) {
          CAPTURE(int(scaling), int(rounding), int(ste), int(nesting));
          CHECK((train(nesting, scaling, rounding, ste) == plain));
        }
      }
    }
  }
  // Scaling and rounding matter, so the checks above are of more than the layers' shapes.
  CHECK(different[0] != different[2]);
  CHECK(different[0] != different[4]);
}

TEST_CASE("a gradient that is there when a checkpoint runs backward is added to as without", "[checkpoint]") {
  // The function holds its own input, and a leaf whose gradient an op after it has given already, and fails nowhere.
  const Tensor x = randn({3, 4}, 1).requires_grad(true), w = randn({4, 4}, 2).requires_grad(true);
  const auto fn = [&](const Tensor& t) { return linear(gelu(linear(t, w)), w) + t * x; };
  const auto gradients = [&](bool recompute) {
    Tape tape;
    const Tensor y = recompute ? checkpoint(fn, x) : fn(x);
    tape.backward(sum(linear(y, w) * x));
    const std::pair grads(x.grad(), w.grad());
    x.set_grad({}), w.set_grad({});
    return grads;
  };
  const auto plain = gradients(false), again = gradients(true);
  CHECK(same_bits(again.second, plain.second));
  CHECK(reference::distance(again.first, plain.first) <
        1e-15);  // x is two tensors to fn: added up in another order
}
