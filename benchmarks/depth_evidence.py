"""Does the agreement of depth maps between views tell right cameras from wrong ones where held-out matches do not?

Every camera hypothesis of `--refine` on sets with true cameras, whole and thinned, with few features, so that wrong
ones occur: AUC@5, the share of held-out observations that it explains, and the agreement of the predicted depth maps
(each scaled to the points of the hypothesis) under its cameras. Then the choices of both kinds of evidence, and for
single images of the chosen hypothesis how well their own agreement and their share of explained matches separate
cameras more than 5° off from the others (area under the ROC curve). A set is a folder with images/ and cameras.json.
A table, then one JSON line.

    python benchmarks/depth_evidence.py SET... [--thin 1 2 3] [--features 2000] [--size 1024] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from refine import auc5

from lite3r_cli.config import PredictConfig
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.pipelines.evaluate_scenes import open_scene
from lite3r_cli.pipelines.predict import Predictor
from lite3r_cli.refine import matching
from lite3r_cli.refine.backend import quiet_pycolmap
from lite3r_cli.refine.bundle import Hypothesis
from lite3r_cli.refine.evidence import pair_support
from lite3r_cli.refine.observations import sample_depth
from lite3r_cli.refine.refine_config import RefineConfig
from lite3r_cli.refine.search import Search
from lite3r_cli.refine.verdicts import image_support
from lite3r_cli.scene import geometry, metrics
from lite3r_cli.scene.consistency import agreement, best_neighbours
from lite3r_cli.scene.posed_view import View
from lite3r_cli.scene.surfaces import VoterMap

_NEIGHBOURS, _SAMPLES = 6, 2000
_WRONG = 5.0  # degrees
_EQUAL = 0.02  # share of the observations by which hypotheses that explain alike differ


def scaled(views: Sequence[View], found: Hypothesis, matches: matching.Matches) -> list[View | None]:
    """The views with the cameras of a hypothesis, and their predicted depth in the scale of its points."""
    z: dict[int, list[tuple[int, float]]] = {i: [] for i in found.poses}
    for number in found.model.point3D_ids():
        point = found.model.point3D(number)
        for element in point.track.elements:
            i = element.image_id - 1
            z[i].append((element.point2D_idx, float(geometry.transform(found.poses[i], point.xyz[None])[0, 2])))
    result: list[View | None] = []
    for i, view in enumerate(views):
        near = [(k, depth) for k, depth in z.get(i, []) if depth > 0]
        if len(near) < 5:
            result.append(None)
            continue
        at = sample_depth(view, matches.keypoints[i][[k for k, _ in near]], matches.sizes[i])
        ratio = np.array([depth for _, depth in near])[at > 0] / at[at > 0]
        factor = np.float32(np.median(ratio)) if len(ratio) else np.float32(1)
        lens = found.lenses.lenses[found.lenses.of_view[i]].of_picture(view.width, view.height)
        K = np.array([[lens.focal[0], 0, lens.centre[0]], [0, lens.focal[1], lens.centre[1]], [0, 0, 1.0]])
        result.append(replace(view, K=K, cam_from_world=found.poses[i], depth=view.depth * factor, confidence=None))
    return result


def agreements(views: Sequence[View | None]) -> np.ndarray:
    """The agreement (S,) of each view's depth with its neighbours; NaN without a camera or a neighbour."""
    numbers = [i for i, view in enumerate(views) if view is not None]
    known = [view for view in views if view is not None]
    beside = best_neighbours([VoterMap(view, view.depth > 0) for view in known], _NEIGHBOURS)
    result = np.full(len(views), np.nan)
    for k, others in enumerate(beside):
        if others:
            few = [known[k], *[known[j] for j in others]]
            only = [list(range(1, len(few)))] + [[] for _ in others]
            result[numbers[k]] = agreement(few, only, 1.0, _SAMPLES)
    return result


def off_by(poses: Mapping[int, np.ndarray], truth: Sequence[View]) -> dict[int, float]:
    """For each view the median over the others of the larger error (degrees) of its pairs."""
    known = sorted(poses)
    true = np.stack([truth[i].cam_from_world for i in known])
    larger = metrics.pair_errors(np.stack([poses[i] for i in known]), true, 1e-6).larger
    table = np.full((len(known), len(known)), np.nan)
    table[np.triu_indices(len(known), 1)] = larger
    table = np.fmax(table, table.T)
    return {i: float(np.nanmedian(row)) for i, row in zip(known, table, strict=True)}


def hypotheses(views: list[View], truth: list[View], read: Any, config: RefineConfig) -> dict[str, Any] | None:
    """What is known of each hypothesis, and of the images of the best explained one."""
    with tempfile.TemporaryDirectory() as folder, quiet_pycolmap():
        matches = matching.match(views, read, None, Path(folder), config)
        if not matches.pairs:
            return None
        search, rows, best = Search(views, matches, config), [], None
        for found in search._hypotheses():
            if found is None or len(found.poses) < 2:
                continue
            own, judged = agreements(scaled(views, found, matches)), search.evidence(found)
            rows.append({
                "path": found.path, "images": len(found.poses), "auc5": round(auc5(found.poses, truth), 3),
                "explained": round(judged.explained, 4),
                "agreement": round(float(np.nansum(own)) / len(views), 4),
            })  # fmt: skip
            if best is None or judged.explained > best[0] + 0.01:
                best = judged.explained, found, own
        if best is None:
            return None
        found, own = best[1], best[2]
        matches_of = {pair: len(two) for pair, two in matches.pairs.items()}
        support = pair_support(found.poses, matches, found.lenses, config.max_error)
        share = image_support(_Found(found, support), matches_of, len(views))
        off = off_by(found.poses, truth)
        images = [[round(off[i], 2), _number(own[i]), _number(share[i])] for i in sorted(off)]
        return {"hypotheses": rows, "images": images}


class _Found:
    """The two parts of a search result that `image_support` reads."""

    def __init__(self, hypothesis: Hypothesis, support: dict[tuple[int, int], float]) -> None:
        self.hypothesis, self.support = hypothesis, support


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def area_under(wrong: np.ndarray, score: np.ndarray) -> float | None:
    """Probability that a wrong one has the lower score; None without both kinds."""
    low, high = score[wrong], score[~wrong]
    if not len(low) or not len(high):
        return None
    below = (low[:, None] < high).mean() + 0.5 * (low[:, None] == high).mean()
    return round(float(below), 3)


def summary(cases: dict[str, Any]) -> dict[str, Any]:
    """Mean AUC@5 of the choices, and how well single images are told apart."""
    told = [case["hypotheses"] for case in cases.values() if len(case["hypotheses"]) > 1]
    chosen = {
        name: [max(rows, key=lambda row: row[name])["auc5"] for rows in told]
        for name in ("explained", "agreement", "auc5")
    }
    near = [[row for row in rows if row["explained"] >= max(r["explained"] for r in rows) - _EQUAL] for rows in told]
    chosen["agreement where explained alike"] = [max(rows, key=lambda row: row["agreement"])["auc5"] for rows in near]
    images = np.array([row for case in cases.values() for row in case["images"]], dtype=np.float64).reshape(-1, 3)
    wrong = images[:, 0] > _WRONG
    scores = [np.nan_to_num(images[:, k], nan=0.0) for k in (1, 2)]
    return {
        "cases": len(told),
        "mean_auc5_chosen_by": {name: round(float(np.mean(each)), 4) for name, each in chosen.items() if each},
        "images": len(images), "wrong_images": int(wrong.sum()),
        "area_under_roc": {"agreement": area_under(wrong, scores[0]), "support": area_under(wrong, scores[1])},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", type=Path, nargs="+")
    parser.add_argument("--thin", type=int, nargs="+", default=[1, 2, 3], help="every N-th image")
    parser.add_argument("--features", type=int, default=2000)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    config = RefineConfig(depth=False, max_features=options.features, feature_size=options.size)
    predictor = Predictor(PredictConfig(device="cpu", refine=True))
    cases: dict[str, Any] = {}
    for folder in options.sets:
        scene, truth = open_scene(folder), read_cameras_json(folder, load_depth=False)
        for step in options.thin:
            chosen = list(range(0, len(truth), step))
            if len(chosen) < 4:
                continue
            indices = [scene.indices[i] for i in chosen]
            views = predictor.predict_pictures(scene.images, predictor.read(scene.images, indices=indices)).views
            found = hypotheses(views, [truth[i] for i in chosen], lambda i: scene.images.read(indices[i]), config)
            if found is None:
                continue
            cases[f"{folder.name} / {step}"] = found
            print(f"{folder.name} / {step}", found["hypotheses"], flush=True)
            document = json.dumps({
                "benchmark": "depth_evidence", "features": options.features, "size": options.size,
                "summary": summary(cases), "cases": cases,
            })  # fmt: skip
            if options.json is not None:
                options.json.write_text(document + "\n", encoding="utf-8")
    print(document)


if __name__ == "__main__":
    main()
