// GPT::generate. A row is a window of tokens that moves along, and of its window it feeds the model what the cache does not
// hold: the prompt, then a token at a time; without a cache, and after a move, the whole window. Rows that feed equally
// many tokens are a batch, so padding is never computed.
#include <altgrad/models/gpt.h>
#include <altgrad/models/internal/generate.h>
#include <altgrad/models/kv_cache.h>

#include <algorithm>
#include <map>

namespace altgrad::models {
namespace {

struct Row {
  std::vector<int64_t> tokens;  // without padding
  int64_t padding = 0;          // how much there was
  int64_t begin = 0;            // of the window
  bool ended = false;

  int64_t window() const { return int64_t(tokens.size()) - begin; }
};

// Moves on by an eighth of the block where the window has become too long; has it?
bool slide(Row& row, int64_t block_size) {
  const int64_t excess = row.window() - block_size;
  if (excess <= 0) return false;
  row.begin += std::max(excess, block_size / 8);
  return true;
}

// Draws by inverting the cumulative distribution at u in [0, 1).
int64_t draw(std::span<const double> p, double u) {
  int64_t last = 0;  // if rounding uses up the whole sum
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] == 0) continue;
    if (u < p[i]) return int64_t(i);
    u -= p[i];
    last = int64_t(i);
  }
  return last;
}

std::vector<Row> rows_of(const Tensor& ids, const GenerateOptions& options, int64_t block_size) {
  const Tensor host = ids.to(Device::cpu());
  const int64_t length = ids.size(-1), count = ids.numel() / length;
  std::vector<Row> rows;
  for (int64_t r = 0; r < count; ++r) {
    const std::span<const int64_t> row(host.ptr<int64_t>() + r * length, size_t(length));
    const auto first =
        std::find_if(row.begin(), row.end(), [&](int64_t token) { return token != options.pad; });
    if (first == row.end()) fail("generate: row ", r, " of the prompts is empty, it has padding alone");
    rows.push_back({.tokens = {first, row.end()}, .padding = first - row.begin()});
    rows.back().begin = std::max<int64_t>(0, rows.back().window() - block_size);
  }
  return rows;
}

}  // namespace

Tensor GPT::generate(const Tensor& ids, int64_t n, const GenerateOptions& options) {
  const bool batched = ids.dim() == 2;
  if ((ids.dim() != 1 && !batched) || ids.numel() == 0 || ids.dtype() != DType::i64) {
    fail("generate: the prompt must be i64, (tokens) or (batch, tokens), with a token at least, got ",
         ids.dtype(), " ", ids.shape());
  }
  if (n < 0 || n > INT32_MAX) fail("generate: the number of tokens must be in [0, 2^31), got ", n);
  detail::check(options);
  const int64_t block_size = config_.block_size, prompt = ids.size(-1);
  std::vector<Row> rows = rows_of(ids, options, block_size);

  const nn::EvalMode eval(*this);
  const NoGrad off;
  Generator& generator = options.generator ? *options.generator : default_generator();
  const Device device = transformer->wte->weight().device();
  KVCache cache(int64_t(rows.size()), std::min(block_size, prompt + n));
  bool cached = options.use_cache;

  int64_t drawn = 0;
  for (; drawn < n; ++drawn) {
    std::map<int64_t, std::vector<int64_t>> batches;  // rows by how many tokens they feed
    for (size_t r = 0; r < rows.size(); ++r) {
      if (rows[r].ended) continue;
      if (slide(rows[r], block_size)) cache.clear(int64_t(r));
      batches[rows[r].window() - cache.length(int64_t(r))].push_back(int64_t(r));
    }
    if (batches.empty()) break;
    const RandomStream random = generator.next();
    std::vector<int64_t> tokens(rows.size());
    for (const auto& [length, members] : batches) {
      std::vector<int64_t> fed;
      for (const int64_t r : members)
        fed.insert(fed.end(), rows[size_t(r)].tokens.end() - length, rows[size_t(r)].tokens.end());
      const Tensor context = Tensor::from(fed, {int64_t(members.size()), length}).to(device);
      const Tensor hidden = cached ? cache.extend(*transformer, context, members) : transformer(context);
      // Blocks that did not ask for the cache were right to see the prompts alone, but would see the next token alone.
      if (cached && cache.layers_reached() != int64_t(transformer->h->size())) {
        cached = false;
        for (const int64_t r : members) cache.clear(r);
      }
      // Only the last position's logits are asked for.
      const Tensor logits = lm_head(hidden.narrow(1, length - 1, 1)).to(Device::cpu()).to(DType::f64);
      const int64_t v = logits.size(-1);
      for (size_t i = 0; i < members.size(); ++i) {
        const std::vector<double> p = next_token_probabilities(
            {logits.ptr<double>() + int64_t(i) * v, size_t(v)}, rows[size_t(members[i])].tokens, options);
        tokens[size_t(members[i])] = draw(p, uniform01(random.word(uint64_t(members[i]))));
      }
    }
    for (size_t r = 0; r < rows.size(); ++r) {
      if (rows[r].ended) continue;
      rows[r].tokens.push_back(tokens[r]);
      rows[r].ended = std::ranges::find(options.stop, tokens[r]) != options.stop.end();
      if (options.on_token && !options.on_token(int64_t(r), tokens[r])) rows[r].ended = true;
    }
  }

  const int64_t total = prompt + drawn;
  std::vector<int64_t> result;
  for (size_t r = 0; r < rows.size(); ++r) {
    result.insert(result.end(), size_t(rows[r].padding), options.pad.value_or(0));
    result.insert(result.end(), rows[r].tokens.begin(), rows[r].tokens.end());
    result.resize((r + 1) * size_t(total), options.pad.value_or(rows[r].tokens.back()));
  }
  return Tensor::from(result, batched ? Shape{int64_t(rows.size()), total} : Shape{total}).to(ids.device());
}

}  // namespace altgrad::models
