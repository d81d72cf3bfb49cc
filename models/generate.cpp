// Sampling from the model: plain host code in f64, as one row of logits a token is nothing next to the forward that
// made it.
#include <altgrad/models/gpt.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace altgrad::models {
namespace {

// Draws from softmax(logits / temperature) restricted to the top_k largest, by inverting the cumulative
// distribution at u in [0, 1). Among equal logits the first ones count as larger.
int64_t sample(std::span<const double> logits, const GenerateOptions& options, double u) {
  for (const double x : logits) {
    if (!(x < INFINITY)) fail_runtime("generate: the model gave a logit of ", x);
  }
  std::vector<int64_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto larger = [&](int64_t a, int64_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  const int64_t best = *std::min_element(order.begin(), order.end(), larger);
  if (options.temperature == 0) return best;
  if (options.top_k && *options.top_k < int64_t(order.size())) {
    std::nth_element(order.begin(), order.begin() + *options.top_k - 1, order.end(), larger);
    order.resize(*options.top_k);
    std::sort(order.begin(), order.end());
  }
  std::vector<double> p(order.size());
  for (size_t i = 0; i < order.size(); ++i)
    p[i] = std::exp((logits[order[i]] - logits[best]) / options.temperature);
  double left = u * std::accumulate(p.begin(), p.end(), 0.0);
  for (size_t i = 0; i < order.size(); ++i) {
    if (left < p[i]) return order[i];
    left -= p[i];
  }
  return best;  // rounding used up the whole sum
}

}  // namespace

Tensor GPT::generate(const Tensor& ids, int64_t n, const GenerateOptions& options) {
  const bool batched = ids.dim() == 2;
  if ((ids.dim() != 1 && !batched) || ids.numel() == 0 || ids.dtype() != DType::i64) {
    fail("generate: the prompt must be i64, (tokens) or (batch, tokens), with a token at least, got ",
         ids.dtype(), " ", ids.shape());
  }
  if (n < 0 || n > INT32_MAX) fail("generate: the number of tokens must be in [0, 2^31), got ", n);
  if (!std::isfinite(options.temperature) || options.temperature < 0) {
    fail("generate: temperature must be finite and not negative, got ", options.temperature);
  }
  if (options.top_k && *options.top_k < 1) fail("generate: top_k must be at least 1, got ", *options.top_k);

  const nn::EvalMode eval(*this);
  const NoGrad off;
  Generator& generator = options.generator ? *options.generator : default_generator();
  const int64_t rows = batched ? ids.size(0) : 1, prompt = ids.size(-1), total = prompt + n;
  const Device device = transformer->wte->weight().device();

  std::vector<int64_t> tokens(rows * total);  // (rows, total)
  const Tensor host = ids.to(Device::cpu());
  for (int64_t r = 0; r < rows; ++r)
    std::copy_n(host.ptr<int64_t>() + r * prompt, prompt, &tokens[r * total]);

  for (int64_t t = prompt; t < total; ++t) {
    const int64_t length = std::min(t, config_.block_size);
    const Tensor context = Tensor::empty({rows, length}, {.dtype = DType::i64});
    for (int64_t r = 0; r < rows; ++r) {
      std::copy_n(&tokens[r * total + t - length], length, context.ptr<int64_t>() + r * length);
    }
    // Only the last position's logits are asked for.
    const Tensor last = transformer(context.to(device)).narrow(1, length - 1, 1);
    const Tensor logits = lm_head(last).to(Device::cpu()).to(DType::f64);
    const int64_t v = logits.size(-1);
    const RandomStream random = generator.next();
    for (int64_t r = 0; r < rows; ++r) {
      tokens[r * total + t] =
          sample({logits.ptr<double>() + r * v, size_t(v)}, options, uniform01(random.word(r)));
    }
  }
  return Tensor::from(tokens, batched ? Shape{rows, total} : Shape{total}).to(ids.device());
}

}  // namespace altgrad::models
