"""The comparison of the Lite3R paper (arXiv 2605.11354), run again: dense, sparse-linear, FP8 and both, on BlendedMVS
and DTU, beside the published figures.

    python benchmarks/paper_tables.py --blendedmvs DIR --dtu DIR --model vggt-1b=PATH --model da3-large=PATH \\
        --student vggt-1b=PATH -o paper-tables.json

Whatever data and weights are there are measured, and what is missing is said. The JSON file is written after each set
of views: the same command goes on where it was stopped. The tables are printed, and written beside it as Markdown.

The protocol is that of the authors' code: the first 32 scenes of BlendedMVS by name and the first 14 scans of DTU; of
each one two pictures drawn by NumPy's generator of seed 0; the middle square of each, 518×518; DTU without depth. Pairs
that share nothing occur; `--pairs overlapping` takes partners by pair.txt. Unlike theirs, depth is compared at the
median of truth / prediction (theirs: least squares), at all pixels with known depth, and translation by its direction.
A network that was trained on BlendedMVS has seen most of these scenes; `--held-out` takes the validation scenes alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from paper_report import DATA, FORMS, PAPER_NETWORKS, markdown

from lite3r_cli.config import LiteConfig, PredictConfig
from lite3r_cli.data.blendedmvs import load_blendedmvs
from lite3r_cli.data.dtu import load_all_scans, load_dtu
from lite3r_cli.data.views import ViewSet, choose_views, read_views
from lite3r_cli.errors import InputError, Lite3RError
from lite3r_cli.io.arrays import from_arrays
from lite3r_cli.scene.posed_view import View

if TYPE_CHECKING:
    from lite3r_cli.pipelines.predict import Predictor

MOST = {"blendedmvs": 32, "dtu": 14}  # scenes, as in the authors' configuration files
MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """What a report is about. One file holds one setting: figures of two would not belong into one table."""

    views: int
    size: int
    pairs: str
    held_out: bool
    keep_ratio: float | None
    device: str
    dtype: str
    data: dict[str, str]  # name of the data set: that of the folder


def main() -> int:
    arguments = _arguments()
    folders = {name: path for name in DATA if (path := getattr(arguments, name)) is not None}
    settings = Settings(
        arguments.views, arguments.size, arguments.pairs, arguments.held_out, arguments.keep_ratio,
        arguments.device, arguments.dtype,
        {name: path.resolve().name for name, path in folders.items()},
    )  # fmt: skip
    try:
        report = _read_report(arguments.output, settings)
        damaged: list[str] = []  # left out by the loaders
        scenes = {name: _scenes(name, path, settings, arguments.scenes, damaged) for name, path in folders.items()}
    except Lite3RError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    report["missing"] = [
        f"{title}: name its folder with --{name} DIR" for name, title in DATA.items() if name not in scenes
    ]
    report["missing"] += [f"damaged and left out: {text}" for text in damaged]
    models, students = _named(arguments.model), _named(arguments.student)
    report["missing"] += [
        f"{name}: name its checkpoint with --model {name}=PATH" for name in PAPER_NETWORKS if name not in models
    ]
    for name, path in models.items():
        for form in arguments.forms:
            weights = students.get(name, path) if form in ("sparse", "both") else path
            try:
                _measure(report, arguments.output, settings, scenes, (name, form, weights), arguments.repeats)
            except Lite3RError as error:
                report["missing"].append(f"{name}, {FORMS[form]}: {error}")
    _write(arguments.output, report)
    print(markdown(report))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--blendedmvs", type=Path, metavar="DIR", help="BlendedMVS in its published layout")
    add("--dtu", type=Path, metavar="DIR", help="DTU: Cameras/ and scanN/image/")
    add("--model", action="append", default=[], metavar="NAME[=PATH]", help="a network, and its checkpoint")
    add("--student", action="append", default=[], metavar="NAME=PATH",
        help="its checkpoint with trained sparse-linear attention")  # fmt: skip
    add("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="what is compared")
    add("--views", type=int, default=2, help="images of a set")
    add("--size", type=int, default=518, help="side of the square that the network sees, pixels")
    add("--scenes", type=int, help="scenes of each data set; without it as many as the authors took, 32 and 14")
    add("--pairs", choices=("random", "overlapping"), default="random", help="which images make a set")
    add("--held-out", action="store_true", help="validation scenes only")
    add("--keep-ratio", type=float, help="share of attention that is computed; without it the checkpoint's")
    add("--device", default="auto")
    add("--dtype", default="auto")
    add("--repeats", type=int, default=20, help="timed runs; 0 measures no time")
    add("-o", "--output", type=Path, default=Path("paper-tables.json"))
    return parser.parse_args()


def _named(texts: Sequence[str]) -> dict[str, str]:
    """["vggt-1b=PATH", "mini"] → {"vggt-1b": "PATH", "mini": "mini"}."""
    parts = [text.partition("=") for text in texts]
    return {name: path or name for name, _, path in parts}


# -- data --------------------------------------------------------------------------------------------------------------


def _scenes(
    data: str, folder: Path, settings: Settings, most: int | None, damaged: list[str]
) -> list[tuple[ViewSet, list[int]]]:
    """Scenes by name, each with the pictures of its set; what is `damaged` is added there. Raises InputError."""
    if data == "blendedmvs":
        split = load_blendedmvs(folder)
        damaged += split.damaged
        found = split.held_out if settings.held_out else (*split.train, *split.held_out)
        found = tuple(sorted(found, key=lambda scene: scene.name))
    else:
        found = load_dtu(folder).held_out if settings.held_out else load_all_scans(folder)
        found = tuple(sorted(found, key=lambda scene: scene.name))
    found = tuple(scene for scene in found if len(scene.shots) >= settings.views)[: most or MOST[data]]
    if not found:
        raise InputError(f"{folder}: no scene of {settings.views} images to measure on")
    rng = np.random.default_rng(0)
    return [(scene, _draw(scene, rng, settings)) for scene in found]


def _draw(scene: ViewSet, rng: np.random.Generator, settings: Settings) -> list[int]:
    """Indices of the pictures of a set: any of the scene, or such as see the same."""
    if settings.pairs == "overlapping":
        return choose_views(scene, rng, settings.views)
    first = int(rng.choice(len(scene.shots)))
    others = [i for i in range(len(scene.shots)) if i != first]
    return [first, *(int(i) for i in rng.choice(others, settings.views - 1, replace=False))]


def _truth_and_pictures(scene: ViewSet, chosen: Sequence[int], size: int) -> tuple[list[View], list[np.ndarray]]:
    """The middle squares of the pictures at the size asked for, and their cameras and depth."""
    views = read_views([scene.shots[i] for i in chosen], size, 1, (size, size))
    if views.K is None or views.cam_from_world is None:
        raise InputError(f"{scene.name}: has images without a camera")
    truth = [
        View(
            f"{i:06d}.png", size, size, views.K[j].astype(np.float64), views.cam_from_world[j].astype(np.float64),
            None if views.depth is None else views.depth[j],
        )
        for j, i in enumerate(chosen)
    ]  # fmt: skip
    return truth, list(views.images)


# -- measuring ---------------------------------------------------------------------------------------------------------


def _measure(
    report: dict[str, Any],
    output: Path,
    settings: Settings,
    scenes: Mapping[str, list[tuple[ViewSet, list[int]]]],
    which: tuple[str, str, str],
    repeats: int,
) -> None:
    """One row: what is not in the report yet. The network is loaded only for that. Raises Lite3RError."""
    name, form, weights = which
    row = _row(report, name, form, weights)
    sets = [(data, key, part) for data, parts in scenes.items() for key, part in _keys(parts)]
    todo = [(data, key, part) for data, key, part in sets if _is_open(row, data, key)]
    timed = repeats > 0 and bool(scenes) and row["time"] is None
    if not todo and not timed:
        return
    predictor = _predictor(settings, form, weights)
    row["choices"] = {what: choice["chosen"] for what, choice in predictor.choices().items()}
    row["trained"] = predictor.checkpoint.facts.training != "none"
    for number, (data, key, (scene, chosen)) in enumerate(todo, 1):
        print(f"{name}, {FORMS[form]}: {DATA[data]} {key} ({number} of {len(todo)})", file=sys.stderr)
        found = row["data"].setdefault(data, {})
        try:
            found[key] = _scores(predictor, scene, chosen, settings.size)
        except Lite3RError as error:
            found[key] = {"error": str(error)}
            report["missing"].append(f"{name}, {FORMS[form]}, {DATA[data]} {key}: {error}")
        _write(output, report)
    if timed:
        scene, chosen = next(iter(scenes.values()))[0]
        row["time"] = _time(predictor, _truth_and_pictures(scene, chosen, settings.size)[1], settings.size, repeats)
        _write(output, report)


def _keys(parts: list[tuple[ViewSet, list[int]]]) -> Iterator[tuple[str, tuple[ViewSet, list[int]]]]:
    for scene, chosen in parts:
        yield f"{scene.name}: {', '.join(map(str, chosen))}", (scene, chosen)


def _is_open(row: Mapping[str, Any], data: str, key: str) -> bool:
    """Whether a measurement is missing or has failed; failed ones are repeated."""
    found = row["data"].get(data, {}).get(key)
    return found is None or "error" in found


def _row(report: dict[str, Any], name: str, form: str, weights: str) -> dict[str, Any]:
    """The row of a network in a form; a new one where its checkpoint is another than it was. Raises WeightsError."""
    from lite3r_cli.networks.checkpoint import open_checkpoint

    with open_checkpoint(weights) as checkpoint:
        digest = checkpoint.fingerprint.result()
    for row in report["rows"]:
        if (row["model"], row["form"]) == (name, form):
            if row["sha256"] == digest:
                return row
            print(f"{name}, {FORMS[form]}: another checkpoint than before; measured anew", file=sys.stderr)
            report["rows"].remove(row)
            break
    row = {"model": name, "form": form, "sha256": digest, "trained": False, "choices": {}, "data": {}, "time": None}
    report["rows"].append(row)
    order = list(FORMS)
    report["rows"].sort(key=lambda r: (r["model"], order.index(r["form"])))
    return row


def _predictor(settings: Settings, form: str, weights: str) -> Predictor:
    import torch

    from lite3r_cli.pipelines.predict import Predictor
    from lite3r_cli.quant.swap import scaled_mm_reason
    from lite3r_cli.runtime import choose

    device = choose(settings.device).torch_device
    fp8 = "off" if form in ("dense", "sparse") else "emulate" if scaled_mm_reason(device) else "scaled-mm"
    sparse = form in ("sparse", "both")
    lite = LiteConfig("sla" if sparse else "dense", settings.keep_ratio if sparse else None, fp8)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return Predictor(PredictConfig(weights, settings.size, settings.device, settings.dtype, lite=lite))


def _scores(predictor: Predictor, scene: ViewSet, chosen: Sequence[int], size: int) -> dict[str, float]:
    from lite3r_cli.pipelines.evaluate_scenes import Tally

    truth, pictures = _truth_and_pictures(scene, chosen, size)
    tally = Tally(truth)
    tally.add(truth, predictor.predict(from_arrays(pictures), strict=True).views)
    depth = tally.depth_errors()
    found = asdict(tally.scores()) | {"accuracy_pct": depth.accuracy, "completeness_pct": depth.completeness}
    return {key: round(value, 6) for key, value in found.items() if value is not None}


def _time(predictor: Predictor, pictures: Sequence[np.ndarray], size: int, repeats: int) -> dict[str, Any]:
    """Median time of the network alone and memory at the peak, of one set that lies on the device already."""
    import torch

    from lite3r_cli.bench.measure import Peak, allocated, once
    from lite3r_cli.networks.family import preparation_of
    from lite3r_cli.pipelines.preprocess import fit

    device = predictor.runtime.torch_device
    prepare, patch = preparation_of(predictor.backbone), predictor.backbone.patch_size
    shown = [fit(picture, prepare, size, patch).rgb for picture in pictures]
    images = [torch.from_numpy(rgb).to(device).permute(2, 0, 1).float().div_(255) for rgb in shown]
    run = lambda: predictor.network.predict(images)  # noqa: E731
    for _ in range(max(1, repeats // 2)):  # as many as the authors' code, for its 20
        run()
    peak = Peak(device)
    with peak.watch(allocated(device)):
        run()
    times = [once(device, run) for _ in range(repeats)]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {
        "ms": round(statistics.median(times), 3),
        "mb": round(peak.allocated / MIB, 1),
        "repeats": repeats,
        "device": name,
        "torch": torch.__version__,
    }


# -- the report --------------------------------------------------------------------------------------------------------


def _read_report(path: Path, settings: Settings) -> dict[str, Any]:
    """The report so far, or an empty one. Raises InputError for a file of other settings."""
    new = {"settings": asdict(settings), "missing": [], "rows": []}
    if not path.exists():
        return new
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        before, _ = found["settings"], found["rows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a report of this script; move it, or choose another -o") from error
    differing = [key for key, value in new["settings"].items() if key != "data" and before.get(key) != value]
    differing += [key for key in settings.data if before["data"].get(key, settings.data[key]) != settings.data[key]]
    if differing:
        raise InputError(f"{path}: made with another {', '.join(differing)}; choose another -o, or move it")
    found["settings"]["data"] = before["data"] | settings.data
    return found


def _write(path: Path, report: Mapping[str, Any]) -> None:
    """The report and its tables; the old file stays whole until the new one is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for target, text in (
        (path, json.dumps(report, indent=1, ensure_ascii=False) + "\n"),
        (path.with_suffix(".md"), markdown(report)),
    ):
        part = target.with_name(target.name + ".part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, target)


if __name__ == "__main__":
    sys.exit(main())
