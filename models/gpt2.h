// GPT-2 as others keep it: folders of Hugging Face's transformers, read and written. A folder is config.json and
// model.safetensors, or shards of it (model-00001-of-00002.safetensors, ...) and model.safetensors.index.json.
// transformers keeps the four matrices of a block (Conv1D) transposed; files hold them so, models do not.
#pragma once

#include <altgrad/models/gpt.h>
#include <altgrad/nn/safetensors.h>

#include <optional>
#include <string>

ALTGRAD_API_BEGIN
namespace altgrad::models {

/// A GPT2LMHeadModel or GPT2Model, in f32 (from F32, F16 or BF16), with its biases, its GELU and a dropout of 0. Names may
/// begin with "transformer." or not; masks (h.N.attn.bias, h.N.attn.masked_bias) are passed over; an lm_head.weight must
/// be equal to wte. Besides the model it takes four times the headers' sizes and 64 rows of a matrix. Throws
/// std::runtime_error where a file cannot be read, and std::invalid_argument, naming file, field and value, where
/// config.json lacks a size or asks for what this GPT does not compute (n_inner, scale_attn_weights,
/// scale_attn_by_inverse_layer_idx, add_cross_attention, tie_word_embeddings, layer_norm_epsilon, pruned_heads,
/// quantization_config, another architecture; fields that change nothing here, dropout's too, are let pass), where the
/// index and its shards differ or it names a file elsewhere, and where the tensors are not those of the config.
GPT load_gpt2(const std::string& folder);

/// How a folder names and lays out the weights.
enum class Layout {
  gpt2,  ///< GPT2LMHeadModel
  /// OPTForCausalLM, which computes the same function of other names: two rows of zeros lead the positions, c_attn is cut
  /// into q_proj, k_proj and v_proj, and the matrices lie as nn::Linear's. The layout for weights in 8 bits: transformers
  /// loads those of a Linear, and reads codes of GPT-2's Conv1D as if they were numbers, without a word.
  opt
};

struct SaveOptions {
  DType dtype = DType::f32;             ///< or bf16, rounded to nearest even; of what is not in codes
  int64_t shard_bytes = 5'000'000'000;  ///< of tensors in a file, at most, where one tensor is not more
  /// gpt2 where empty; of codes it must be said. Layout::gpt2 with codes is what vLLM's reader of GPT-2 takes, by its
  /// source: compressed-tensors' names, codes transposed as Conv1D's weights. No program has loaded such a folder yet,
  /// and transformers must not.
  std::optional<Layout> layout = {};
  StoredDTypes dtypes = {};  ///< of codes in the state
};

/// Writes a folder that transformers' from_pretrained loads, with the two halves of a tied head as one and zeros for biases
/// that the model lacks. The folder is made where it is not there (its parent must be); files of other names stay, and
/// weights of an earlier save are replaced. Files are written beside the old ones and renamed when all are complete: an
/// error leaves the folder as it was. A model with quantized layers is written as what is trained, before rounding.
/// Throws std::runtime_error where the file system refuses, std::invalid_argument where dtype is neither f32 nor bf16,
/// shard_bytes is not positive, the head is not tied or the state is not of that config.
void save_gpt2(const std::string& folder, const GPT& model, const SaveOptions& options = {});

/// The same of a state, in which weights of Linear layers may be codes (u8) beside "NAME.weight_scale" and, for inputs that
/// are rounded with a scale that stays, "NAME.input_scale" (f32, (1); value = code * scale): fp8::quantized_state_dict
/// makes one. The folder then asks for compressed-tensors (format float-quantized). Only F8_E4M3 is written, which is all
/// that others load; throws std::invalid_argument for other codes, and where a scale is missing, not (1) or not positive
/// and finite.
void save_gpt2(const std::string& folder, const GPTConfig& config, const StateDict& state,
               const SaveOptions& options = {});

}  // namespace altgrad::models
ALTGRAD_API_END
