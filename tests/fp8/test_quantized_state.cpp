// Models as codes and scales: back into a model under surgery with the same codes, into a plain one as numbers, and through
// files.
#include "catch.h"
#include "device.h"
#include "errors.h"
#include "temp_folder.h"
#include "values.h"

#include <altgrad/fp8/coded_linear.h>
#include <altgrad/fp8/quantized_state.h>
#include <altgrad/fp8/surgery.h>
#include <altgrad/nn/containers.h>

#include <cmath>

using namespace altgrad;
using fp8::Format;
using fp8::QuantizedState;

namespace {

nn::Sequential net() { return on_device(nn::Sequential(nn::Linear(7, 5), nn::ReLU(), nn::Linear(5, 3))); }

// After some training steps, so that histories hold more than the last amax.
nn::Sequential trained(const Format& format, const fp8::QuantizeOptions& options = {}) {
  nn::Sequential model = net();
  fp8::quantize_model(model, format, options);
  for (const double size : {3.0, 1.0}) {
    Tape tape;
    tape.backward(sum(model(here::randn({4, 7}) * size)));
    for (const auto& [name, p] : model.named_parameters()) p.copy_(p.detach() * 0.7);
  }
  model.eval();
  return model;
}

bool same_state(const StateDict& a, const StateDict& b) {
  return std::ranges::equal(
      a, b, [](const auto& x, const auto& y) { return x.first == y.first && same_bits(x.second, y.second); });
}

}  // namespace

TEST_CASE("a quantized state has compressed-tensors' names, and codes that are the weights of eval mode",
          "[fp8_state]") {
  manual_seed(1);
  nn::Sequential model = trained(fp8::E4M3, {.input_format = fp8::E5M2});
  const QuantizedState state = fp8::quantized_state_dict(model);
  std::vector<std::string> names;
  for (const auto& [name, t] : state.tensors) names.push_back(name);
  CHECK(names == std::vector<std::string>{"0.bias", "0.input_scale", "0.weight", "0.weight_scale", "2.bias",
                                          "2.input_scale", "2.weight", "2.weight_scale"});
  CHECK(state.dtypes == StoredDTypes{{"0.weight", "F8_E4M3"}, {"2.weight", "F8_E4M3"}});
  CHECK(state.metadata.empty());
  const auto& layer = dynamic_cast<fp8::QuantizedLinear&>(model.module("0"));
  const Tensor &codes = state.tensors.at("0.weight"), &scale = state.tensors.at("0.weight_scale"),
               &input_scale = state.tensors.at("0.input_scale");
  CHECK(codes.dtype() == DType::u8);
  CHECK(codes.shape() == Shape{5, 7});
  CHECK(scale.shape() == Shape{1});
  // The history holds the amax of before the weights shrank.
  CHECK(scale.item<float>() == fp8::compute_scale(layer.weight_history().amax(), fp8::E4M3));
  CHECK(scale.item<float>() > fp8::compute_scale(fp8::amax(layer.weight()), fp8::E4M3));
  CHECK(input_scale.item<float>() == fp8::compute_scale(layer.input_history().amax(), fp8::E5M2));
  CHECK(same_bits(codes, fp8::encode(layer.weight(), fp8::E4M3, scale.item<float>())));

  // Code by code, by the format's own table.
  const auto code = values<uint8_t>(codes);
  const auto w = values(layer.weight());
  for (size_t i = 0; i < code.size(); ++i) {
    const double value = fp8::E4M3.decode(code[i]) * scale.item<double>();
    CHECK(std::abs(value - w[i]) <= std::abs(w[i]) / 16 + fp8::E4M3.min_subnormal() * scale.item<double>());
  }
}

TEST_CASE("input scales are those of histories alone", "[fp8_state]") {
  const auto has_scale = [](const nn::Module& model) {
    return fp8::quantized_state_dict(model).tensors.contains("0.input_scale");
  };
  CHECK(has_scale(trained(fp8::E4M3, {.input_format = fp8::E4M3})));
  CHECK(!has_scale(trained(fp8::E4M3)));
  CHECK(!has_scale(trained(fp8::E4M3, {.input_format = fp8::E4M3, .scaling = fp8::Scaling::current})));
  nn::Sequential fresh = net();
  fp8::quantize_model(fresh, fp8::E4M3, {.input_format = fp8::E4M3});
  CHECK(!has_scale(fresh));
}

TEST_CASE("codes and scales are the same bytes after a file and a load, in every format of 8 bits",
          "[fp8_state]") {
  manual_seed(2);
  const TempFolder folder;
  std::vector<Format> formats = {{.exponent_bits = 4,
                                  .mantissa_bits = 3,
                                  .bias = 9,
                                  .specials = fp8::Specials::finite_only,
                                  .name = "mine"}};
  for (const Format& format : fp8::formats())
    if (format.bits() <= 8 && format.has_sign) formats.push_back(format);
  REQUIRE(formats.size() > 20);
  for (const Format& format : formats) {
    for (const fp8::Scaling scaling : {fp8::Scaling::window, fp8::Scaling::delayed, fp8::Scaling::current}) {
      for (const fp8::Rounding rounding :
           {fp8::Rounding::nearest_even, fp8::Rounding::toward_zero, fp8::Rounding::stochastic}) {
        if (scaling == fp8::Scaling::current && rounding == fp8::Rounding::toward_zero) continue;
        CAPTURE(format.name, scaling, int(rounding));
        const fp8::QuantizeOptions options{.input_format = format, .scaling = scaling, .rounding = rounding};
        nn::Sequential model = trained(format, options);
        const QuantizedState before = fp8::quantized_state_dict(model);
        save_safetensors(folder / "x", before.tensors, before.metadata, before.dtypes);
        QuantizedState read;
        read.tensors = load_safetensors(folder / "x", &read.metadata, &read.dtypes);

        nn::Sequential other = net();
        fp8::quantize_model(other, format, options);
        other.eval();
        fp8::load_quantized(other, read);
        QuantizedState after = fp8::quantized_state_dict(other);
        CHECK(after.metadata == before.metadata);
        CHECK(after.dtypes == before.dtypes);
        if (scaling == fp8::Scaling::current) {  // made anew
          for (const char* name : {"0.weight_scale", "2.weight_scale"})
            after.tensors[name] = before.tensors.at(name);
        }
        CHECK(same_state(after.tensors, before.tensors));
        if (rounding != fp8::Rounding::nearest_even) continue;
        const Tensor x = here::randn({3, 7});
        const auto y = values(model(x)), z = values(other(x));
        for (size_t i = 0; i < y.size(); ++i) CHECK(z[i] == Approx(y[i]).margin(1e-6));
      }
    }
  }
}

TEST_CASE("a plain model gets the numbers that codes stand for", "[fp8_state]") {
  manual_seed(3);
  for (const Format& format : {fp8::E4M3, fp8::E3M4}) {  // with a dtype of files, and without
    nn::Sequential model = trained(format), plain = net();
    const QuantizedState state = fp8::quantized_state_dict(model);
    fp8::load_quantized(plain, state);
    for (const char* name : {"0.weight", "2.weight"}) {
      const float scale = state.tensors.at(std::string(name) + "_scale").item<float>();
      const Tensor w = model.parameter(name).detach();
      CHECK(same_bits(plain.parameter(name), fp8::quantize(w, format, scale)));
      CHECK(!same_bits(plain.parameter(name), w));
    }
    CHECK(same_bits(plain.parameter("2.bias"), model.parameter("2.bias")));
    const Tensor x = here::randn({3, 7});
    const auto y = values(model(x)), z = values(plain(x));
    for (size_t i = 0; i < y.size(); ++i) CHECK(z[i] == Approx(y[i]).margin(1e-6));
  }
}

TEST_CASE("a weight that another module shares stays as it is", "[fp8_state]") {
  manual_seed(4);
  nn::Linear first(4, 4);
  nn::Sequential model(first, nn::Linear(first.weight()), nn::Linear(4, 2));
  fp8::quantize_model(model, fp8::E4M3);
  const QuantizedState state = fp8::quantized_state_dict(model);
  CHECK(state.dtypes == StoredDTypes{{"2.weight", "F8_E4M3"}});
  CHECK(state.tensors.at("0.weight").dtype() == DType::f32);
  CHECK(!state.tensors.contains("0.weight_scale"));
  fp8::load_quantized(model, state);
  CHECK(same_state(fp8::quantized_state_dict(model).tensors, state.tensors));
}

TEST_CASE("a quantized state that is wrong is refused, and the model is as it was", "[fp8_state]") {
  manual_seed(5);
  nn::Sequential model = trained(fp8::E4M3, {.input_format = fp8::E4M3});
  const QuantizedState good = fp8::quantized_state_dict(model);
  for (const bool surgery : {true, false}) {
    nn::Sequential target = net();
    if (surgery) fp8::quantize_model(target, fp8::E4M3, {.input_format = fp8::E4M3});
    std::vector<Tensor> before;
    for (const auto& [name, t] : target.state_dict()) before.push_back(t.copied());
    const auto refuses = [&](const auto& change, std::vector<std::string> parts) {
      QuantizedState state = good;
      change(state);
      parts.push_back("load_quantized: 0.weight: ");
      try {
        fp8::load_quantized(target, state);
      } catch (const std::invalid_argument& e) {
        const std::string text = e.what();
        return std::ranges::all_of(parts, [&](const std::string& part) {
          if (text.find(part) == text.npos) UNSCOPED_INFO("the error lacks \"" << part << "\": " << text);
          return text.find(part) != text.npos;
        });
      }
      UNSCOPED_INFO("nothing was thrown");
      return false;
    };
    const auto scale = [](const char* name, const Tensor& t) {
      return [name, t](QuantizedState& state) { state.tensors[name] = t; };
    };
    for (const char* name : {"0.weight_scale", "0.input_scale"}) {
      CHECK(refuses(scale(name, Tensor::full({1}, 0)), {name, "is 0, must be positive and finite"}));
      CHECK(refuses(scale(name, Tensor::full({1}, -1)), {name, "is -1, must be positive"}));
      CHECK(refuses(scale(name, Tensor::full({1}, NAN)), {name, "is nan, must be positive"}));
      CHECK(refuses(scale(name, Tensor::full({1}, INFINITY)), {name, "is inf, must be positive"}));
      CHECK(refuses(scale(name, Tensor::ones({5, 1})), {name, "must be f32 (1)", "(5, 1)"}));
      CHECK(refuses(scale(name, Tensor::ones({1, 1})), {name, "(1, 1)"}));
      CHECK(refuses(scale(name, Tensor::ones({1}, {.dtype = DType::f64})), {name, "f64"}));
    }
    CHECK(refuses(scale("0.weight_scale", Tensor::full({1}, 1e38)), {"beyond the largest number of f32"}));
    if (surgery) {  // whose scales are made of an amax: none gives these
      CHECK(refuses(scale("0.weight_scale", Tensor::full({1}, 1e-42)), {"by an amax, and none makes 1.0"}));
      CHECK(refuses(scale("0.input_scale", Tensor::full({1}, 3e38)), {"by an amax, and none makes 3e+38"}));
    }
    CHECK(
        refuses([](QuantizedState& s) { s.tensors.erase("0.weight_scale"); }, {"0.weight_scale is missing"}));
    CHECK(refuses(scale("0.weight_scale", Tensor()), {"0.weight_scale is missing"}));
    CHECK(refuses([](QuantizedState& s) { s.dtypes.clear(); }, {"no dtype or format"}));
    CHECK(refuses([](QuantizedState& s) { s.dtypes["0.weight"] = "F8_E8M0"; }, {"no sign"}));
    CHECK(refuses([](QuantizedState& s) { s.dtypes["0.weight"] = "F32"; }, {"F32 is no format's"}));
    CHECK(refuses(
        [](QuantizedState& s) {
          s.tensors["0.weight"] = Tensor::zeros({5, 7});
        },
        {"codes must be u8"}));
    const auto metadata = [](const std::string& text) {
      return [text](QuantizedState& s) {
        s.dtypes.erase("0.weight");
        s.metadata["format.0.weight"] = text;
      };
    };
    CHECK(refuses(metadata("E4M3"), {"no format: E4M3"}));
    CHECK(refuses(metadata("{}"), {"no format"}));
    const auto fields = [](const char* name, const char* bits, const char* specials) {
      return concat("{\"name\":\"", name, "\",\"exponent_bits\":", bits,
                    ",\"mantissa_bits\":3,\"bias\":7,\"specials\":\"", specials,
                    "\",\"has_sign\":true,\"has_subnormals\":true}");
    };
    CHECK(refuses(metadata(fields("x", "4", "none")), {"unknown specials"}));
    CHECK(refuses(metadata(fields("x", "40", "ieee")), {}));
    CHECK(refuses(metadata(fields("x", "\"4\"", "ieee")), {"no format"}));
    CHECK(refuses(metadata(fields("x", "3.9", "ieee")), {"no whole number: 3.9"}));
    CHECK(refuses(metadata(fields("x", "4294967299", "ieee")), {"no whole number"}));
    CHECK(refuses(metadata(fields("x", "12", "ieee")), {"16 bits, and at most 8"}));
    CHECK(refuses(metadata(fields("a name of more than thirty-one bytes", "4", "fn")), {"31 characters"}));
    const Tensor codes = good.tensors.at("0.weight").copied(), original = codes.copied();
    if (codes.device().is_cpu()) {
      codes.ptr<uint8_t>()[9] = 0x7F;
      CHECK(refuses(scale("0.weight", codes), {"code 127 at element 9 is no number of E4M3"}));
      codes.ptr<uint8_t>()[9] = 0xFF;
      CHECK(refuses(scale("0.weight", codes), {"code 255 at element 9"}));
    }
    if (surgery)
      CHECK(refuses([](QuantizedState& s) { s.dtypes["0.weight"] = "F8_E4M3FNUZ"; },
                    {"the layer's format is E4M3", "dequantize_model"}));
    QuantizedState missing = good;
    missing.tensors.erase("2.bias");
    CHECK(throws([&] { fp8::load_quantized(target, missing); }, {"missing: 2.bias"}));
    size_t i = 0;
    for (const auto& [name, t] : target.state_dict()) CHECK(same_bits(t, before[i++]));
    fp8::load_quantized(target, good);
  }
}

TEST_CASE("a model whose weights have no codes is refused by name", "[fp8_state]") {
  nn::Sequential wide = net();
  fp8::quantize_model(wide, fp8::format("E5M10"));
  CHECK(throws([&] { fp8::quantized_state_dict(wide); },
               {"quantized_state_dict: 0.weight: ", "E5M10", "16 bits"}));
  for (const double bad : {double(NAN), double(INFINITY)}) {
    nn::Sequential model = trained(fp8::E5M2);
    model.parameter("2.weight").fill_(bad);
    CHECK(throws([&] { fp8::quantized_state_dict(model); },
                 {"quantized_state_dict: 2.weight: ", "Inf or NaN"}));
  }
  // Beyond what the history has seen, with an overflow that gives NaN.
  nn::Sequential model = trained(fp8::E4M3, {.overflow = fp8::Overflow::to_special});
  model.parameter("0.weight").fill_(1000);
  CHECK(throws([&] { fp8::quantized_state_dict(model); }, {"0.weight: ", "is no number of E4M3"}));
}

TEST_CASE("a model of codes alone has the state that it had before", "[fp8_state]") {
  manual_seed(6);
  for (const Format& format : {fp8::E4M3, fp8::E5M2, fp8::E3M4, fp8::format("E0M7"), fp8::float8_e4m3fnuz}) {
    for (const auto rounding : {fp8::Rounding::nearest_even, fp8::Rounding::toward_zero}) {
      CAPTURE(format.name);
      nn::Sequential model = trained(format, {.input_format = fp8::E4M3, .rounding = rounding});
      const QuantizedState before = fp8::quantized_state_dict(model);
      fp8::drop_masters(model);
      const QuantizedState after = fp8::quantized_state_dict(model);
      CHECK(same_state(after.tensors, before.tensors));
      CHECK(after.dtypes == before.dtypes);
      CHECK(after.metadata == before.metadata);
    }
  }
}
