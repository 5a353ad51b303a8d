"""Reconstructs a long strip with GPS: camera errors with positions used in the adjustment, and with positions used only
to place the finished scene.

A flight in a line, 60 m above ground with relief of 15 m, one picture every 20 m. Pictures are not drawn: keypoints are
points of the ground, seen through a lens with k1 and half a pixel of noise, matched with the four next pictures; the
start is bent. GPS has 2 m of noise (5 m upwards), one fix in ten is 200 m off. What `--refine --world enu` does after
the network and the features is run on them. A table, then one JSON line.

    python benchmarks/gps_strip.py [--pictures 60] [--k1 0 -0.005 -0.02] [--seeds 0] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from lite3r_cli.refine.backend import quiet_pycolmap, require_pycolmap
from lite3r_cli.refine.bundle import Hypothesis
from lite3r_cli.refine.evidence import pair_support
from lite3r_cli.refine.lens import start_lenses
from lite3r_cli.refine.matching import Matches, predicted_cameras, verified
from lite3r_cli.refine.positions import tie_to_positions
from lite3r_cli.refine.refine_config import RefineConfig
from lite3r_cli.refine.search import Found, Search
from lite3r_cli.refine.verdicts import image_support, verified_images
from lite3r_cli.scene import geometry
from lite3r_cli.scene.posed_view import View
from lite3r_cli.scene.priors import PositionPrior
from lite3r_cli.world.georeference import NotEnough, fit_similarity

SIZE, FOCAL, WRONG_FOCAL = (640, 480), 560.0, 1.05
STEP, ABOVE, RELIEF = 20.0, 60.0, 15.0  # metres
POINTS = 60  # new ones a picture
NOISE, WILD = np.array([2.0, 2.0, 5.0]), 200.0  # metres
SIGMA = np.array([3.0, 3.0, 6.0])  # metres: what is believed of a receiver that says nothing
CURL = math.radians(0.3)  # from each picture to the next, of the prediction
SMALL = 1 / 60  # units of the prediction a metre
UP = np.array([0.0, 0.0, 1.0])


def strip(count: int, k1: float, seed: int, folder: Path) -> tuple[np.ndarray, list[View], Matches]:
    """True centres (S, 3), the prediction, and raw matches."""
    rng = np.random.default_rng(seed)
    K = np.array([[FOCAL, 0, SIZE[0] / 2], [0, FOCAL, SIZE[1] / 2], [0, 0, 1]])
    n = POINTS * count
    world = np.stack([rng.uniform(-40, STEP * count + 40, n), rng.uniform(-35, 35, n), rng.uniform(0, RELIEF, n)], 1)
    centres, start, keypoints, seen = [], [], [], []
    down = np.array([[0, -1.0, 0], [-1, 0, 0], [0, 0, -1]])
    rough = K * [[WRONG_FOCAL, 1, 1], [1, WRONG_FOCAL, 1], [1, 1, 1]]
    depth = np.full((48, 64), (ABOVE - RELIEF / 2) * SMALL, np.float32)
    for i in range(count):
        turn = cv2.Rodrigues(np.radians(2) * rng.normal(size=3))[0] @ down
        centre = np.array([STEP * i, rng.normal(), ABOVE + rng.normal()])
        pixel, z = geometry.project(world, K, np.column_stack([turn, -turn @ centre]))
        flat = (pixel - K[:2, 2]) / FOCAL
        pixel = pixel + FOCAL * k1 * (flat**2).sum(axis=1, keepdims=True) * flat + 0.5 * rng.normal(size=pixel.shape)
        seen.append((z > 1) & (pixel >= 0).all(axis=1) & (pixel < SIZE).all(axis=1))
        keypoints.append(np.where(seen[-1][:, None], pixel, 0.0))
        centres.append(centre)
        curl = CURL / STEP  # a circle that starts along the strip
        x = centre[0]
        bent = SMALL * np.array([math.sin(curl * x) / curl, centre[1], centre[2] - (1 - math.cos(curl * x)) / curl])
        turn = turn @ cv2.Rodrigues(np.array([0, -curl * x, 0.0]))[0]
        turn = turn @ cv2.Rodrigues(np.radians(0.5) * rng.normal(size=3))[0]
        start.append(View(f"{i:03d}.jpg", *SIZE, rough, np.column_stack([turn, -turn @ bent]), depth))
    raw = {}
    for i in range(count):
        for j in range(i + 1, min(count, i + 5)):
            both = np.flatnonzero(seen[i] & seen[j])
            if len(both) > 10:
                raw[i, j] = np.stack([both, both], axis=1)
    return np.stack(centres), start, Matches([SIZE] * count, keypoints, {}, folder, raw)


def believed(start: list[View], found: Found, hypothesis: Hypothesis, config: RefineConfig) -> list[int]:
    """The pictures whose cameras `--refine` takes: the others keep the predicted ones."""
    support = pair_support(hypothesis.poses, found.matches, hypothesis.lenses, config.max_error)
    here = replace(found, hypothesis=hypothesis, support=support)
    counts = {pair: len(two) for pair, two in found.matches.pairs.items()}
    seen = np.array([hypothesis.model.image(i + 1).num_points3D for i in range(len(start))])
    return verified_images(start, here, seen, image_support(here, counts, len(start)), config)[0]


def errors(
    found: Hypothesis, order: list[int], centres: np.ndarray, fixes: np.ndarray, wild: np.ndarray
) -> dict[str, object]:
    """Distance in metres of the cameras `order` from the truth, after they were aligned to the positions as `--world
    enu` does.
    """
    mine = geometry.camera_centres(np.stack([found.poses[i] for i in order]))
    turn = np.stack([found.poses[i][2, :3] for i in order]).mean(axis=0)  # all look down
    try:
        fit = fit_similarity(mine, fixes[order], np.tile(SIGMA, (len(order), 1)), -turn / np.linalg.norm(turn))
    except NotEnough as error:
        return {"placed": False, "why": str(error)}
    off = np.linalg.norm(fit.similarity.apply(mine) - centres[order], axis=1)
    named = {order[k] for k in np.flatnonzero(~fit.used)}
    return {
        "placed": True, "cameras": len(order),
        "metres": round(float(off.mean()), 2), "worst": round(float(off.max()), 2),
        "wild_named": set(wild.tolist()) & set(order) <= named, "others_named": len(named - set(wild.tolist())),
    }  # fmt: skip


def judge(count: int, k1: float, seed: int) -> dict[str, object]:
    rng = np.random.default_rng(seed + 100)
    with tempfile.TemporaryDirectory() as folder:
        centres, start, matches = strip(count, k1, seed, Path(folder))
        fixes = centres + rng.normal(size=centres.shape) * NOISE
        wild = np.sort(rng.permutation(count)[: count // 10])
        angle = rng.uniform(0, 2 * math.pi, len(wild))
        fixes[wild, :2] += WILD * np.stack([np.cos(angle), np.sin(angle)], -1)
        config = RefineConfig(camera_model="pinhole", intrinsics="shared")
        matches = verified(matches, predicted_cameras(start, matches.sizes), config)
        began = time.process_time()
        found = Search(start, matches, config, start_lenses(start, matches.sizes, config)).run()
        assert found is not None, "no cameras"
        searched = time.process_time()
        free = found.hypothesis
        held, tied = tie_to_positions(found.hypothesis, found.matches, [PositionPrior(p, SIGMA) for p in fixes], config)
        done = time.process_time()
        before, after = (
            errors(each, believed(start, found, each, config), centres, fixes, wild) for each in (free, held)
        )
        said = {"taken": tied.taken, "why": tied.why, "left_out": sorted(tied.left_out) == wild.tolist()}
        seconds = [round(searched - began, 1), round(done - searched, 1)]
    return {"k1": k1, "seed": seed, "afterwards": before, "beside_matches": after | said, "cpu_seconds": seconds}


@quiet_pycolmap()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--k1", type=float, nargs="+", default=[0.0, -0.005, -0.02])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict] = []
    for k1 in options.k1:
        for seed in options.seeds:
            rows.append(judge(options.pictures, k1, seed))
            print(rows[-1], flush=True)
            machine = {"cpu": platform.machine(), "pycolmap": require_pycolmap().__version__}
            document = {"benchmark": "gps_strip", **machine, "pictures": options.pictures, "strips": rows}
            if options.json is not None:
                options.json.write_text(json.dumps(document) + "\n", encoding="utf-8")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
