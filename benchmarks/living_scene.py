"""A scene that lives: half of a photo set and of a rendered walk becomes a scene; the rest is added in three steps; own
and foreign pictures are located; two halves are merged; the flight is rendered. Prints the table of goals.

    python benchmarks/living_scene.py PHOTOS [--frames 16] [--resolution 518] [--only photos|walk] [--json FILE]

PHOTOS is a folder with images/ and cameras.json (the truth), e.g. fountain-P11. AUC is over pairs of pictures; of what
is added and located over the pairs with a new picture, beside one reconstruction of all.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from locate import errors, pictures, poses

from lite3r_cli.cli import main as lite3r
from lite3r_cli.config.adding import AddConfig, MergeConfig
from lite3r_cli.config.locating import LocateConfig
from lite3r_cli.config.rendering import RenderConfig
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.pipelines import scene_memory
from lite3r_cli.pipelines.add_photos import add
from lite3r_cli.pipelines.locate_photos import locate
from lite3r_cli.pipelines.merge_scenes import merge
from lite3r_cli.pipelines.render_scene import render_scene
from lite3r_cli.runtime import processor
from lite3r_cli.scene import metrics

STEPS = 3
SAMPLES = Path(__file__).parents[1] / "sample_scenes"
FOREIGN = [SAMPLES / "facade/images/03.jpg", SAMPLES / "desk/images/02.jpg"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Set:
    """Pictures with exact cameras, in order."""

    name: str
    files: list[Path]
    truth: dict[str, np.ndarray]  # cam_from_world by file name


def photo_set(folder: Path) -> Set:
    files = pictures(folder)
    truth = {Path(view.name).name: view.cam_from_world for view in read_cameras_json(folder, load_depth=False)}
    return Set(folder.name, files, {file.name: truth[file.name] for file in files})


def walk_set(folder: Path, frames: int, width: int) -> Set:
    """A rendered street, a picture each half metre."""
    from walk_scenes import build_atlas, make_walk, write_walk

    atlas, height = build_atlas(None), width * 3 // 4
    write_walk(folder, make_walk(2 * frames, False, 0, height, width, atlas), atlas, height, width)
    files = sorted((folder / "images").iterdir())[::2]
    known = json.loads((folder / "walk.json").read_text())["cam_from_world"]
    return Set("walk", files, {file.name: np.array(known[file.name]) for file in files})


def reconstructed(files: list[Path], out: Path, resolution: int) -> Path:
    words = ["reconstruct", *files, "-o", out, "-r", resolution, "--keep-memory", "--no-previews", "--overwrite", "-q"]
    if lite3r([str(word) for word in words]) != 0:
        raise SystemExit(f"{out}: was not reconstructed")
    return out


def auc(scene: Path, of: Set, new: set[str], most: float) -> float:
    """AUC over the pairs of images that contain one of `new`."""
    found = poses(read_cameras_json(scene.with_suffix("") / "cameras.json", load_depth=False))
    return metrics.auc(errors(found, of.truth, new), most)


def row(rows: list[Row], of: str, what: str, goal: str, value: Any, holds: bool | None) -> None:
    rows.append({"set": of, "what": what, "goal": goal, "value": value, "holds": holds})
    said = {True: "yes", False: "no", None: "–"}[holds]
    shown = f"{value:.3f}" if isinstance(value, float) else value
    print(f"| {of} | {what} | {goal} | {shown} | {said} |", flush=True)


def grow(of: Set, joint: Path, scratch: Path, resolution: int, rows: list[Row]) -> None:
    """Half of the set, then the rest in steps."""
    scene = reconstructed(of.files[::2], scratch / "grown.ply", resolution)
    before = json.loads((scratch / "grown/cameras.json").read_text())["images"]
    rest, seconds, refused = of.files[1::2], [], 0
    for k in range(STEPS):
        start = time.perf_counter()
        done = add(AddConfig(scene, tuple(rest[k::STEPS])))
        seconds.append((time.perf_counter() - start) / max(len(done.added), 1))
        refused += len(done.refused)
    after = json.loads((scratch / "grown/cameras.json").read_text())["images"]
    new = {file.name for file in rest}
    row(rows, of.name, "added of the other half", "all", f"{len(rest) - refused} of {len(rest)}", refused == 0)
    kept = all(after[name] == entry for name, entry in before.items())
    row(rows, of.name, "old cameras to the bit", "yes", "yes" if kept else "no", kept)
    for most in (5, 30):
        mine, one = (auc(path, of, new, most) for path in (scene, joint))
        row(rows, of.name, f"AUC@{most} of added images, joint {one:.3f}", "–", mine, None)
    row(rows, of.name, "seconds a photo added, all outputs written", "–", statistics.median(seconds), None)


def find(of: Set, joint: Path, foreign: list[Path], scratch: Path, resolution: int, rows: list[Row]) -> None:
    """Every third picture left out and located; foreign ones refused."""
    held = of.files[1::3]
    scene = reconstructed([file for file in of.files if file not in held], scratch / "held.ply", resolution)
    found = locate(LocateConfig(scene, tuple(held)))
    known = poses(read_cameras_json(scratch / "held/cameras.json", load_depth=False))
    known |= {Path(each.name).name: each.view.cam_from_world for each in found.located}
    new = {file.name for file in held}
    mine, one = metrics.auc(errors(known, of.truth, new), 5), auc(joint, of, new, 5)
    row(rows, of.name, f"AUC@5 of located images, joint {one:.3f}", "≥ joint − 0.03", mine, mine >= one - 0.03)
    seconds = statistics.median(each.seconds for each in found.located) if found.located else float("nan")
    row(rows, of.name, "seconds a photo located", "≤ 2, on two quiet cores", seconds, None if busy() else seconds <= 2)
    strangers = locate(LocateConfig(scene, tuple(foreign)))
    accepted = len(strangers.located)
    row(rows, of.name, "foreign photos accepted", "0", f"{accepted} of {len(foreign)}", accepted == 0)


def halves(of: Set, joint: Path, scratch: Path, resolution: int, rows: list[Row]) -> None:
    """Two halves of the set, each its own scene, merged. Their ends overlap."""
    middle, over = len(of.files) // 2, max(1, len(of.files) // 8)
    first = reconstructed(of.files[: middle + over], scratch / "first.ply", resolution)
    second = reconstructed(of.files[middle - over :], scratch / "second.ply", resolution)
    everything = set(of.truth)
    for name, pair in (("that share images", (first, second)), ("interleaved", None)):
        if pair is None:
            pair = tuple(reconstructed(of.files[k::2], scratch / f"every{k}.ply", resolution) for k in (0, 1))
        merge(MergeConfig(*pair, output=str(scratch / "merged.ply"), overwrite=True))
        mine, one = (auc(path, of, everything, 30) for path in (scratch / "merged.ply", joint))
        row(rows, of.name, f"AUC@30 of halves {name}, joint {one:.3f}", "≥ joint − 0.02", mine, mine >= one - 0.02)


def flight(of: Set, joint: Path, scratch: Path, rows: list[Row]) -> None:
    start = time.perf_counter()
    film = render_scene(RenderConfig(joint, output=scratch / f"{of.name}.mp4", seconds=2.0, fps=10.0, size=(480, 270)))
    row(
        rows,
        of.name,
        "flight of 20 frames, 480×270",
        "written",
        f"{time.perf_counter() - start:.1f} s",
        film.count == 20,
    )


def memory(of: Set, scratch: Path, resolution: int, rows: list[Row]) -> None:
    """The share of a run's processor time that memory/ takes, without features and with them: threads write it beside
    the depth files, so that a run is hardly longer with it.
    """
    spent: list[float] = []

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            start = time.thread_time()
            try:
                return call(*given)
            finally:
                spent.append(time.thread_time() - start)

        return run

    memories = scene_memory.Memories
    with mock.patch.object(memories, "write", timed(memories.write)):
        for what, more in (("without features", []), ("with --keep-memory", ["--keep-memory"])):
            spent.clear()
            start = time.process_time()
            words = ["reconstruct", *of.files, "-o", scratch / "m.ply", "-r", resolution, "--overwrite", "-q", *more]
            lite3r([str(word) for word in words])
            share = sum(spent) / (time.process_time() - start)
            goal, holds = ("< 2 % of a run", share < 0.02) if not more else ("–", None)
            row(rows, of.name, f"memory {what}: {100 * share:.1f} % of a run", goal, share, holds)


def busy() -> bool:
    """Whether other programs use the processor, which makes times meaningless."""
    return os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--frames", type=int, default=16, help="of the walk")
    parser.add_argument("--resolution", type=int, default=518)
    parser.add_argument("--only", choices=("photos", "walk"))
    parser.add_argument("--json", type=Path)
    o = parser.parse_args()
    rows: list[Row] = []
    print("| set | what | goal | value | holds |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for kind in ("photos", "walk") if o.only is None else (o.only,):
            of = photo_set(o.photos) if kind == "photos" else walk_set(scratch / "walk", o.frames, o.resolution)
            joint = reconstructed(of.files, scratch / "joint.ply", o.resolution)
            memory(of, scratch, o.resolution, rows)
            grow(of, joint, scratch, o.resolution, rows)
            find(of, joint, FOREIGN, scratch, o.resolution, rows)
            halves(of, joint, scratch, o.resolution, rows)
            flight(of, joint, scratch, rows)
            if o.json is not None:
                facts = {"processor": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__,
                         "load": os.getloadavg()[0], "resolution": o.resolution}  # fmt: skip
                o.json.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
