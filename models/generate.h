// How tokens are chosen, with the meanings that Hugging Face's transformers gives these names.
#pragma once

#include <altgrad/core/random.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

ALTGRAD_API_BEGIN
namespace altgrad::models {

/// Of GPT::generate. The filters apply in the order of transformers: repetition_penalty, temperature, top_k, top_p, min_p.
struct GenerateOptions {
  double temperature = 1;             ///< divides the logits; 0 takes the most likely token
  std::optional<int64_t> top_k = {};  ///< sample among the k most likely only
  /// Sample among the most likely only, as few as have this probability together, but one at least (nucleus sampling:
  /// Holtzman et al., 2020); in [0, 1], 1 keeps all.
  double top_p = 1;
  double min_p = 0;  ///< sample among those at least so likely as this share of the most likely; in [0, 1]
  /// Divides the positive logits of the tokens that the row holds already, prompt and all, and multiplies their negative
  /// ones (CTRL: Keskar et al., 2019); above 0, 1 leaves them.
  double repetition_penalty = 1;
  std::vector<int64_t> stop = {};  ///< tokens after which a row ends
  /// What rows of a batch may begin with where others are longer: such positions are unseen, so each row is continued as
  /// it is alone. It also fills up rows that have ended; without it, their last token does.
  std::optional<int64_t> pad = {};
  /// Is told each token as it is drawn, of one row after the other; false ends the row. What it throws leaves generate.
  std::function<bool(int64_t row, int64_t token)> on_token = {};
  /// Keep keys and values (KVCache), so that a token costs a token. The same tokens come without, but where a layer's result
  /// depends on the batch (8-bit inputs under current scaling, or without a history). Layers of one's own that look across
  /// positions in other ways than by attention need false; a model whose blocks do not ask for the cache, once each, goes
  /// without in any case.
  bool use_cache = true;
  Generator* generator = nullptr;  ///< null: default_generator()
};

/// The probabilities by which generate() draws the token that follows: of the logits (V), after a row that holds the
/// tokens `seen`. Among equal logits the first ones count as larger. Throws std::invalid_argument on options out of their
/// ranges or a token that is none of V, std::runtime_error where a logit is NaN or Inf, or all are -Inf.
std::vector<double> next_token_probabilities(std::span<const double> logits, std::span<const int64_t> seen,
                                             const GenerateOptions& options);

}  // namespace altgrad::models
ALTGRAD_API_END
