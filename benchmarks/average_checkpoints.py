"""Writes the weighted average of two checkpoints, FIRST + share · (SECOND − FIRST), where the second run started from
the first.

Such averages can generalise better than either end (Wortsman et al., "Robust fine-tuning", arXiv 2109.01903); share 1
is the second alone, with the recipe and licence of both.

    python benchmarks/average_checkpoints.py FIRST SECOND OUT --share 0.7 [--recipe JSON] [--half]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from lite3r_cli import __version__
from lite3r_cli.networks.checkpoint import open_checkpoint
from lite3r_cli.training.state import save_weights

ADDS = "camera.correct.out."
KEPT = ("licence", "initialised_from", "recipe")  # of the metadata


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of the second")
    parser.add_argument("--recipe", type=json.loads, help="JSON of the runs since the first, added to its recipe")
    parser.add_argument("--half", action="store_true", help="float16 instead of FP8")
    o = parser.parse_args()
    with open_checkpoint(o.first) as checkpoint:
        extra = {name: checkpoint.metadata[name] for name in KEPT if name in checkpoint.metadata}
        first = checkpoint.load()
    with open_checkpoint(o.second) as checkpoint:
        second = checkpoint.load()
    if o.recipe is not None:
        average = [{"averaged_with_previous": round(1 - o.share, 4)}] if o.share != 1 else []
        extra["recipe"] = json.dumps([*json.loads(extra.get("recipe", "[]")), *o.recipe, *average])
    ends = second.state_dict()
    # layers that only the second has added nothing in the first: their last one was zero
    starts = {name: torch.zeros_like(v) if name.startswith(ADDS) else v for name, v in ends.items()}
    starts |= first.state_dict()
    state = {name: (1 - o.share) * value + o.share * ends[name] for name, value in starts.items()}
    save_weights(o.out, state, second, torch.float16 if o.half else torch.float8_e4m3fn, version=__version__, **extra)


if __name__ == "__main__":
    main()
