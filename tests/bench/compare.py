#!/usr/bin/env python3
"""Times training steps of altgrad and of PyTorch in turn, round by round, and prints medians and their ratios.

    python3 tests/bench/compare.py build/release/tests/bench/bench --sizes tiny baby --threads 1 2

Needs PyTorch 2. The models are nanoGPT's shape, with biases, AdamW, random tokens, f32:
  f32       as it is
  weights   the weights of the Linear layers but the tied head rounded to E4M3 (amax history of 16)
  full      altgrad: weights and inputs to E4M3, gradients of outputs to E5M2; PyTorch: weights and inputs, rounded
            by tensor operations in Python, which is how such experiments are written there
Memory is the most that was resident: of altgrad's whole process, and of PyTorch's above what loading it takes.
"""
import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from torch import nn
from torch.nn import functional as F

# layers, heads, channels, length, batch, vocabulary: as in bench.cpp
SIZES = {"tiny": (4, 4, 128, 64, 12, 65), "baby": (6, 6, 384, 256, 8, 65), "gpt2": (12, 12, 768, 256, 2, 50257)}
MODES = ["f32", "weights", "full"]


class RoundE4M3(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        q = (x / scale).abs()
        step = torch.pow(2.0, torch.floor(torch.log2(q.clamp(min=1e-38))).clamp(min=-6) - 3)
        return torch.sign(x) * (torch.round(q / step) * step).clamp(max=448.0) * scale

    @staticmethod
    def backward(ctx, dy):
        return dy, None


class Rounded(nn.Module):
    def __init__(self, linear, inputs):
        super().__init__()
        self.linear, self.inputs, self.amaxes = linear, inputs, ([], [])

    def round(self, x, amaxes):
        amaxes.append(x.detach().abs().max().item())
        del amaxes[:-16]
        return RoundE4M3.apply(x, max(amaxes) / 448)

    def forward(self, x):
        if self.inputs:
            x = self.round(x, self.amaxes[1])
        return F.linear(x, self.round(self.linear.weight, self.amaxes[0]), self.linear.bias)


class Block(nn.Module):
    def __init__(self, heads, channels, layer):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.c_attn, self.c_proj = layer(channels, 3 * channels), layer(channels, channels)
        self.c_fc, self.c_out = layer(channels, 4 * channels), layer(4 * channels, channels)

    def forward(self, x):
        batch, length, channels = x.shape
        q, k, v = (t.view(batch, length, self.heads, -1).transpose(1, 2)
                   for t in self.c_attn(self.ln_1(x)).split(channels, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(batch, length, channels))
        return x + self.c_out(F.gelu(self.c_fc(self.ln_2(x))))


class Training:
    def __init__(self, size, mode):
        layers, heads, channels, length, batch, vocabulary = SIZES[size]
        torch.manual_seed(0)

        def layer(n_in, n_out):
            linear = nn.Linear(n_in, n_out)
            return linear if mode == "f32" else Rounded(linear, mode == "full")

        self.wte, self.wpe = nn.Embedding(vocabulary, channels), nn.Embedding(length, channels)
        self.trunk = nn.Sequential(*[Block(heads, channels, layer) for _ in range(layers)], nn.LayerNorm(channels))
        parts = nn.ModuleList([self.wte, self.wpe, self.trunk])
        for p in parts.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, 0, 0.02)
        self.opt = torch.optim.AdamW(parts.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
        self.x, self.y = torch.randint(vocabulary, (2, batch, length))

    def step(self):
        self.opt.zero_grad(set_to_none=True)
        x = self.trunk(self.wte(self.x) + self.wpe.weight)
        loss = F.cross_entropy((x @ self.wte.weight.T).flatten(0, 1), self.y.flatten())
        loss.backward()
        self.opt.step()
        return loss.item()


def most_resident():
    """Bytes. Not of getrusage, where a process starts with what its parent held."""
    with open("/proc/self/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def time_torch(size, mode, threads, steps):
    """Seconds of a step, and the most bytes that the process held above what it held with PyTorch loaded."""
    torch.set_num_threads(threads)
    loaded = most_resident()
    training, times = Training(size, mode), []
    for _ in range(3 + steps):
        start = time.perf_counter()
        training.step()
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times[3:]), "resident_bytes": most_resident() - loaded}


def in_a_process(size, mode, threads, steps):
    """time_torch, on its own: memory that a process has held stays in its count."""
    arguments = ["--torch", size, mode, str(threads), str(steps)]
    return json.loads(subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True).stdout)


def time_altgrad(bench, size, mode, threads, steps):
    """Seconds of a step, its share of the FMA peak, and the most bytes that the whole process held."""
    with tempfile.NamedTemporaryFile("r") as out:
        subprocess.run([bench, "--threads", str(threads), "--samples", str(steps), "--only", f"step {size} {mode}",
                        "--json", out.name], check=True, stdout=subprocess.DEVNULL)
        return json.loads(out.readline())


def main():
    if sys.argv[1:2] == ["--torch"]:
        size, mode, threads, steps = sys.argv[2:]
        print(json.dumps(time_torch(size, mode, int(threads), int(steps))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", help="the benchmark that the build made")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["tiny", "baby"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=7, help="steps that a round takes the median of")
    a = parser.parse_args()
    print("| | threads | altgrad, ms | PyTorch, ms | ratio | to own f32 | of FMA peak | altgrad, MB | PyTorch, MB | ratio |\n"
          "|---|---|---|---|---|---|---|---|---|---|")
    for size in a.sizes:
        for threads in a.threads:
            ours, theirs = {m: [] for m in MODES}, {m: [] for m in MODES}
            for _ in range(a.rounds):
                for mode in MODES:
                    ours[mode].append(time_altgrad(a.bench, size, mode, threads, a.steps))
                    theirs[mode].append(in_a_process(size, mode, threads, a.steps))

            def median(runs, key, others=None):
                return statistics.median(x[key] / (y[key] if others else 1) for x, y in zip(runs, others or runs))

            for mode in MODES:
                x, y = ours[mode], theirs[mode]
                print(f"| {size} {mode} | {threads} "
                      f"| {1e3 * median(x, 'seconds'):.1f} | {1e3 * median(y, 'seconds'):.1f} "
                      f"| {median(x, 'seconds', y):.2f} | {median(x, 'seconds', ours['f32']):.2f} "
                      f"| {median(x, 'share'):.2f} "
                      f"| {1e-6 * median(x, 'resident_bytes'):.0f} | {1e-6 * median(y, 'resident_bytes'):.0f} "
                      f"| {median(x, 'resident_bytes', y):.2f} |", flush=True)


if __name__ == "__main__":
    main()
