// Surgery: every Linear of a model becomes a QuantizedLinear, and back, on any module tree, without its
// classes knowing. Parameter objects and names stay, so optimizers and checkpoints do not notice.
#pragma once

#include <altgrad/fp8/quantized_linear.h>

ALTGRAD_API_BEGIN
namespace altgrad::fp8 {

struct SurgeryReport {
  std::vector<std::string> replaced, skipped;  ///< names of Linear layers, in visiting order
  std::vector<std::string> quantized_before;   ///< those that were quantized already and stay as they are
  /// All of `replaced`, where anything was quantized before: what the earlier calls skipped, or was put in since.
  std::vector<std::string> skipped_before;
};
std::ostream& operator<<(std::ostream& out, const SurgeryReport& report);

/// Puts QuantizedLinear::from_linear(layer, format, options) in the place of each nn::Linear below root, but
/// for those that a skip pattern matches. A pattern is one or more whole components of a dotted name:
/// "attn.c_proj" matches "transformer.h.0.attn.c_proj", "mlp" everything in any mlp; "h.1" does not match
/// "h.10". A '*' stands for any characters within a component. Layers that are quantized already stay as they
/// are, whatever their format: a second time with the same patterns changes nothing (dequantize_model first, for
/// another format). Patterns are not remembered: a second time with other patterns also replaces what the first
/// skipped, and the report lists that as skipped_before. Throws std::invalid_argument, and then nothing has
/// changed, where a pattern matches no module at all, root itself is a Linear (which has no place to be replaced
/// in), a place cannot hold another type than Linear, or from_linear would throw.
SurgeryReport quantize_model(nn::Module& root, const Format& format, const QuantizeOptions& options = {});

/// Puts the wrapped Linear objects back in their places; gives their names in visiting order. Throws
/// std::invalid_argument where root itself is a QuantizedLinear.
std::vector<std::string> dequantize_model(nn::Module& root);

}  // namespace altgrad::fp8
ALTGRAD_API_END
