// Surgery, and back.
#include <altgrad/altgrad.h>

#include "../catch.h"

namespace ag = altgrad;

TEST_CASE("surgery, and back", "[contract]") {
  ag::models::GPT model({.n_layer = 2, .n_head = 2, .n_embd = 64, .vocab_size = 100});
  CHECK(model.parameter("transformer.wte.weight").is(model.parameter("lm_head.weight")));
  ag::nn::Module* const plain = &model.module("transformer.h.0.attn.c_attn");

  ag::fp8::SurgeryReport r = ag::fp8::quantize_model(model, ag::fp8::E5M2, {.skip_patterns = {"lm_head"}});
  CHECK(r.replaced == std::vector<std::string>{"transformer.h.0.attn.c_attn", "transformer.h.0.attn.c_proj",
                                               "transformer.h.0.mlp.c_fc", "transformer.h.0.mlp.c_proj",
                                               "transformer.h.1.attn.c_attn", "transformer.h.1.attn.c_proj",
                                               "transformer.h.1.mlp.c_fc", "transformer.h.1.mlp.c_proj"});
  CHECK(r.skipped == std::vector<std::string>{"lm_head"});

  auto& q = dynamic_cast<ag::fp8::QuantizedLinear&>(model.module("transformer.h.0.attn.c_attn"));
  CHECK(q.weight().is(q.linear().weight()));
  CHECK(&q.linear() == plain);
  const std::optional<ag::Tensor> bias = q.bias();
  CHECK(bias.has_value() == q.linear().bias().has_value());
  CHECK(q.weight_history().size() == 0);
  CHECK(q.input_history().size() == 0);
  model.forward(ag::Tensor::zeros({1, 8}, {.dtype = ag::DType::i64}));
  CHECK(q.weight_history().size() == 1);
  CHECK(q.input_history().size() == 1);
  CHECK(q.extra_repr() == "in_features=64, out_features=192, format=E5M2, quantize_input=false");

  auto copy = ag::nn::clone(model);
  auto& copied = dynamic_cast<ag::fp8::QuantizedLinear&>(copy.module("transformer.h.0.attn.c_attn"));
  CHECK(!copied.weight().is(q.weight()));
  CHECK(copy.parameter("transformer.wte.weight").is(copy.parameter("lm_head.weight")));

  ag::fp8::dequantize_model(model);
  CHECK(&model.module("transformer.h.0.attn.c_attn") == plain);
}
