"""Finds the linear layers whose rounding to FP8 rotates the cameras: `mini` with some of them rounded against none.

Windows of scenes on disk, float32 but for the layers named: mean relative depth difference after one scale, mean and
median rotation of the cameras. A table, then one JSON line.

    python benchmarks/fp8_layers.py SCENE… [--views 6] [--resolution 336]
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from distill_mini import against_teacher, answers, scene_windows
from torch import nn

from lite3r_cli.networks.checkpoint import open_checkpoint
from lite3r_cli.networks.family import exact_products, family_of
from lite3r_cli.quant.swap import swap_linears

CPU = torch.device("cpu")


def settings(depth: int, spared: set[str]) -> dict[str, Callable[[str], bool]]:
    """Name → whether the block layer of this name is rounded."""
    kinds = {"qkv": "attn.qkv", "output": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    found: dict[str, Callable[[str], bool]] = {"all": lambda name: True}
    found |= {f"{kind} alone": lambda name, end=end: name.endswith(end) for kind, end in kinds.items()}
    found |= {f"block {i} alone": lambda name, i=i: name.startswith(f"blocks.{i}.") for i in range(depth)}
    found |= {
        "output of the last but one alone": lambda name: name == f"blocks.{depth - 2}.attn.proj",
        "all but the outputs": lambda name: not name.endswith("attn.proj"),
        "all but the last two outputs (shipped)": lambda name: f"{name}.weight" not in spared,
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, nargs="+")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--views", type=int, default=6)
    parser.add_argument("--resolution", type=int, default=336)
    o = parser.parse_args()
    with open_checkpoint(o.model) as checkpoint:
        network = checkpoint.load()
    network.compute_dtype = torch.float32
    parts = [next(scene_windows(folder, o.views, o.resolution, network.patch_size)) for folder in o.scenes]
    exact, _ = answers(network, parts, CPU)
    spared = set(exact_products(network)) - set(family_of(network).high_precision)
    rows = []
    print(f"{'rounded':40} {'layers':>6} {'depth':>7} {'rotation':>9} {'median':>8}")
    for name, rounded in settings(network.config.depth, spared).items():
        other = copy.deepcopy(network)
        layers = {
            n for n, m in other.named_modules() if type(m) is nn.Linear and n.startswith("blocks.") and rounded(n)
        }
        swap_linears(other, "fake-quant", lambda n, _, layers=layers: n not in layers)
        away = [against_teacher(a, b) for a, b in zip(answers(other, parts, CPU)[0], exact, strict=True)]
        depth, turns = np.mean([row["depth"] for row in away]), [row["rotation"] for row in away]
        rows.append(
            {
                "rounded": name,
                "layers": len(layers),
                "depth": float(depth),
                "rotation": float(np.mean(turns)),
                "median": float(np.median(turns)),
            }
        )
        print(f"{name:40} {len(layers):6} {depth:7.4f} {np.mean(turns):8.3f}° {np.median(turns):7.3f}°", flush=True)
    about = {
        "sha256": checkpoint.fingerprint.result(),
        "views": o.views,
        "resolution": o.resolution,
        "scenes": [p.name for p in o.scenes],
    }
    print(json.dumps({"benchmark": "fp8_layers", "torch": torch.__version__, **about, "results": rows}))


if __name__ == "__main__":
    main()
