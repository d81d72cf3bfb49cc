// GPT once more, in plain loops of doubles, to compare the real one with; and what its tests share.
#pragma once

#include <altgrad/models/gpt.h>

#include <cmath>

#include "values.h"

namespace gpt_tests {

using namespace altgrad;
using models::GPT;
using models::GPTConfig;

inline constexpr GPTConfig small = {
    .n_layer = 2, .n_head = 2, .n_embd = 16, .block_size = 8, .vocab_size = 11};

inline GPTConfig with_bias(GPTConfig c, bool bias) {
  c.bias = bias;
  return c;
}

// Norms and biases start as constants; random ones make mistakes with them show.
inline void randomize(GPT& model) {
  for (auto& [name, p] : model.named_parameters()) {
    const double mean = p.dim() == 1 && name.ends_with("weight") ? 1 : 0, std = p.dim() == 1 ? 0.3 : 0.2;
    p.copy_(here::randn(p.shape(), p.options()) * std + mean);
  }
}

// ---- The slow GPT: one sequence, one row of features a token ----

using Rows = std::vector<std::vector<double>>;

struct SlowGPT {
  const GPT& model;

  std::vector<double> get(const std::string& name) const {
    for (const auto& [known, p] : model.named_parameters()) {
      if (known == name) return values(p);
    }
    return {};
  }
  Rows linear(const Rows& x, const std::string& name) const {
    const auto w = get(name + ".weight"), b = get(name + ".bias");
    const size_t in = x[0].size(), out = w.size() / in;
    Rows y(x.size(), std::vector<double>(out));
    for (size_t t = 0; t < x.size(); ++t) {
      for (size_t o = 0; o < out; ++o) {
        double sum = b.empty() ? 0 : b[o];
        for (size_t i = 0; i < in; ++i) sum += x[t][i] * w[o * in + i];
        y[t][o] = sum;
      }
    }
    return y;
  }
  Rows norm(const Rows& x, const std::string& name) const {
    const auto w = get(name + ".weight"), b = get(name + ".bias");
    Rows y = x;
    for (auto& row : y) {
      double mean = 0, var = 0;
      for (double v : row) mean += v / double(row.size());
      for (double v : row) var += (v - mean) * (v - mean) / double(row.size());
      for (size_t i = 0; i < row.size(); ++i) {
        row[i] = (row[i] - mean) / std::sqrt(var + 1e-5) * w[i] + (b.empty() ? 0 : b[i]);
      }
    }
    return y;
  }
  Rows attention(const Rows& qkv, size_t heads) const {
    const size_t c = qkv[0].size() / 3, d = c / heads;
    Rows y(qkv.size(), std::vector<double>(c, 0.0));
    for (size_t h = 0; h < heads; ++h) {
      for (size_t t = 0; t < qkv.size(); ++t) {
        std::vector<double> p(t + 1);
        double sum = 0;
        for (size_t s = 0; s <= t; ++s) {
          double dot = 0;
          for (size_t i = 0; i < d; ++i) dot += qkv[t][h * d + i] * qkv[s][c + h * d + i];
          sum += p[s] = std::exp(dot / std::sqrt(double(d)));
        }
        for (size_t s = 0; s <= t; ++s) {
          for (size_t i = 0; i < d; ++i) y[t][h * d + i] += p[s] / sum * qkv[s][2 * c + h * d + i];
        }
      }
    }
    return y;
  }
  static double gelu(double v, Gelu form) {
    if (form == Gelu::erf) return 0.5 * v * (1 + std::erf(v / std::sqrt(2.0)));
    return 0.5 * v * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (v + 0.044715 * v * v * v)));
  }
  static void accumulate(Rows& x, const Rows& y) {
    for (size_t t = 0; t < x.size(); ++t) {
      for (size_t i = 0; i < x[t].size(); ++i) x[t][i] += y[t][i];
    }
  }
  Rows logits(std::span<const int64_t> ids) const {
    const GPTConfig& config = model.config();
    const size_t c = size_t(config.n_embd);
    const auto wte = get("transformer.wte.weight"), wpe = get("transformer.wpe.weight");
    Rows x(ids.size(), std::vector<double>(c));
    for (size_t t = 0; t < ids.size(); ++t) {
      for (size_t i = 0; i < c; ++i) x[t][i] = wte[size_t(ids[t]) * c + i] + wpe[t * c + i];
    }
    for (int64_t layer = 0; layer < config.n_layer; ++layer) {
      const std::string h = "transformer.h." + std::to_string(layer) + ".";
      const Rows qkv = linear(norm(x, h + "ln_1"), h + "attn.c_attn");
      accumulate(x, linear(attention(qkv, size_t(config.n_head)), h + "attn.c_proj"));
      Rows hidden = linear(norm(x, h + "ln_2"), h + "mlp.c_fc");
      for (auto& row : hidden) {
        for (double& v : row) v = gelu(v, config.gelu);
      }
      accumulate(x, linear(hidden, h + "mlp.c_proj"));
    }
    // The head is tied: its weight is wte.
    x = norm(x, "transformer.ln_f");
    Rows y(x.size(), std::vector<double>(size_t(config.vocab_size), 0.0));
    for (size_t t = 0; t < x.size(); ++t) {
      for (size_t v = 0; v < y[t].size(); ++v) {
        for (size_t i = 0; i < c; ++i) y[t][v] += x[t][i] * wte[v * c + i];
      }
    }
    return y;
  }
};

}  // namespace gpt_tests
