// Codes are made and read by fp8/quantize.h; here is what lies around them: names, formats, scales, and histories that give
// a scale again.
#include <altgrad/fp8/quantized_state.h>

#include <altgrad/fp8/coded_linear.h>

#include <altgrad/core/float_environment.h>
#include <altgrad/core/internal/utf8.h>
#include <altgrad/fp8/quantized_linear.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <unordered_map>

namespace altgrad::fp8 {
namespace {

using nlohmann::json;

// ---- Formats in files ----

struct StoredFormat {
  const char* dtype;
  Format format;
};
constexpr std::array stored_formats = {StoredFormat{"F8_E4M3", E4M3}, StoredFormat{"F8_E5M2", E5M2},
                                       StoredFormat{"F8_E4M3FNUZ", float8_e4m3fnuz},
                                       StoredFormat{"F8_E5M2FNUZ", float8_e5m2fnuz},
                                       StoredFormat{"F8_E8M0", float8_e8m0fnu}};

constexpr std::array<const char*, 5> specials_names = {"ieee", "fn", "fnuz", "p3109", "finite_only"};

std::string format_key(const std::string& name) { return "format." + name; }

void store_format(QuantizedState& state, const std::string& name, const Format& format) {
  for (const StoredFormat& stored : stored_formats) {
    if (format == stored.format) {
      state.dtypes[name] = stored.dtype;
      return;
    }
  }
  const json fields = {{"name", std::string(std::string_view(format.name))},
                       {"exponent_bits", format.exponent_bits},
                       {"mantissa_bits", format.mantissa_bits},
                       {"bias", format.bias},
                       {"specials", specials_names[size_t(format.specials)]},
                       {"has_sign", format.has_sign},
                       {"has_subnormals", format.has_subnormals}};
  state.metadata[format_key(name)] = fields.dump(-1, ' ', true);
}

int whole(const json& value) {
  if (!value.is_number_integer() || value < -1'000'000 || value > 1'000'000)
    fail("no format: no whole number: ", value.dump());
  return value.get<int>();
}

Format parsed_format(const std::string& text) try {
  const json fields = json::parse(text);
  const auto specials = std::ranges::find(specials_names, fields.at("specials").get<std::string>());
  Format format{whole(fields.at("exponent_bits")),
                whole(fields.at("mantissa_bits")),
                whole(fields.at("bias")),
                Specials(specials - specials_names.begin()),
                fields.at("name").get<std::string>(),
                fields.at("has_sign"),
                fields.at("has_subnormals")};
  if (specials == specials_names.end()) fail("unknown specials");
  format.validate();
  return format;
} catch (const json::exception&) {
  fail("no format: ", altgrad::detail::printable(text));
}

Format stored_format(const QuantizedState& state, const std::string& name) {
  if (const auto dtype = state.dtypes.find(name); dtype != state.dtypes.end()) {
    for (const StoredFormat& stored : stored_formats)
      if (dtype->second == stored.dtype) return stored.format;
    fail("dtype ", dtype->second, " is no format's");
  }
  const auto text = state.metadata.find(format_key(name));
  if (text == state.metadata.end()) fail("has a scale, and no dtype or format that says what its codes are");
  return parsed_format(text->second);
}

// ---- Codes and scales ----

void check_codes(const Tensor& codes, const Format& format) {
  if (format.bits() > 8)
    fail("codes of ", format.name, " have ", format.bits(), " bits, and at most 8 are kept");
  if (!format.has_sign) fail("the format ", format.name, " has no sign and is for scales only");
  const Tensor host = codes.to(Device::cpu());
  const auto all = host.data<uint8_t>();
  const auto bad = std::ranges::find_if(
      all, [&](uint8_t code) { return code >= format.num_codes() || !std::isfinite(format.decode(code)); });
  if (bad != all.end())
    fail("code ", int(*bad), " at element ", bad - all.begin(), " is no number of ", format.name);
}

float checked_scale(const StateDict& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  if (found == tensors.end() || !found->second.defined()) fail(name, " is missing");
  const Tensor& scale = found->second;
  if (scale.dtype() != DType::f32 || scale.numel() != 1 || scale.dim() > 1)
    fail(name, " must be f32 (1), one scale for the matrix, got ", scale.dtype(), ' ', scale.shape());
  const DefaultFloatEnvironment environment;  // flushed, a subnormal scale would be 0
  const float value = scale.item<float>();
  if (!(value > 0 && std::isfinite(value))) fail(name, " is ", value, ", must be positive and finite");
  return value;
}

Tensor scale_tensor(float scale) { return Tensor::full({1}, scale); }

// An amax of which compute_scale makes this scale, or, where it makes it of none, its neighbour.
float amax_for(float scale, const Format& format) {
  constexpr float infinity = std::numeric_limits<float>::infinity(), most = std::numeric_limits<float>::max();
  const float middle = std::min(most, scale * float(std::min(format.max(), 0x1p127)));
  float amax = middle;
  for (int i = 0; i < 2; ++i) amax = std::nextafter(amax, 0.f);
  for (int i = 0; i < 5 && amax < infinity; ++i, amax = std::nextafter(amax, infinity))
    if (compute_scale(amax, format) == scale) return amax;
  if (std::abs(compute_scale(middle, format) - scale) > 1e-6f * scale)
    fail("a layer under surgery has its scale by an amax, and none makes ", scale);
  return middle;
}

// A history of one amax, under the names that a QuantizedLinear saves its own (AmaxHistory::adapt_state gives it the
// layer's length).
void add_history(StateDict& state, const std::string& name, float amax) {
  state[name] = Tensor::full({1}, amax);
  state[name + "_counts"] = Tensor::from({int64_t{1}, int64_t{0}, int64_t{0}}, {3});
}

// ---- Layers ----

using NamedModules = std::vector<std::pair<std::string, nn::Module*>>;

// visit() hands out members to be edited; none is here.
NamedModules with_root(const nn::Module& model) {
  NamedModules modules = model.named_modules();
  modules.emplace_back("", const_cast<nn::Module*>(&model));
  return modules;
}

// What stands before the names of a layer's tensors: "h.0." or "".
std::string prefix_of(const std::string& path) { return path.empty() ? "" : path + '.'; }

// The QuantizedLinears whose weights are theirs alone, by their prefixes.
std::map<std::string, QuantizedLinear*> layers_of(const nn::Module& model) {
  class Count final : public nn::Visitor {
   public:
    std::unordered_map<const void*, int> uses;

   private:
    void on_parameter(std::string_view, Tensor& tensor) override { ++uses[tensor.id()]; }
  } count;
  const NamedModules modules = with_root(model);
  for (const auto& [path, module] : modules) module->visit(count);
  std::map<std::string, QuantizedLinear*> layers;
  for (const auto& [path, module] : modules) {
    const auto layer = dynamic_cast<QuantizedLinear*>(module);
    if (layer && count.uses[layer->weight().id()] == 1) layers.emplace(prefix_of(path), layer);
  }
  return layers;
}

// The scale that a quantizer makes for x in eval mode.
float eval_scale(const Quantizer& quantizer, const Tensor& x) {
  const float held = quantizer.scaling == Scaling::current ? 0 : quantizer.history.amax();
  return compute_scale(held > 0 ? held : amax(x), *quantizer.format);
}

void store_layer(QuantizedState& state, const std::string& prefix, const Tensor& w, const Format& format,
                 float scale, CastOptions cast, const Quantizer& input) {
  const std::string name = prefix + "weight";
  if (cast.rounding == Rounding::stochastic) cast.rounding = Rounding::nearest_even;
  const Tensor codes = encode(w.detach(), format, scale, cast);
  check_codes(codes, format);
  state.tensors[name] = codes;
  state.tensors[name + "_scale"] = scale_tensor(scale);
  store_format(state, name, format);
  if (input.format && input.scaling != Scaling::current && input.history.amax() > 0)
    state.tensors[prefix + "input_scale"] = scale_tensor(compute_scale(input.history.amax(), *input.format));
  for (const char* own : {"weight_panels", "_weight_amax", "_weight_amax_counts", "_input_amax",
                          "_input_amax_counts", "_grad_amax", "_grad_amax_counts"})
    state.tensors.erase(prefix + own);
}

void store_layer(QuantizedState& state, const std::string& prefix, const QuantizedLinear& layer) {
  const auto& [weight, input, grad, native] = layer.quantizers();
  if (!std::isfinite(amax(layer.weight()))) fail("it holds Inf or NaN");
  store_layer(state, prefix, layer.weight(), *weight.format, eval_scale(weight, layer.weight()), weight.cast,
              input);
}

}  // namespace

QuantizedState quantized_state_dict(const nn::Module& model) {
  QuantizedState state{model.state_dict(), {}, {}};
  for (const auto& [prefix, layer] : layers_of(model)) {
    try {
      store_layer(state, prefix, *layer);
    } catch (const std::invalid_argument& e) {
      fail("quantized_state_dict: ", prefix, "weight: ", e.what());
    }
  }
  for (const auto& [path, module] : with_root(model))
    if (const auto layer = dynamic_cast<CodedLinear*>(module))
      store_layer(state, prefix_of(path), layer->weight(), layer->format(), layer->scale(), {},
                  layer->input());
  return state;
}

void load_quantized(nn::Module& model, const QuantizedState& state) {
  const auto layers = layers_of(model);
  StateDict plain = state.tensors;
  for (const auto& [name, codes] : state.tensors) {
    const std::string scale_name = name + "_scale";
    const bool named = state.dtypes.contains(name) || state.metadata.contains(format_key(name));
    const bool is_codes =
        named || (codes.defined() && codes.dtype() == DType::u8 && plain.contains(scale_name));
    if (!is_codes) continue;
    try {
      if (!codes.defined() || codes.dtype() != DType::u8) fail("codes must be u8");
      const Format format = stored_format(state, name);
      check_codes(codes, format);
      const float scale = checked_scale(state.tensors, scale_name);
      Tensor numbers = decode(codes, format, scale);
      if (numbers.numel() > 0 && !std::isfinite(amax(numbers)))
        fail("codes times the scale ", scale, " are beyond the largest number of f32");
      plain.erase(scale_name);

      const std::string prefix = name.ends_with("weight") ? name.substr(0, name.size() - 6) : name + '.';
      const std::string input_name = prefix + "input_scale";
      std::optional<float> input_scale;
      if (plain.contains(input_name)) input_scale = checked_scale(state.tensors, input_name);
      plain.erase(input_name);
      if (const auto found = layers.find(prefix); found != layers.end()) {
        const auto& [weight, input, grad, native] = found->second->quantizers();
        if (*weight.format != format)
          fail("codes of ", format.name, ", and the layer's format is ", weight.format->name,
               ", which would round them again; dequantize_model first to go on from these numbers");
        // A little more than the number, so that the division by the scale gives no less than the code.
        if (weight.cast.rounding == Rounding::toward_zero) numbers = numbers * (1 + 0x1p-22);
        add_history(plain, prefix + "_weight_amax", amax_for(scale, format));
        if (input_scale && input.format)
          add_history(plain, prefix + "_input_amax", amax_for(*input_scale, *input.format));
      }
      plain[name] = numbers;
    } catch (const std::invalid_argument& e) {
      fail("load_quantized: ", altgrad::detail::printable(name), ": ", e.what());
    }
  }
  model.load_state_dict(plain);
}

}  // namespace altgrad::fp8
