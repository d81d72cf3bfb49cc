// The modules, in the order of nanoGPT's model.py.
#include <altgrad/autograd/internal/mlp.h>
#include <altgrad/models/gpt.h>
#include <altgrad/models/kv_cache.h>
#include <altgrad/nn/init.h>

#include <cmath>

namespace altgrad::models {
namespace {

const GPTConfig& validated(const GPTConfig& c) {
  if (c.n_layer < 1 || c.n_head < 1 || c.n_embd < 1 || c.block_size < 1 || c.vocab_size < 1) {
    fail("GPT: sizes must be positive, got n_layer ", c.n_layer, ", n_head ", c.n_head, ", n_embd ", c.n_embd,
         ", block_size ", c.block_size, ", vocab_size ", c.vocab_size);
  }
  if (c.n_embd > INT64_MAX / 4)
    fail("GPT: n_embd ", c.n_embd, " is too large: a layer has 4 n_embd features");
  if (c.n_embd % c.n_head != 0) fail("GPT: n_embd ", c.n_embd, " is not a multiple of n_head ", c.n_head);
  if (!(c.dropout >= 0 && c.dropout < 1)) fail("GPT: dropout must be in [0, 1), got ", c.dropout);
  if (c.activations && !has_gradient(*c.activations))
    fail("GPT: activations must be of f32, f64 or bf16, got ", *c.activations);
  return c;
}

}  // namespace

CausalSelfAttention::CausalSelfAttention(const GPTConfig& c)
    : c_attn(nn::Linear(c.n_embd, 3 * validated(c).n_embd, {.bias = c.bias})),
      c_proj(nn::Linear(c.n_embd, c.n_embd, {.bias = c.bias})),
      resid_dropout(nn::Dropout(c.dropout)),
      n_head(c.n_head) {}

Tensor CausalSelfAttention::forward(const Tensor& x) {
  const Tensor qkv = c_attn(x);
  KVCache* const cache = KVCache::current();
  return resid_dropout(c_proj(cache ? cache->attend(qkv, n_head) : causal_attention(qkv, n_head)));
}

void CausalSelfAttention::visit(nn::Visitor& v) {
  v("c_attn", c_attn);
  v("c_proj", c_proj);
  v("resid_dropout", resid_dropout);
}

MLP::MLP(const GPTConfig& c)
    : c_fc(nn::Linear(c.n_embd, 4 * validated(c).n_embd, {.bias = c.bias})),
      gelu(nn::GELU(c.gelu)),
      c_proj(nn::Linear(4 * c.n_embd, c.n_embd, {.bias = c.bias})),
      dropout(nn::Dropout(c.dropout)) {}

// detail::mlp may make one op of the three layers, unless surgery has put another in the place of one.
Tensor MLP::forward(const Tensor& x) {
  const auto* const fc = dynamic_cast<const nn::Linear*>(&*c_fc);
  const auto* const act = dynamic_cast<const nn::GELU*>(&*gelu);
  const auto* const proj = dynamic_cast<const nn::Linear*>(&*c_proj);
  if (!fc || !act || !proj) return dropout(c_proj(gelu(c_fc(x))));
  return dropout(detail::mlp(x, {fc->weight(), fc->bias()}, act->form(), {proj->weight(), proj->bias()}));
}

void MLP::visit(nn::Visitor& v) {
  v("c_fc", c_fc);
  v("gelu", gelu);
  v("c_proj", c_proj);
  v("dropout", dropout);
}

Block::Block(const GPTConfig& c)
    : ln_1(nn::LayerNorm(c.n_embd, {.bias = c.bias})),
      attn(CausalSelfAttention(c)),
      ln_2(nn::LayerNorm(c.n_embd, {.bias = c.bias})),
      mlp(MLP(c)) {}

Tensor Block::forward(const Tensor& input) {
  const auto [x, normed] = ln_2->forward_sum(input, attn(ln_1(input)));
  return x + mlp(normed);
}

void Block::visit(nn::Visitor& v) {
  v("ln_1", ln_1);
  v("attn", attn);
  v("ln_2", ln_2);
  v("mlp", mlp);
}

Transformer::Transformer(const GPTConfig& c)
    : wte(nn::Embedding(c.vocab_size, c.n_embd)),
      wpe(nn::Embedding(c.block_size, c.n_embd)),
      drop(nn::Dropout(c.dropout)),
      h(nn::ModuleList()),
      ln_f(nn::LayerNorm(c.n_embd, {.bias = c.bias})),
      activations(c.activations) {
  for (int64_t i = 0; i < c.n_layer; ++i) h->push_back(Block(c));
}

Tensor Transformer::forward(const Tensor& ids) {
  const int64_t block_size = wpe->weight().size(0);
  if (ids.dim() != 2 || ids.numel() == 0) fail("GPT: ids must be (batch, tokens), got ", ids.shape());
  if (ids.size(1) > block_size) fail("GPT: ids ", ids.shape(), " are longer than block_size ", block_size);
  // Positions are 0 .. T-1 in every row, the first T rows of wpe, broadcast over the batch; or those after what is cached.
  const KVCache* const cache = KVCache::current();
  const Tensor positions = cache ? wpe(cache->positions()) : wpe->weight().narrow(0, 0, ids.size(1));
  const Tensor embedded = wte(ids) + positions;
  Tensor x = drop(activations ? embedded.to(*activations) : embedded);
  for (auto& block : *h) x = block(x);
  return ln_f(x);
}

void Transformer::visit(nn::Visitor& v) {
  v("wte", wte);
  v("wpe", wpe);
  v("drop", drop);
  v("h", h);
  v("ln_f", ln_f);
}

GPT::GPT(const GPTConfig& c)
    : transformer(Transformer(validated(c))), lm_head(nn::Linear(transformer->wte->weight())), config_(c) {
  const double std = 0.02, residual_std = std / std::sqrt(2.0 * double(c.n_layer));
  for (auto& [name, p] : named_parameters()) {
    if (p.dim() == 2) {
      nn::init::normal_(p, 0, name.ends_with("c_proj.weight") ? residual_std : std);
    } else {
      nn::init::constant_(p, name.ends_with("bias") ? 0 : 1);
    }
  }
}

Tensor GPT::loss(const Tensor& ids, const Tensor& targets) {
  if (targets.shape() != ids.shape()) {
    fail("GPT: targets ", targets.shape(), " do not match ids ", ids.shape());
  }
  return cross_entropy(forward(ids), targets);
}

std::vector<optim::ParamGroup> GPT::decay_groups(double weight_decay) const {
  optim::ParamGroup decay{{}, {}, weight_decay}, no_decay{{}, {}, 0.0};
  for (const Tensor& p : parameters()) (p.dim() >= 2 ? decay : no_decay).params.push_back(p);
  return {std::move(decay), std::move(no_decay)};
}

void GPT::visit(nn::Visitor& v) {
  v("transformer", transformer);
  v("lm_head", lm_head);
}

}  // namespace altgrad::models
