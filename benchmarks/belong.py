"""Tests the detection of unrelated photos: no false alarm on single and thinned scenes, foreign images and noise left
out, mixes of two scenes split, and the cost of the comparison. A scene is a folder with images/.

A table of what went wrong, then one JSON line.

    python benchmarks/belong.py SCENE... [--one-place A B] [--model mini] [--seed 0] [--only single thinned …]
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from lite3r_cli.config import PredictConfig
from lite3r_cli.io.images import ImageSet, discover
from lite3r_cli.pipelines.grouping import Grouping, group_pictures
from lite3r_cli.pipelines.predict import Predictor

KINDS = ("single", "thinned", "stranger", "noise", "mixed")


@dataclass(frozen=True)
class Case:
    """Pictures with the number of the scene that each one shows; −1 shows none of them."""

    kind: str
    name: str
    files: list[Path]
    scene: list[int]

    def verdict(self, found: Grouping) -> str:
        """ "right", "lost" (pictures of a scene are left out or split off), "kept" (what does not belong was kept)."""
        where = {k: p for p, part in enumerate(found.parts) for k in part}
        lost = kept = False
        for number in sorted({s for s in self.scene if s >= 0}):
            places = {where.get(k) for k, s in enumerate(self.scene) if s == number}
            lost |= len(places) > 1 or None in places
        for part in found.parts:
            kept |= len({self.scene[k] for k in part}) > 1
        return "lost" if lost else "kept" if kept else "right"


def cases(scenes: list[Path], one_place: list[str], seed: int, scratch: Path) -> Iterator[Case]:
    rng = np.random.default_rng(seed)
    files = [sorted(p for p in (scene / "images").iterdir() if p.is_file()) for scene in scenes]
    for scene, own in zip(scenes, files, strict=True):
        yield Case("single", scene.name, own, [0] * len(own))
        for step in (2, 3):
            if len(own) >= 4 * step:
                thin = own[::step]
                yield Case("thinned", f"{scene.name} every {step}", thin, [0] * len(thin))
    for k, (scene, own) in enumerate(zip(scenes, files, strict=True)):
        others = [i for i, s in enumerate(scenes) if i != k and not {s.name, scene.name} <= set(one_place)]
        other = int(rng.choice(others))
        one = files[other][int(rng.integers(len(files[other])))]
        own = own[:10]
        mixed = [*own[:3], one, *own[3:]]
        yield Case("stranger", f"{scene.name} + {scenes[other].name}", mixed, [-1 if p == one else 0 for p in mixed])
        noise = scratch / f"noise-{k}.png"
        cv2.imwrite(str(noise), rng.integers(0, 256, (480, 640, 3), dtype=np.uint8))
        yield Case("noise", f"{scene.name} + noise", [*own, noise], [0] * len(own) + [-1])
        second = files[other][:10]
        order = rng.permutation(len(own) + len(second))
        both = [*own, *second]
        yield Case(
            "mixed", f"{scene.name} + {scenes[other].name}", [both[i] for i in order],
            [int(i >= len(own)) for i in order],
        )  # fmt: skip


def open_case(case: Case, folder: Path) -> ImageSet:
    folder.mkdir()
    for k, file in enumerate(case.files):
        (folder / f"{k:03d}{file.suffix}").symlink_to(file.resolve())
    return discover([folder])


def run(predictor: Predictor, case: Case, folder: Path) -> dict[str, object]:
    images = open_case(case, folder)
    pictures = predictor.read(images)
    asked = 0.0

    def predict():
        nonlocal asked
        start = time.perf_counter()
        views = predictor.predict_pictures(images, pictures).views
        asked += time.perf_counter() - start
        return views

    start = time.perf_counter()
    found = group_pictures([item.rgb for item in pictures.inputs], lambda k: images.read(pictures.indices[k]), predict)
    seconds = time.perf_counter() - start - asked
    sizes = [len(part) for part in found.parts]
    return {
        "kind": case.kind, "name": case.name, "images": len(case.files), "verdict": case.verdict(found),
        "parts": sizes, "left_out": len(found.left_out), "untied": len(found.untied), "judged": found.judged,
        "seconds": round(seconds, 2), "network_asked": asked > 0,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", type=Path, nargs="+")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one-place", nargs="*", default=[], help="names of scenes that show one place")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument(
        "--share", type=int, nargs=2, default=(0, 1), help="K N: every N-th case from K on, to divide it"
    )
    options = parser.parse_args()
    scenes = [scene for scene in options.scenes if (scene / "images").is_dir()]
    predictor = Predictor(PredictConfig(model=options.model, resolution=options.resolution, device="cpu"))
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, case in enumerate(cases(scenes, options.one_place, options.seed, Path(scratch))):
            if case.kind not in options.only or number % options.share[1] != options.share[0]:
                continue
            results.append(run(predictor, case, Path(scratch) / f"case-{number}"))
            row = results[-1]
            if row["verdict"] != "right" or case.kind == "single":
                parts = "+".join(map(str, row["parts"]))
                print(f"{row['verdict']:6} {case.kind:9} {case.name:40} {parts} | {row['left_out']}", flush=True)
    counts = {
        kind: {v: sum(r["kind"] == kind and r["verdict"] == v for r in results) for v in ("right", "lost", "kept")}
        for kind in options.only
    }
    for kind, found in counts.items():
        print(kind, found)
    machine = {"cpu": platform.processor() or platform.machine(), "opencv": cv2.__version__}
    print(
        json.dumps(
            {"benchmark": "belong", "machine": machine, "seed": options.seed, "counts": counts, "cases": results}
        )
    )


if __name__ == "__main__":
    main()
