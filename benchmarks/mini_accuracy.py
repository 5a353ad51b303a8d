"""The accuracy of `mini`'s weights: the tables of the model card, and whether other weights are better.

    python benchmarks/mini_accuracy.py SCENE… [--beside SCENE…] [--model mini --model weights.safetensors …]
        [--only card beside lenses drawn many] [--few] [--scores DIR] --json FILE
    python benchmarks/mini_accuracy.py --join DIR/mini.json DIR/weights.safetensors.json --json FILE

SCENE is a folder with images/ and cameras.json. The sets are those of `mini_sets.py`: the scenes of the card in windows
of four images and of eight, with unknown and with known focal lengths; scenes beside those of the card; drawn scenes
through narrow and wide lenses; drawn scenes as training draws them, and seven views of each with and without an
unrelated one; 8, 24 and 100 views at once, and the same pairs of views predicted in fours. The size of the images and
the precision are the program's own (518 px; bfloat16 on a GPU).

Of each set the means over its scenes, with 95 % intervals of a bootstrap over scenes; of every model after the first
the differences from the first, paired by scene. A star marks an interval without 0. --few draws few scenes, for a CPU.
One process measures its models one after the other; several, each with --scores, are joined with --join.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy_tables import CARD as COLUMNS
from accuracy_tables import card_cell
from distill_mini import interval
from mini_sets import CARD, FEW, PARTS, Amount, Case, Set, make_sets
from model_tables import GOALS_HEAD, goal_lines
from stored import table

from lite3r_cli.checkpoints.metadata import SCALE_SUFFIX
from lite3r_cli.config import PredictConfig
from lite3r_cli.cores import count_cores
from lite3r_cli.networks.base import Prediction
from lite3r_cli.pipelines.as_views import to_views
from lite3r_cli.pipelines.evaluate_scenes import Scores, Tally, mean_scores
from lite3r_cli.pipelines.predict import Predictor
from lite3r_cli.scene.posed_view import View

SHOWN = {"auc5": ("AUC@5", 3), "auc30": ("AUC@30", 3), "focal_pct": ("focal %", 2), "absrel": ("AbsRel", 4)}
Predict = Callable[[Case], Sequence[View]]  # the views `shown` of a case
SetScores = dict[str, Scores]  # scene → its scores
Interval = tuple[float, float, float]  # value, and the ends of its 95 % interval


# -- one set -----------------------------------------------------------------------------------------------------------


def predict_case(predictor: Predictor, case: Case) -> list[View]:
    """The network's answer for the views that a case shows, without the stranger's."""
    inputs = case.inputs()
    found = predictor.network.answer([item.rgb for item in inputs], [None] * len(inputs), **case.cameras())
    own = [i for i in range(len(inputs)) if case.stranger is None or i != case.stranger[1]]
    depth, confidence = ([maps[i] for i in own] for maps in (found.depth, found.confidence))
    prediction = Prediction(depth, confidence, found.cam_from_world[own], found.K[own])
    return to_views(case.pictures.images(case.shown), range(len(own)), [inputs[i] for i in own], prediction)


def scored(cases: Sequence[Case], predict: Predict, pool: ThreadPoolExecutor) -> SetScores:
    """The scores of each scene over all of its cases. The pool scores while the next scene is predicted."""
    jobs = {}
    for name, own in groupby(cases, lambda case: case.pictures.name):  # cases of a scene follow each other
        answers = [(case, dict(zip(case.shown, predict(case), strict=True))) for case in own]
        jobs[name] = pool.submit(tallied, answers)
    return {name: job.result() for name, job in jobs.items()}


def tallied(answers: Sequence[tuple[Case, Mapping[int, View]]]) -> Scores:
    """The scores of one scene: `answers` has the views of each of its cases."""
    truth = answers[0][0].pictures.truth
    tally = Tally(truth, clouds=False)
    for case, views in answers:
        for part in case.judged:
            tally.add([truth[i] for i in part], [views[i] for i in part])
    return tally.scores()


def difference(rows: Mapping[str, Scores], base: Mapping[str, Scores] | None, measure: str) -> Interval | None:
    """The mean over scenes of a measure, or of its differences from `base`; None: no scene has it."""

    def column(those: Mapping[str, Scores]) -> np.ndarray:
        return np.array([getattr(those[scene], measure) for scene in rows], np.float64)  # None → NaN

    values = column(rows)
    before = np.zeros(len(values)) if base is None else column(base)
    return interval(values, "absolute", before) if np.isfinite(values - before).any() else None


@dataclass(frozen=True)
class Line:
    """What is said of one model on one set."""

    model: str
    kind: str  # "mean", "difference" from the first model, "against" the set that this one is compared with
    values: dict[str, Interval | None]  # measure → value


def lines_of(name: str, against: str, scores: Mapping[str, Mapping[str, SetScores]]) -> list[Line]:
    """The lines of one set, which is compared with the set `against`, if any. `scores`: model → set → scene."""
    found = []
    first = next(iter(scores))
    for model, sets in scores.items():
        bases: dict[str, SetScores | None] = {"mean": None}
        if model != first:
            bases["difference"] = scores[first][name]
        if against:
            bases["against"] = sets[against]
        for kind, base in bases.items():
            found.append(Line(model, kind, {measure: difference(sets[name], base, measure) for measure in SHOWN}))
    return found


# -- report ------------------------------------------------------------------------------------------------------------


def shown(value: Interval | None, digits: int, sign: str) -> str:
    if value is None:
        return "–"
    star = " *" if sign and not value[1] <= 0 <= value[2] else ""
    return "{:{s}.{d}f} [{:{s}.{d}f}, {:{s}.{d}f}]".format(*value, s=sign, d=digits).replace("-", "−") + star


def table_of(name: str, against: str, lines: Sequence[Line], scenes: int) -> str:
    what = {"mean": "", "difference": f" − {lines[0].model}", "against": f" − the same, {against}"}
    return table(
        (f"{name} ({scenes} scenes)", *(title for title, _ in SHOWN.values())),
        [
            [line.model + what[line.kind]]
            + [shown(line.values[key], n, "+" if line.kind != "mean" else "") for key, (_, n) in SHOWN.items()]
            for line in lines
        ],
    )


def print_card(name: str, sha: str, rows: Mapping[str, Mapping[str, float | None]]) -> None:
    """The table of the model card, and its goals where all of their scenes are there."""
    print(f"\n{name}, SHA-256 {sha[:16]}…\n")
    print(table(("scene", *COLUMNS.values()), [[n, *(card_cell(row[c]) for c in COLUMNS)] for n, row in rows.items()]))
    with suppress(KeyError):
        print(table(GOALS_HEAD, goal_lines(rows)))


def report(measured: Sequence[Measured]) -> dict[str, Any]:
    """Print the tables; returns them as a document, without the scores of single scenes but for the card's."""
    scores = {each.model: each.scores() for each in measured}
    told: dict[str, Any] = {each.model: {**each.about, "sets": {}} for each in measured}
    for each in measured:
        if CARD in each.sets:
            found = scores[each.model][CARD]
            rows = found | {"**mean**": mean_scores(list(found.values()))}
            told[each.model]["rows"] = {scene: vars(row) for scene, row in rows.items()}
            print_card(each.model, each.about["sha256"], told[each.model]["rows"])
    for name, (against, found) in measured[0].sets.items():
        if all(name in each.sets for each in measured):
            lines = lines_of(name, against, scores)
            print(table_of(name, against, lines, len(found)))
            for line in lines:
                about = {"scenes": len(found)} | ({"compared_with": against} if against else {})
                told[line.model]["sets"].setdefault(name, about)[line.kind] = line.values
    return {"views": 4, "models": told}


# -- measuring ---------------------------------------------------------------------------------------------------------


@dataclass
class Measured:
    """The scores of one model, which are kept in a file."""

    model: str  # name of its file
    about: dict[str, Any]
    sets: dict[str, tuple[str, dict[str, dict[str, float | None]]]] = field(default_factory=dict)
    # name → the set that it is compared with, and the scores of each scene

    def scores(self) -> dict[str, SetScores]:
        return {name: {scene: Scores(**row) for scene, row in rows.items()} for name, (_, rows) in self.sets.items()}

    def add(self, made: Set, found: SetScores) -> None:
        rows = {
            scene: {k: v if v is None else float(f"{v:.6g}") for k, v in vars(s).items()} for scene, s in found.items()
        }
        self.sets[made.name] = made.against, rows


def measure(o: argparse.Namespace) -> list[Measured]:
    """Measure all models on all sets. What is measured is written to `o.scores` after each set."""
    start = time.monotonic()
    models = [Predictor(PredictConfig(model, device=o.device, dtype=o.dtype)) for model in o.model or ["mini"]]
    runtime = models[0].runtime
    where = torch.cuda.get_device_name() if runtime.torch_device.type == "cuda" else "cpu"
    machine = {
        "device": where,
        "dtype": runtime.dtype.chosen,
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    measured = [
        Measured(
            Path(predictor.config.model).name,
            {"sha256": predictor.fingerprint.result(), "weights": weights_of(predictor), **machine},
        )
        for predictor in models
    ]
    amount = FEW if o.few else Amount()
    with ThreadPoolExecutor(min(32, count_cores())) as pool:
        for made in make_sets(o.scenes, o.beside, amount, o.only, runtime.torch_device, o.workers):
            drawn = time.monotonic() - start
            for predictor, each in zip(models, measured):
                each.add(made, scored(made.cases, partial(predict_case, predictor), pool))
                if o.scores:
                    o.scores.mkdir(parents=True, exist_ok=True)
                    (o.scores / f"{each.model}.json").write_text(json.dumps(vars(each)) + "\n")
            took = time.monotonic() - start - drawn
            print(f"{drawn:4.0f} s: {made.name}, {len(made.cases)} cases, measured in {took:.1f} s", flush=True)
    return measured


def weights_of(predictor: Predictor) -> str:
    stored = predictor.checkpoint.source.entries
    return "FP8" if any(name.endswith(SCALE_SUFFIX) for name in stored) else "not rounded to FP8"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="*", type=Path)
    parser.add_argument("--beside", nargs="+", type=Path, default=[], help="scenes that are not in the card's means")
    parser.add_argument("--model", action="append", help="several times: the first is what others are compared with")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--few", action="store_true", help="few drawn scenes, for a CPU")
    parser.add_argument("--workers", type=int, default=min(12, count_cores() - 1), help="processes that draw scenes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--scores", type=Path, metavar="DIR", help="write each model's scores to DIR/MODEL.json")
    parser.add_argument(
        "--join", nargs="+", type=Path, metavar="FILE", help="compare files of --scores, measure nothing"
    )
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    o = options()
    measured = [Measured(**json.loads(file.read_text())) for file in o.join] if o.join else measure(o)
    document = report(measured)
    if o.json:
        o.json.write_text(json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
