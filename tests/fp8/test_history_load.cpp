// Amax histories and load_state_dict: plain weights empty them, saved ones come back bit for bit, those of
// another length keep the newest, and what is no history is refused.
#include <altgrad/fp8/surgery.h>
#include <altgrad/nn/containers.h>

#include "catch.h"
#include "errors.h"
#include "fp8_reference.h"

#include <cmath>
#include <limits>

using namespace altgrad;
using namespace altgrad::fp8;

namespace {

QuantizedLinear& layer(nn::Module& root, const char* name) {
  return dynamic_cast<QuantizedLinear&>(root.module(name));
}

StateDict cloned(const StateDict& state) {
  StateDict copy;
  for (const auto& [name, t] : state) copy[name] = t.clone();
  return copy;
}

nn::Sequential plain_net() { return on_device(nn::Sequential(nn::Linear(8, 8), nn::Linear(8, 8))); }

nn::Sequential quantized_net(int64_t history_length = 4) {
  nn::Sequential net = plain_net();
  quantize_model(net, E4M3, {.input_format = E4M3, .grad_format = E5M2, .history_length = history_length});
  return net;
}

void train_step(nn::Sequential& net, double size) {
  Tape tape;
  tape.backward(net(here::randn({4, 8}) * size), here::randn({4, 8}));
}

double relative_error(const Tensor& got, const Tensor& want) {
  const std::vector<float> a = values<float>(got), b = values<float>(want);
  double error = 0, norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    error += std::pow(double(a[i]) - b[i], 2);
    norm += std::pow(double(b[i]), 2);
  }
  return std::sqrt(error / norm);
}

}  // namespace

TEST_CASE("loading plain weights into a quantized model that has run empties its histories", "[fp8]") {
  manual_seed(1);
  for (const bool strict : {true, false}) {
    nn::Sequential net = quantized_net(), plain = plain_net();
    for (const Tensor& p : plain.parameters()) p.copy_(p.detach() * 20.0);
    train_step(net, 1);
    net.load_state_dict(plain.state_dict(), {.strict = strict});
    for (const char* name : {"0", "1"}) {
      CHECK(layer(net, name).weight_history().recorded() == 0);
      CHECK(layer(net, name).weight_history().amax() == 0);
      CHECK(layer(net, name).input_history().size() == 0);
      CHECK(layer(net, name).grad_history().size() == 0);
    }
    net.eval();
    const Tensor x = here::randn({16, 8});
    CHECK(relative_error(net(x), plain(x)) < 0.1);
  }
}

TEST_CASE("only the layers whose weights a state has lose their histories", "[fp8]") {
  manual_seed(1);
  nn::Sequential net = quantized_net();
  train_step(net, 1);
  const StateDict state = {{"1.weight", Tensor::randn({8, 8})}, {"0.bias", Tensor::zeros({8})}};
  net.load_state_dict(state, {.strict = false});
  CHECK(layer(net, "0").weight_history().recorded() == 1);
  CHECK(layer(net, "1").weight_history().recorded() == 0);
  CHECK(layer(net, "1").grad_history().recorded() == 0);
}

TEST_CASE("a quantized layer whose weight is tied loses its histories too", "[fp8]") {
  struct Tied : nn::ModuleOf<Tied> {
    nn::Slot<nn::Embedding> wte{nn::Embedding(4, 4)};
    nn::Slot<nn::Layer> lm_head{nn::Linear(wte->weight())};
    void visit(nn::Visitor& v) override { v("wte", wte), v("lm_head", lm_head); }
  } model;
  model.to(device());
  quantize_model(model, E4M3);
  (*model.lm_head.get())(here::ones({1, 4}));
  CHECK(layer(model, "lm_head").weight_history().recorded() == 1);
  model.load_state_dict({{"wte.weight", Tensor::full({4, 4}, 9)}});
  CHECK(layer(model, "lm_head").weight_history().recorded() == 0);
}

TEST_CASE("saved histories come back bit for bit", "[fp8]") {
  manual_seed(3);
  nn::Sequential net = quantized_net(), other = quantized_net();
  for (int i = 0; i < 6; ++i) train_step(net, 6 - i);
  for (int i = 0; i < 3; ++i) train_step(other, 100);
  const StateDict saved = cloned(net.state_dict());
  for (const bool strict : {true, false}) {
    other.load_state_dict(saved, {.strict = strict});
    for (const auto& [name, t] : other.state_dict()) {
      INFO(name);
      CHECK(same_bits(t, saved.at(name)));
    }
    train_step(other, 100);
  }
  // A state in f64 is one too.
  StateDict wide = saved;
  wide["0._weight_amax"] = saved.at("0._weight_amax").to(DType::f64);
  other.load_state_dict(wide);
  CHECK(same_bits(other.state_dict().at("0._weight_amax"), saved.at("0._weight_amax")));
  // A part of a history is none.
  StateDict part = cloned(saved);
  part.erase("0._input_amax_counts");
  other.load_state_dict(part);
  CHECK(layer(other, "0").input_history().recorded() == 0);
  CHECK(layer(other, "0").input_history().amax() == 0);
  CHECK(layer(other, "0").weight_history().recorded() == 6);
}

TEST_CASE("a history of another length keeps the newest amaxes, in order, and its counts", "[fp8]") {
  for (const int64_t from : {1, 2, 3, 5, 16}) {
    for (const int64_t to : {1, 2, 3, 4, 16, 33}) {
      for (const int recorded : {0, 1, 2, 3, 4, 7, 40}) {
        INFO(recorded << " amaxes, length " << from << " into " << to);
        auto a = QuantizedLinear::from_linear(on_device(nn::Linear(1, 1)), E4M3, {.history_length = from});
        auto b = QuantizedLinear::from_linear(on_device(nn::Linear(1, 1)), E4M3, {.history_length = to});
        AmaxHistory source = a.input_history(), target = b.input_history(), expected(to);
        target.update(1e6f);
        const auto amax_at = [](int i) { return float((i * 37) % 101 + 1); };
        for (int i = 0; i < recorded; ++i) source.update(amax_at(i));
        source.update(INFINITY);
        const Tensor counts = a.state_dict().at("_input_amax_counts");
        counts.copy_(Tensor::from({int64_t(recorded), int64_t(1), int64_t(1)}, {3}));  // and one clipped
        b.load_state_dict(a.state_dict());
        CHECK(target.length() == to);
        CHECK(target.recorded() == recorded);
        CHECK(target.non_finite() == 1);
        CHECK(target.clipped() == 1);

        // From here on it is as one of this length that saw what the source still held.
        std::vector<float> held;
        for (int i = std::max(0, recorded - int(from)); i < recorded; ++i) held.push_back(amax_at(i));
        for (int step = 0; step < 40; ++step) {
          const size_t kept = std::min(held.size(), size_t(to));
          CHECK(target.amax() ==
                (kept == 0 ? 0 : *std::max_element(held.end() - std::ptrdiff_t(kept), held.end())));
          held.push_back(amax_at(recorded + step));
          target.update(held.back());
        }
      }
    }
  }
}

TEST_CASE("histories of another length load whole models, strict or not", "[fp8]") {
  manual_seed(5);
  nn::Sequential a = quantized_net(16), b = quantized_net(32), c = quantized_net(2);
  for (int i = 0; i < 20; ++i) train_step(a, 20 - i);
  for (const bool strict : {true, false}) {
    b.load_state_dict(a.state_dict(), {.strict = strict});
    CHECK(layer(b, "0").input_history().amax() == layer(a, "0").input_history().amax());
    CHECK(layer(b, "0").input_history().recorded() == 20);
    c.load_state_dict(b.state_dict(), {.strict = strict});
    CHECK(layer(c, "0").input_history().amax() < layer(b, "0").input_history().amax());
    CHECK(layer(c, "0").input_history().amax() > 0);
  }
}

TEST_CASE("histories of one layer under two names must not differ, of another length neither", "[fp8]") {
  const auto layer = std::make_shared<fp8::QuantizedLinear>(
      fp8::QuantizedLinear::from_linear(on_device(nn::Linear(2, 2)), fp8::E4M3, {.history_length = 3}));
  nn::Sequential net;
  net.push_back(layer);
  net.push_back(layer);
  const auto saved = [&](double amax) {
    StateDict state = net.state_dict();
    for (const std::string name : {"0", "1"}) {
      state[name + "._weight_amax"] = Tensor::full({5}, name == "0" ? 1 : amax);
      state[name + "._weight_amax_counts"] = Tensor::from({5, 0, 0}, {3});
    }
    return state;
  };
  CHECK(throws([&] { net.load_state_dict(saved(2)); }, {"differing: 0._weight_amax and 1._weight_amax"}));
  CHECK(layer->weight_history().size() == 0);
  net.load_state_dict(saved(1));
  CHECK(layer->weight_history().size() == 3);
}

TEST_CASE("what is no history is refused by name, and emptied where the load is not strict", "[fp8]") {
  manual_seed(6);
  const float nan = std::nanf("");
  const int64_t huge = std::numeric_limits<int64_t>::max(), least = std::numeric_limits<int64_t>::min();
  nn::Sequential source = quantized_net();
  for (int i = 0; i < 2; ++i) train_step(source, 1);
  const StateDict good = cloned(source.state_dict());
  const auto counts = [](int64_t a, int64_t b, int64_t c) { return Tensor::from({a, b, c}, {3}); };
  const std::pair<const char*, Tensor> wrong[] = {
      {"0._weight_amax", Tensor::from({nan, 1.f, 1.f, 1.f}, {4})},
      {"0._weight_amax", Tensor::from({INFINITY, 1.f, 1.f, 1.f}, {4})},
      {"0._weight_amax", Tensor::from({-1.f, 1.f, 1.f, 1.f}, {4})},
      {"0._weight_amax", Tensor::zeros({0})},
      {"0._weight_amax", Tensor::zeros({2, 2})},
      {"0._weight_amax", Tensor::zeros({4}, {.dtype = DType::i64})},
      {"0._weight_amax", Tensor()},
      {"0._weight_amax_counts", counts(-1, 0, 0)},
      {"0._weight_amax_counts", counts(least, 0, 0)},
      {"0._weight_amax_counts", counts(huge, 0, 0)},
      {"0._weight_amax_counts", counts(2, huge, 0)},
      {"0._weight_amax_counts", counts(2, 0, -5)},
      {"0._weight_amax_counts", Tensor::zeros({3})},
      {"0._weight_amax_counts", Tensor::zeros({4}, {.dtype = DType::i64})},
      {"0._weight_amax_counts", Tensor()},
  };
  for (const auto& [name, tensor] : wrong) {
    CAPTURE(name);
    nn::Sequential net = quantized_net();
    train_step(net, 7);
    const StateDict before = cloned(net.state_dict());
    StateDict state = good;
    state[name] = tensor;
    CHECK(throws([&] { net.load_state_dict(state); }, {"load_state_dict", "0", "_weight_amax"}));
    for (const auto& [key, t] : net.state_dict()) CHECK(same_bits(t, before.at(key)));
    net.load_state_dict(state, {.strict = false});
    CHECK(layer(net, "0").weight_history().recorded() == 0);
    CHECK(layer(net, "0").input_history().recorded() == 2);
    CHECK(layer(net, "1").weight_history().recorded() == 2);
    train_step(net, 1);
    CHECK(layer(net, "0").weight_history().recorded() == 1);
  }
}

TEST_CASE("a layer's histories can be emptied by hand, after a write that no layer sees", "[fp8]") {
  manual_seed(7);
  nn::Sequential net = quantized_net();
  train_step(net, 1);
  net.parameter("0.weight").fill_(100);
  CHECK(layer(net, "0").weight_history().amax() < 1);
  layer(net, "0").reset_histories();
  CHECK(layer(net, "0").weight_history().recorded() == 0);
  CHECK(layer(net, "0").input_history().recorded() == 0);
  CHECK(layer(net, "0").grad_history().recorded() == 0);
  CHECK(layer(net, "1").weight_history().recorded() == 1);
}

TEST_CASE("history lengths that no machine holds are refused, and the model is as it was", "[fp8]") {
  const int64_t huge = std::numeric_limits<int64_t>::max();
  for (const int64_t length : {huge, huge / 2 + 1, huge / 4, int64_t(1) << 61, int64_t(-huge), int64_t(0)}) {
    INFO(length);
    nn::Sequential net = on_device(nn::Sequential(nn::Linear(2, 2)));
    CHECK_THROWS_AS(AmaxHistory(length, device()), std::exception);
    CHECK_THROWS_AS(quantize_model(net, E4M3, {.history_length = length}), std::exception);
    CHECK(net.module("0").type_name() == "Linear");
  }
}
