"""The accuracy table of the model card: `lite3r eval` on several checkpoints and scenes, as Markdown, then one JSON
line.

    python benchmarks/mini_accuracy.py SCENE… [--model mini --model weights.safetensors] [--views 4] [--resolution 518]

SCENE is a folder with images/ and cameras.json. The hash says which file was measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from pathlib import Path

import torch
from accuracy_tables import CARD as COLUMNS
from accuracy_tables import card_cell as cell

from lite3r_cli.config import EvaluateConfig, PredictConfig
from lite3r_cli.networks.registry import find_checkpoint
from lite3r_cli.pipelines.evaluate_scenes import evaluate


def sha256(model: str) -> str:
    path = find_checkpoint(model) if model == "mini" else Path(model)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", nargs="+", type=Path)
    parser.add_argument("--model", action="append")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--dtype", default="auto")
    arguments = parser.parse_args()
    report = {"torch": torch.__version__, "machine": platform.machine(), "views": arguments.views, "models": {}}
    for model in arguments.model or ["mini"]:
        predict = PredictConfig(model, resolution=arguments.resolution, dtype=arguments.dtype)
        result = evaluate(EvaluateConfig(tuple(arguments.scenes), predict, arguments.views))
        rows = {**{name: vars(s) for name, s in result.scenes.items()}, "**mean**": vars(result.mean)}
        print(f"\n{Path(model).name}, SHA-256 {sha256(model)[:16]}…\n")
        print("| scene | " + " | ".join(COLUMNS.values()) + " |")
        print("|---" * (len(COLUMNS) + 1) + "|")
        for name, scores in rows.items():
            print(f"| {name} | " + " | ".join(cell(scores[c]) for c in COLUMNS) + " |", flush=True)
        report["models"][Path(model).name] = {"sha256": sha256(model), "rows": rows}
    print("\n" + json.dumps(report))


if __name__ == "__main__":
    main()
