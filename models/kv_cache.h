// KVCache: what a GPT has read, as the keys and values of its attention layers, so that a further token costs that token
// alone. Layers find it by themselves: it is a scope of the calling thread, so that blocks, wrappers and quantized layers
// in between need not know of it.
#pragma once

#include <altgrad/nn/module.h>

#include <span>
#include <vector>

ALTGRAD_API_BEGIN
namespace altgrad::models {

/// Several sequences, each of a length of its own: the next tokens of some are a batch, whose rows see nothing of each
/// other.
///
///   KVCache cache(1, model.config().block_size);
///   Tensor logits = cache.extend(model, prompt, sequence);  // prompt (1, T), sequence = {0}
///   logits = cache.extend(model, next, sequence);           // next (1, 1): position T
///
/// On a CPU with AVX2, the logits in f32 have the bits of those that the model gives for the whole sequence; elsewhere
/// they differ as sums in another order do, and so they do where a layer's result depends on the batch (current scaling).
class KVCache {
 public:
  /// Throws std::invalid_argument where a number is not positive.
  KVCache(int64_t sequences, int64_t positions);

  /// model(ids), ids (B, T) being the next T tokens of these B sequences, all different. Unrecorded. Throws
  /// std::invalid_argument where a sequence is not there, or would become longer than `positions`; then, and where the
  /// model throws, the sequences are as they were.
  Tensor extend(nn::Layer& model, const Tensor& ids, std::span<const int64_t> sequences);
  int64_t length(int64_t sequence) const;  ///< positions held; throws std::out_of_range
  void clear(int64_t sequence);            ///< lets a new sequence take its place

  // For layers.
  /// The cache whose extend() the calling thread is in; null outside.
  static KVCache* current();
  /// causal_attention of qkv (B, T, 3 C) for the new positions, over all of their sequences. To be called once by each
  /// attention layer, in the same order each time.
  Tensor attend(const Tensor& qkv, int64_t heads);
  /// Where the new tokens stand in their sequences, i64 (B, T), on the device of the ids.
  const Tensor& positions() const { return positions_; }
  /// How many layers called attend() in the last extend(). Those that did not saw the new positions alone.
  int64_t layers_reached() const { return reached_; }

 private:
  struct Layer {
    Tensor keys, values;
  };
  std::vector<int64_t> lengths_;
  int64_t capacity_;  // of each sequence, in positions
  std::vector<Layer> layers_;
  int64_t reached_ = 0;
  Tensor positions_, rows_;  // of the batch; rows_ (B, 2): kernels::CachedSequence
  bool begins_ = false;      // do all sequences of the batch?
};

}  // namespace altgrad::models
ALTGRAD_API_END
