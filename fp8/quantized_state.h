// A model's weights as codes of 8 bits, as files keep them: out of a model under surgery, and back into one or into a plain
// one. Names and scales are those of compressed-tensors, ModelOpt and vLLM: NAME.weight in codes, NAME.weight_scale and
// NAME.input_scale in f32 (1), a value being code * scale.
#pragma once

#include <altgrad/fp8/format.h>
#include <altgrad/nn/safetensors.h>

ALTGRAD_API_BEGIN
namespace altgrad::fp8 {

/// What save_safetensors takes and load_safetensors gives:
///   QuantizedState q = quantized_state_dict(model);
///   save_safetensors(path, q.tensors, q.metadata, q.dtypes);
///   q.tensors = load_safetensors(path, &q.metadata, &q.dtypes);
struct QuantizedState {
  StateDict tensors;
  /// "format.NAME.weight": the Format, as a JSON object, of codes that no dtype of files stands for.
  Metadata metadata;
  StoredDTypes dtypes;  ///< F8_E4M3, ... of the other codes, by name
};

/// The model's state_dict with, for each QuantizedLinear, its weight in codes (u8) as it multiplies them in eval mode,
/// rounded to nearest where its rounding is stochastic; the weight's scale; and the input's, where inputs are rounded by a
/// scale that its history makes. Histories are left out. A weight that another module shares (a tied head's) stays as it
/// is, and so does its layer. A CodedLinear is saved as the QuantizedLinear that it was. Throws std::invalid_argument where
/// a format has more than 8 bits, or a weight holds what its format has no number for.
QuantizedState quantized_state_dict(const nn::Module& model);

/// Loads such a state as load_state_dict does, strictly, and throws as it does, before anything has changed. A
/// QuantizedLinear of the format of the codes gets the numbers they stand for, and histories that give the scales again:
/// quantized_state_dict of it has the same codes (with current scaling, as long as the largest code is among them). Any
/// other layer gets the numbers. Also throws std::invalid_argument where codes lack a dtype or format, are of another than
/// their QuantizedLinear's or stand for no finite number, alone or times their scale, and where a scale is missing, not f32
/// (1), not positive and finite, or, for a QuantizedLinear, one that no amax makes.
void load_quantized(nn::Module& model, const QuantizedState& state);

}  // namespace altgrad::fp8
ALTGRAD_API_END
