"""Measures `mini` with narrow and wide lenses: drawn scenes with exact truth, one set for each field of view.

The sets are `lite3r synth --scenes 4 --views 8 --seed 4242 --field-of-view F`: the ray caster that `mini` was trained
with, other seeds. Scored in windows of four, as `mini_accuracy.py` scores the scenes of the model card. SCENES, if
given, are those of the card: their means at eight views at a time.

    python benchmarks/mini_lenses.py [SCENE …] [--model mini] [--before weights.safetensors] --json FILE
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

from lite3r_cli.config import EvaluateConfig, PredictConfig
from lite3r_cli.config.synthesis import SynthConfig
from lite3r_cli.pipelines import synthesise
from lite3r_cli.pipelines.evaluate_scenes import evaluate

FIELDS_OF_VIEW = (20, 30, 90, 100)  # degrees, those of the goals
MEASURES = ("auc5", "auc30", "focal_pct", "absrel")


def mean_scores(scenes: tuple[Path, ...], model: str, views: int) -> dict[str, float]:
    """Means over the scenes that have the measure."""
    mean = evaluate(EvaluateConfig(scenes, PredictConfig(model), views)).mean
    return {name: getattr(mean, name) for name in MEASURES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", nargs="*", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--before", help="other weights, to compare with")
    parser.add_argument("--samples", type=int, default=8, help="rays per pixel")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    models = {"mini": arguments.model} | ({"before": arguments.before} if arguments.before else {})
    report = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "sets": "lite3r synth --scenes 4 --views 8 --seed 4242 --field-of-view F; windows of four",
        "fields_of_view": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for degrees in FIELDS_OF_VIEW:
            output = Path(folder) / str(degrees)
            settings = dict(scenes=4, views=8, seed=4242, field_of_view=degrees, samples=arguments.samples)
            made = tuple(synthesise.run(SynthConfig(output, **settings)))
            rows = {name: mean_scores(made, model, 4) for name, model in models.items()}
            report["fields_of_view"][str(degrees)] = rows
            print(degrees, json.dumps(rows), flush=True)
            arguments.json.write_text(json.dumps(report, indent=1))
    if arguments.scenes:
        report["eight_views"] = {name: mean_scores(tuple(arguments.scenes), m, 8) for name, m in models.items()}
        print("eight views", json.dumps(report["eight_views"]), flush=True)
        arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
