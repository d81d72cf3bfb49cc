"""Makes what the C++ tests compare with: a small GPT2LMHeadModel, saved by transformers, and what transformers computes
of it in float64. Usage: make_fixtures.py FOLDER

gpt2/                 the model, as save_pretrained writes it: f32; every parameter random, norms and biases too
expected.safetensors  ids, targets (2, 12) i64; logits (2, 12, 61) and loss () f64; grad.NAME f32, by altgrad's names
                      and in its layouts; greedy, greedy_penalty (34) i64: the tokens that follow ids[0], without and
                      with a repetition penalty of 1.3; probabilities (filters, 2, 61) f64: of the token after each row of
                      ids, by the filters that the metadata lists, one JSON object each
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, GenerationConfig

VOCAB, TOKENS, NEW_TOKENS = 61, 12, 34
CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # (in, out), where altgrad has (out, in)
FILTERS = [
    {},
    {"temperature": 0.7},
    {"top_k": 7},
    {"top_p": 0.9},
    {"top_p": 0.05},
    {"min_p": 0.1},
    {"repetition_penalty": 1.3},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.3},
    {"temperature": 1.5, "top_k": 20, "top_p": 0.05, "repetition_penalty": 1.3},
    {"temperature": 1.5, "top_k": 20, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.3},
]


def random_model():
    torch.manual_seed(13)
    config = GPT2Config(vocab_size=VOCAB, n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=None,
                        eos_token_id=None, attn_implementation="eager")
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            is_norm = p.dim() == 1 and name.endswith("weight")
            p.normal_(1.0 if is_norm else 0.0, 0.3 if p.dim() == 1 or "wte" in name else 0.2)
    return model


def greedy(model, prompt, penalty):
    """The tokens, and by how much each was ahead of the next best."""
    settings = GenerationConfig(do_sample=False, max_new_tokens=NEW_TOKENS, repetition_penalty=penalty, pad_token_id=0,
                                return_dict_in_generate=True, output_scores=True)
    out = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=settings)
    leads = [float(best[0] - best[1]) for best in (s[0].topk(2).values for s in out.scores)]
    return out.sequences[0, prompt.shape[1]:].contiguous(), min(leads)


def probabilities(model, ids, logits, filters):
    settings = GenerationConfig(do_sample=True, **({"top_k": 0} | filters))
    processors = model._get_logits_processor(settings, input_ids_seq_length=ids.shape[1], device="cpu")
    return processors(ids, logits.clone()).softmax(-1)


def main(folder):
    model = random_model()
    model.save_pretrained(folder / "gpt2")
    model.double()

    ids = torch.randint(VOCAB, (2, TOKENS))
    ids[:, 8:11] = ids[:, 2:5]  # tokens that come twice, for the penalty
    targets = torch.randint(VOCAB, (2, TOKENS))
    logits = model(ids).logits
    loss = torch.nn.functional.cross_entropy(logits.view(-1, VOCAB), targets.view(-1))
    loss.backward()

    expected = {"ids": ids, "targets": targets, "logits": logits.detach(), "loss": loss.detach()}
    for name, p in model.named_parameters():
        grad = p.grad.t() if name.endswith(CONV1D) else p.grad
        expected["grad." + name] = grad.float().contiguous()
    with torch.no_grad():
        for name, penalty in (("greedy", 1.0), ("greedy_penalty", 1.3)):
            expected[name], lead = greedy(model, ids[:1], penalty)
            print(f"{name}: {expected[name].tolist()}, each ahead by at least {lead:.2g}")
        last = logits[:, -1].detach()
        expected["probabilities"] = torch.stack([probabilities(model, ids, last, f) for f in FILTERS])
        print("tokens left by each filter:", (expected["probabilities"] > 0).sum(-1).tolist())
    save_file(expected, folder / "expected.safetensors", {"filters": json.dumps(FILTERS)})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
