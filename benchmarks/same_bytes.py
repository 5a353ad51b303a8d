"""`lite3r reconstruct --refine` gives the same bytes whatever the machine does, and what it costs beside pycolmap.

Each set is reconstructed by whole commands, in turn with pycolmap alone, one of them beside programs that keep all
cores busy. Written down: the hashes of cameras.json, AUC@5, and the seconds of the stages; the ratio of times is that
of the runs in turn without busy programs, so that both sides meet the same machine. A set is a folder with images/ and
cameras.json. A table, then one JSON line.

    python benchmarks/same_bytes.py SET... [--runs 3] [--busy 2] [--busy-turn 2] [--pycolmap-turns 3]
                                      [--cameras] [--json FILE]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from reconstruct_cpu import processor
from refine import auc5, colmap_alone

from lite3r_cli.config import PredictConfig
from lite3r_cli.io.cameras_json import read_cameras_json, write_cameras_json
from lite3r_cli.pipelines.evaluate_scenes import open_scene
from lite3r_cli.pipelines.predict import Predictor
from lite3r_cli.refine.pipeline import refine
from lite3r_cli.refine.refine_config import RefineConfig
from lite3r_cli.scene.posed_view import View

STAGES = ("Predict", "Refine cameras", "Refine depth")
BURN = "x = 1.0\nwhile True: x = x * 1.0000001 % 7.0"


def reconstruct(folder: Path, truth: list[View], target: Path, whole: bool) -> dict[str, object]:
    """One whole command, or a process that ends with the cameras."""
    if whole:
        command = [sys.executable, "-m", "lite3r_cli", "reconstruct", str(folder / "images"), "-o", str(target)]
        command += ["--refine", "--device", "cpu", "--keep-unrelated", "--quiet"]
    else:
        command = [sys.executable, __file__, str(folder), "--cameras-of", str(target)]
    before = processor_seconds(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True)
    run = json.loads((target / "run.json").read_text(encoding="utf-8"))
    found = {view.name: view.cam_from_world for view in read_cameras_json(target / "cameras.json", load_depth=False)}
    poses = {i: found[view.name] for i, view in enumerate(truth) if view.name in found}
    return {
        "sha256": hashlib.sha256((target / "cameras.json").read_bytes()).hexdigest(),
        "auc5": auc5(poses, truth),
        "refined": sum(item.get("refinement", {}).get("cameras") == "refined" for item in run["images"]),
        "seconds": {name: round(s, 3) for name, s in run["seconds"].items() if name in STAGES},
        "processor_seconds": run.get(
            "processor_seconds", round(processor_seconds(resource.RUSAGE_CHILDREN) - before, 1)
        ),
    }


def processor_seconds(who: int) -> float:
    """User and system time of this process or of its ended children: what a busy machine hardly changes."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def cameras_of(folder: Path, target: Path) -> None:
    """Network and cameras without depth maps, in this process: cameras.json and the seconds in `target`. The start of
    Python is not counted: pycolmap alone, which is measured in a running process, has none either."""
    scene, predictor = open_scene(folder), Predictor(PredictConfig(device="cpu", refine=True))
    start, before = time.perf_counter(), processor_seconds(resource.RUSAGE_SELF)
    pictures = predictor.read(scene.images, indices=scene.indices)
    found = predictor.predict_pictures(scene.images, pictures)
    predicted = time.perf_counter()
    config = RefineConfig(depth=False)
    answer = refine(found.views, lambda i: scene.images.read(scene.indices[i]), config=config, early=found.early)
    seconds = {"Predict": predicted - start, "Refine cameras": time.perf_counter() - predicted}
    used = processor_seconds(resource.RUSAGE_SELF) - before
    target.mkdir()
    write_cameras_json(target / "cameras.json", [replace(view, depth=None, confidence=None) for view in answer.views])
    images = [{"refinement": verdict} for verdict in answer.verdicts]
    told = {"images": images, "seconds": seconds, "processor_seconds": round(used, 1)}
    (target / "run.json").write_text(json.dumps(told), encoding="utf-8")


def judge(folder: Path, options: argparse.Namespace, show: Callable[[dict[str, object]], None]) -> None:
    """All turns of one set; `show` gets what is known after each."""
    scene, truth = open_scene(folder), read_cameras_json(folder, load_depth=False)
    mine: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for turn in range(1, options.runs + 1):
        beside = options.busy if turn == options.busy_turn else 0
        burning = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(beside)]
        try:
            with tempfile.TemporaryDirectory() as scratch:
                found = reconstruct(folder, truth, Path(scratch) / "out", not options.cameras)
                mine.append({"busy_programs": beside, "cameras_only": options.cameras, **found})
        finally:
            for program in burning:
                program.kill()
        print(f"{folder.name:14} run {turn}  {mine[-1]['sha256'][:12]}  AUC@5 {mine[-1]['auc5']:.3f}", flush=True)
        show(told(mine, theirs))
        if turn <= options.pycolmap_turns and not beside:
            before = processor_seconds(resource.RUSAGE_SELF)
            alone = colmap_alone(scene, truth)
            theirs.append({**alone, "processor_seconds": round(processor_seconds(resource.RUSAGE_SELF) - before, 1)})
            show(told(mine, theirs))


def told(mine: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, object]:
    """The entry of a set. pycolmap's turns belong to the first quiet ones of ours."""
    row: dict[str, object] = {"same_bytes": len({one["sha256"] for one in mine}) == 1, "refine": mine}
    if not theirs:
        return row
    quiet = [one["seconds"] for one in mine if not one["busy_programs"]]
    ratios = [
        (ours["Predict"] + ours["Refine cameras"]) / max(other["seconds"], 0.1) for ours, other in zip(quiet, theirs)
    ]
    row |= {"times_pycolmap": round(median(ratios), 2), "pycolmap": theirs}
    if all(one["cameras_only"] for one in mine):
        ours, other = (median(one["processor_seconds"] for one in side) for side in (mine, theirs))
        row["processor_times_pycolmap"] = round(ours / max(other, 0.1), 2)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", type=Path, nargs="+")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--busy", type=int, default=2, help="busy programs beside one of the runs")
    parser.add_argument("--busy-turn", type=int, default=2, help="the run beside which they work; 0: none")
    parser.add_argument("--pycolmap-turns", type=int, default=3, help="how many runs pycolmap takes turns with")
    parser.add_argument("--cameras", action="store_true", help="network and cameras only, not the whole command")
    parser.add_argument("--cameras-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.cameras_of is not None:
        return cameras_of(options.sets[0], options.cameras_of)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = {"cores": cores, "python": platform.python_version(), "processor": processor()}
    results: dict[str, object] = {}
    document = ""

    def show(folder: Path, row: dict[str, object]) -> None:
        nonlocal document
        results[folder.name] = row
        load = {"load_1min": round(os.getloadavg()[0], 1)}
        document = json.dumps({"benchmark": "same_bytes", **machine, **load, "sets": results})
        if options.json is not None:
            options.json.write_text(document + "\n", encoding="utf-8")

    for folder in options.sets:
        judge(folder, options, lambda row, folder=folder: show(folder, row))
        row = results[folder.name]
        print(f"{folder.name:14} {'equal bytes' if row['same_bytes'] else 'DIFFERENT BYTES'}", flush=True)
    print(document)


if __name__ == "__main__":
    main()
