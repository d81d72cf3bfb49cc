// From logits to probabilities: plain host code in f64, as a row of logits is nothing next to the forward that made it.
#include <altgrad/models/generate.h>

#include <altgrad/core/error.h>
#include <altgrad/models/internal/generate.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace altgrad::models {
namespace {

std::vector<double> penalized(std::span<const double> logits, std::span<const int64_t> seen, double penalty) {
  std::vector<double> scores(logits.begin(), logits.end());
  for (const int64_t token : seen) {
    if (token < 0 || token >= int64_t(logits.size()))
      fail("next_token_probabilities: token ", token, " is none of ", logits.size());
    const double x = logits[size_t(token)];
    scores[size_t(token)] = x < 0 ? x * penalty : x / penalty;
    if (std::isfinite(x) && !std::isfinite(scores[size_t(token)]))
      fail("generate: repetition_penalty ", penalty, " makes a logit of ", x, " infinite");
  }
  return scores;
}

}  // namespace

void detail::check(const GenerateOptions& o) {
  if (!std::isfinite(o.temperature) || o.temperature < 0)
    fail("generate: temperature must be finite and not negative, got ", o.temperature);
  if (o.top_k && *o.top_k < 1) fail("generate: top_k must be at least 1, got ", *o.top_k);
  if (!(o.top_p >= 0 && o.top_p <= 1)) fail("generate: top_p must be in [0, 1], got ", o.top_p);
  if (!(o.min_p >= 0 && o.min_p <= 1)) fail("generate: min_p must be in [0, 1], got ", o.min_p);
  if (!std::isfinite(o.repetition_penalty) || o.repetition_penalty <= 0)
    fail("generate: repetition_penalty must be finite and above 0, got ", o.repetition_penalty);
}

std::vector<double> next_token_probabilities(std::span<const double> logits, std::span<const int64_t> seen,
                                             const GenerateOptions& options) {
  detail::check(options);
  for (const double x : logits) {
    if (!(x < INFINITY)) fail_runtime("generate: the model gave a logit of ", x);
  }
  const std::vector<double> scores = penalized(logits, seen, options.repetition_penalty);
  const auto best = std::max_element(scores.begin(), scores.end());
  if (best == scores.end() || *best == -INFINITY) fail_runtime("generate: the model gave no finite logit");
  std::vector<double> p(scores.size());
  if (options.temperature == 0) {
    p[size_t(best - scores.begin())] = 1;
    return p;
  }

  for (size_t i = 0; i < p.size(); ++i) p[i] = std::exp((scores[i] - *best) / options.temperature);
  if (options.top_k || options.top_p < 1) {
    std::vector<size_t> kept(p.size());
    std::iota(kept.begin(), kept.end(), size_t(0));
    const auto less_likely = [&](size_t a, size_t b) {
      return scores[a] != scores[b] ? scores[a] < scores[b] : a > b;
    };
    if (options.top_k && *options.top_k < int64_t(kept.size())) {
      std::nth_element(kept.begin(), kept.end() - *options.top_k, kept.end(), less_likely);
      kept.erase(kept.begin(), kept.end() - *options.top_k);
    }
    if (options.top_p < 1) {  // the likeliest, one after the other, go to the end of what is left of the heap
      double total = 0, mass = 0;
      for (const size_t i : kept) total += p[i];
      auto left = kept.end();
      std::make_heap(kept.begin(), kept.end(), less_likely);
      do {
        std::pop_heap(kept.begin(), left--, less_likely);
        mass += p[*left];
      } while (left != kept.begin() && mass < options.top_p * total);
      kept.erase(kept.begin(), left);
    }
    std::vector<double> filtered(p.size());
    for (const size_t i : kept) filtered[i] = p[i];
    p = std::move(filtered);
  }
  for (double& x : p) x = x < options.min_p ? 0 : x;  // the likeliest token's is 1
  const double total = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= total;
  return p;
}

}  // namespace altgrad::models
