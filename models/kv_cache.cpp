// The memory of a layer is made when it first asks for it, of the dtype and on the device of what it brings.
#include <altgrad/models/kv_cache.h>

#include <altgrad/autograd/ops.h>
#include <altgrad/autograd/tape.h>
#include <altgrad/core/dispatch.h>
#include <altgrad/core/internal/kernels/attention.h>

#include <algorithm>
#include <set>

namespace altgrad::models {
namespace {

thread_local constinit KVCache* innermost = nullptr;

class Current {
 public:
  explicit Current(KVCache* cache) : outer_(std::exchange(innermost, cache)) {}
  ~Current() { innermost = outer_; }
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  KVCache* const outer_;
};

}  // namespace

KVCache::KVCache(int64_t sequences, int64_t positions) : capacity_(positions) {
  if (sequences < 1 || positions < 1)
    fail("KVCache: sequences and positions must be positive, got ", sequences, " and ", positions);
  lengths_.resize(size_t(sequences));
}

KVCache* KVCache::current() { return innermost; }

int64_t KVCache::length(int64_t sequence) const { return lengths_.at(size_t(sequence)); }
void KVCache::clear(int64_t sequence) { lengths_.at(size_t(sequence)) = 0; }

Tensor KVCache::extend(nn::Layer& model, const Tensor& ids, std::span<const int64_t> sequences) {
  const int64_t batch = int64_t(sequences.size());
  if (!ids.defined() || ids.dim() != 2 || ids.size(0) != batch || ids.numel() == 0)
    fail("KVCache: ids must be (", batch, ", tokens), a row for each sequence, got ",
         ids.defined() ? ids.shape() : Shape{0});
  const int64_t tokens = ids.size(1);
  std::set<int64_t> seen;
  std::vector<int64_t> rows, positions;
  begins_ = true;
  for (const int64_t s : sequences) {
    if (s < 0 || s >= int64_t(lengths_.size()) || !seen.insert(s).second)
      fail("KVCache: sequence ", s, " of ", lengths_.size(), " is not there, or given twice");
    if (tokens > capacity_ - lengths_[size_t(s)])
      fail("KVCache: ", tokens, " tokens after ", lengths_[size_t(s)], " do not fit ", capacity_,
           " positions");
    rows.insert(rows.end(), {s, lengths_[size_t(s)]});
    begins_ = begins_ && lengths_[size_t(s)] == 0;
    for (int64_t t = 0; t < tokens; ++t) positions.push_back(lengths_[size_t(s)] + t);
  }
  rows_ = Tensor::from(rows, {batch, 2}).to(ids.device());
  positions_ = Tensor::from(positions, {batch, tokens}).to(ids.device());
  reached_ = 0;
  const NoGrad off;
  const Current scope(this);
  Tensor y = model(ids);
  for (const int64_t s : sequences) lengths_[size_t(s)] += tokens;
  return y;
}

Tensor KVCache::attend(const Tensor& qkv, int64_t heads) {
  check_activation("KVCache", qkv);
  if (!rows_.defined()) fail("KVCache: attend is for layers that extend() calls");
  const int64_t batch = rows_.size(0), tokens = positions_.size(1);
  if (qkv.dim() != 3 || qkv.size(0) != batch || qkv.size(1) != tokens || heads < 1 ||
      qkv.size(2) % (3 * heads) != 0)
    fail("KVCache: qkv ", qkv.shape(), " does not hold q, k, v of ", heads, " heads for ", batch,
         " sequences of ", tokens, " tokens");
  const int64_t channels = qkv.size(2) / 3, head_size = channels / heads;
  const int64_t blocks = (capacity_ + kernels::cache_block - 1) / kernels::cache_block;
  const Shape keys{int64_t(lengths_.size()), heads, blocks, head_size, kernels::cache_block};
  if (reached_ == int64_t(layers_.size()))
    layers_.push_back({Tensor::empty(keys, qkv.options()), Tensor::empty(keys, qkv.options())});
  const Layer& layer = layers_[size_t(reached_++)];
  if (layer.keys.shape() != keys)
    fail("KVCache: qkv ", qkv.shape(), " of ", heads, " heads is not of the layer whose keys are ",
         layer.keys.shape());
  const auto* const sequences = reinterpret_cast<const kernels::CachedSequence*>(rows_.ptr<int64_t>());
  const int64_t padded = blocks * kernels::cache_block;
  launch("KVCache", AG_KERNEL(kernels::extend_cache), layer.keys, layer.values, qkv, sequences, padded, batch,
         tokens, heads, head_size);
  if (begins_) return causal_attention(qkv, heads);  // to the same bits
  const Tensor y = Tensor::empty({batch, tokens, channels}, qkv.options());
  launch("KVCache", AG_KERNEL(kernels::cached_attention), y, layer.keys, layer.values, qkv, sequences, padded,
         batch, tokens, heads, head_size);
  return y;
}

}  // namespace altgrad::models
