"""Loads what export.cpp wrote in transformers, and compares. Usage: check.py OUT

Each folder must load without a warning and without a key that is missing, unexpected or of another shape, and give
altgrad's logits.
"""

import json
import logging
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

# The largest difference of a logit: absolute, or as a share of the largest logit where inputs are rounded too. A rounding
# there jumps a whole step where the sums before it differ in their last bits.
FLOATS, CODES, STATIC = 1e-5, 1e-4, 1e-2
FOLDERS = {
    "gpt2": FLOATS, "gpt2_shards": FLOATS, "gpt2_own": FLOATS, "gpt2_biasless": FLOATS,
    "opt": FLOATS, "opt_own": FLOATS, "opt_biasless": FLOATS,
    "opt_fp8": CODES, "opt_fp8_static": STATIC, "opt_fp8_some": STATIC,
}


class Warnings(logging.Handler):
    """Collects what transformers says, at the level of a warning or above."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []
        transformers_logging.get_logger("transformers").addHandler(self)

    def emit(self, record):
        self.texts.append(record.getMessage())


def loaded(folder, warnings):
    warnings.texts.clear()
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    faults = {key: value for key, value in info.items() if value}
    assert not faults, f"{folder.name}: {faults}"
    assert not warnings.texts, f"{folder.name}: {warnings.texts}"
    return model.eval()


def altgrads(out, name):
    return load_file(out / f"{name}.logits.safetensors")


def difference(model, out, name):
    expected = altgrads(out, name)
    with torch.no_grad():
        logits = model(expected["ids"]).logits
    return float((logits - expected["logits"]).abs().max()), float(expected["logits"].abs().max())


def check_that_roundings_show(out):
    """The models in 8 bits must differ from each other by more than what is allowed, or nothing has been compared."""
    plain, weights, static = (altgrads(out, name)["logits"] for name in ("gpt2", "opt_fp8", "opt_fp8_static"))
    share = float(plain.abs().max()) * STATIC
    assert (weights - plain).abs().max() > share and (static - weights).abs().max() > share


def numbers(path):
    """All tensors of a file, its codes as numbers."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    for name, tensor in tensors.items():
        if tensor.dtype == torch.float8_e4m3fn:
            tensors[name] = tensor.float() * tensors[name + "_scale"]
    return tensors


def check_bf16(out):
    """The nearest numbers, by torch."""
    wide, narrow = load_file(out / "gpt2/model.safetensors"), load_file(out / "gpt2_bf16/model.safetensors")
    assert wide.keys() == narrow.keys()
    for name, tensor in wide.items():
        assert torch.equal(tensor.bfloat16(), narrow[name]), name


def check_gpt2_fp8(out):
    """Codes in GPT-2's layout are those of OPT's, transposed; no program that is here computes with them."""
    ours, opt = (numbers(out / name / "model.safetensors") for name in ("gpt2_fp8", "opt_fp8_static"))
    for layer in range(2):
        h, o = f"transformer.h.{layer}.", f"model.decoder.layers.{layer}."
        qkv = torch.cat([opt[f"{o}self_attn.{x}_proj.weight"] for x in "qkv"])
        pairs = {"attn.c_attn": qkv, "attn.c_proj": opt[o + "self_attn.out_proj.weight"],
                 "mlp.c_fc": opt[o + "fc1.weight"], "mlp.c_proj": opt[o + "fc2.weight"]}
        for name, weight in pairs.items():
            assert torch.equal(ours[f"{h}{name}.weight"].t(), weight), name
    config = json.loads((out / "gpt2_fp8/config.json").read_text())
    assert config["quantization_config"]["ignore"] == ["lm_head"]


def main(out):
    warnings = Warnings()
    for name, tolerance in FOLDERS.items():
        worst, largest = difference(loaded(out / name, warnings), out, name)
        share = worst / largest
        print(f"{name}: logits differ by {worst:.2g}, {share:.2g} of the largest")
        assert (share if tolerance is STATIC else worst) < tolerance, f"{name}: more than {tolerance}"
    loaded(out / "gpt2_bf16", warnings)
    check_that_roundings_show(out)
    check_bf16(out)
    check_gpt2_fp8(out)
    print("interop: all as expected")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
