"""Tests whether int8 products are faster on a CPU: one linear layer of `mini` at a time, on its own tokens.

The weights of a block of the embedded model and inputs like those that it sees (LayerNorm's output, GELU's for fc2)
are multiplied in float32, in bfloat16, by `torch._int_mm` (int8 × int8 → int32, a scale a token and a row) and by
torch's dynamically quantised linear layer (oneDNN: int8 weights with a scale a row, uint8 activations with one scale
for all). The kinds take turns; processor time with one thread hardly depends on other work. The error is that of the
output, relative to float32's root mean square; FP8's (E4M3, a scale a token and a row) stands beside it.

    python benchmarks/int8_cpu.py [--views 8] [--threads 1] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from lite3r_cli.layers.dense import has_amx
from lite3r_cli.networks.checkpoint import open_checkpoint
from lite3r_cli.networks.standin import image_batch
from lite3r_cli.quant.fp8 import quantize_rows
from lite3r_cli.quant.linear import emulated

BLOCK = "blocks.9"
LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


def int8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values and a scale for each row."""
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
    return (x / scale).round().to(torch.int8), scale


def kinds(x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Name → the layer's output (T, R) from x (T, C) as its neighbours hand it on: bfloat16."""
    half, half_weight, half_bias = x.bfloat16(), weight.bfloat16(), bias.bfloat16()
    rows, row_scales = int8_rows(weight)
    columns, out_scales = rows.T.contiguous(), row_scales.T
    values, scales = int8_rows(x)
    fp8, fp8_scale = quantize_rows(weight)
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data, layer.bias.data = weight, bias
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is to move to another package
        quantised = torch.ao.quantization.quantize_dynamic(
            torch.nn.Sequential(layer), {torch.nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}
        )

    def int_mm() -> Tensor:
        values, scales = int8_rows(half.float())
        return (torch._int_mm(values, columns) * (scales * out_scales) + bias).bfloat16()

    return {
        "float32": lambda: F.linear(x, weight, bias),
        "bfloat16": lambda: F.linear(half, half_weight, half_bias),
        "int8, the product alone": lambda: torch._int_mm(values, columns) * (scales * out_scales) + bias,
        "int8 by token and row": int_mm,
        "int8, dynamic": lambda: quantised(half.float()).bfloat16(),
        "FP8, emulated": lambda: emulated(half, fp8, fp8_scale, bias),
    }


def inputs(views: int) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Layer → its input tokens (T, C), weight and bias, from a forward pass over stand-in pictures."""
    with open_checkpoint("mini") as checkpoint:
        model = checkpoint.load("cpu")
    seen: dict[str, Tensor] = {}
    hooks = []
    for name in LAYERS:
        module = model.get_submodule(f"{BLOCK}.{name}")
        hooks.append(module.register_forward_pre_hook(lambda m, args, name=name: seen.__setitem__(name, args[0])))
    model.predict(list(image_batch(views, 350, 518, 0)[0]))
    for hook in hooks:
        hook.remove()
    found = {}
    for name in LAYERS:
        module = model.get_submodule(f"{BLOCK}.{name}")
        found[name] = seen[name].float().flatten(0, -2), module.weight.detach(), module.bias.detach()
    return found


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    rows = []
    print(f"{'layer':10} {'kind':24} {'processor time':>15} {'bfloat16 / this':>16} {'error':>8}")
    for name, (x, weight, bias) in inputs(o.views).items():
        made = kinds(x, weight, bias)
        exact = made["float32"]()
        times: dict[str, list[float]] = {kind: [] for kind in made}
        errors = {kind: float((run().float() - exact).norm() / exact.norm()) for kind, run in made.items()}
        for _ in range(o.repeats):
            for kind, run in made.items():
                start = time.process_time()
                run()
                times[kind].append(time.process_time() - start)
        middle = {kind: statistics.median(each) for kind, each in times.items()}
        for kind, seconds in middle.items():
            factor = middle["bfloat16"] / seconds
            rows.append({"layer": name, "kind": kind, "cpu_s": seconds, "factor": factor, "error": errors[kind]})
            print(f"{name:10} {kind:24} {1e3 * seconds:12.1f} ms {factor:15.2f}× {errors[kind]:8.2%}", flush=True)
    document = {
        "benchmark": "int8_cpu", "torch": torch.__version__, "amx": has_amx(), "threads": o.threads,
        "tokens": len(x), "engine": torch.backends.quantized.engine, "load": os.getloadavg()[0], "results": rows,
    }  # fmt: skip
    print(json.dumps(document))
    if o.json is not None:
        o.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
