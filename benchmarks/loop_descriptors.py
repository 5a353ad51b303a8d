"""Descriptors for the search of loops: how often the pictures that a place is matched with have the place in them.

    python benchmarks/loop_descriptors.py WALK … --json loop-descriptors.json [--device cpu]

WALK is a folder with images/ and walk.json (rendered by benchmarks/long_walk.py --keep). Places are every fourth
picture. Those that come back, within `NEAR` metres and `TURNED` degrees, are asked for the pictures that long/ would
match with them feature by feature. Told are the share that has a right one among them, and among all asked ones the
share of right ones.

Forms: residuals of SIFT features to words (as used, and without one part each), and tokens of the blocks of `mini` that
see one picture only: their mean, then signed roots, then whitened without the first component (SwiftVGGT).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from lite3r_cli.config import PredictConfig  # noqa: E402
from lite3r_cli.io.images import ImageSet, discover  # noqa: E402
from lite3r_cli.layers.buckets import run_each  # noqa: E402
from lite3r_cli.long.loop_search import centred, look_at, residuals, vocabulary  # noqa: E402
from lite3r_cli.pipelines.predict import Predictor  # noqa: E402
from lite3r_cli.scene import geometry  # noqa: E402
from lite3r_cli.world.ties import keypoints_of  # noqa: E402

EVERY, ASKED, APART = 4, 6, 40  # pictures; matched with each place; least distance in order
NEAR, TURNED = 4.0, 30.0  # metres, degrees
COMPONENTS = 32  # that whitening keeps


def main() -> None:
    options = _options()
    predictor = Predictor(PredictConfig(model="mini", device=options.device))
    rows = []
    for walk in options.walks:
        images = discover([walk / "images"])
        places = list(range(0, len(images), EVERY))
        right = _right(walk, places)
        for form, vectors in forms(images, places, predictor).items():
            rows.append({"walk": walk.name, "frames": len(images), "form": form, **score(vectors, places, right)})
            print(json.dumps(rows[-1]), flush=True)
    document = {"benchmark": "loop descriptors", "model": "mini", "rows": rows}
    options.json.write_text(json.dumps(document, indent=1) + "\n")


def score(vectors: np.ndarray, places: list[int], right: np.ndarray) -> dict[str, float | int]:
    """Of unit vectors (N, D)."""
    likeness = vectors @ vectors.T
    likeness[np.abs(np.subtract.outer(places, places)) < APART] = -np.inf
    coming_back = np.flatnonzero(right.any(1))
    asked = np.argsort(-likeness, axis=1, kind="stable")[:, :ASKED]
    hits = np.stack([right[k, asked[k]] for k in coming_back])
    found, share = float(hits.any(1).mean()), float(hits.mean())
    return {"places": len(coming_back), "found": round(found, 3), "right": round(share, 3)}


def forms(images: ImageSet, places: list[int], predictor: Predictor) -> dict[str, np.ndarray]:
    """Unit vectors (N, D) of all places for each form."""
    features = [keypoints_of(look_at(images.read(i))) for i in places]
    words = vocabulary(features)
    assert words is not None
    roots = residuals(features, words)
    tokens = torch.cat([_tokens(predictor, images, i) for i in places]).float().cpu().numpy()  # (N, P, C)
    mean = _unit((tokens / np.linalg.norm(tokens, axis=2, keepdims=True)).mean(1))
    signed = _unit(np.sign(mean) * np.sqrt(np.abs(mean)))
    return {
        "SIFT residuals, roots, centred (used)": centred(roots),
        "SIFT residuals, roots": _unit(roots),
        "SIFT residuals, centred": centred(np.sign(roots) * roots**2),
        "tokens, mean": mean,
        "tokens, mean, roots": signed,
        "tokens, mean, roots, whitened without the first component": _whitened(signed),
    }


@torch.inference_mode()
def _tokens(predictor: Predictor, images: ImageSet, i: int) -> torch.Tensor:
    """(1, P, C) after the blocks that see one picture only."""
    network = predictor.backbone
    rgb = predictor.read(images, indices=[i]).inputs[0].rgb
    picture = torch.from_numpy(np.ascontiguousarray(rgb)).to(predictor.runtime.torch_device).float() / 255
    tokens = network.embed(picture.permute(2, 0, 1)[None, None])
    for block in network.blocks[: network.config.alternate_from]:
        (tokens,) = run_each(block, [tokens], [None], None)
    return tokens[0, :, 1:]


def _whitened(vectors: np.ndarray) -> np.ndarray:
    centred_ones = vectors - vectors.mean(0)
    left, sizes, _ = np.linalg.svd(centred_ones, full_matrices=False)
    return _unit(left[:, 1 : 1 + min(COMPONENTS, int((sizes > 1e-6).sum()) - 1)])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _right(walk: Path, places: list[int]) -> np.ndarray:
    """(N, N) bool: both pictures show one place, and are far apart in order."""
    truth = json.loads((walk / "walk.json").read_text())["cam_from_world"]
    poses = np.stack([truth[f"{i:05d}.jpg"] for i in places])
    centres = geometry.camera_centres(poses)
    away = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    turns = geometry.rotation_angle(poses[:, None, :, :3] @ poses[None, :, :, :3].transpose(0, 1, 3, 2))
    far = np.abs(np.subtract.outer(places, places)) >= APART
    result: np.ndarray = (away < NEAR) & (np.degrees(turns) < TURNED) & far
    return result


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("walks", type=Path, nargs="+")
    parser.add_argument("--json", type=Path, default=Path("loop-descriptors.json"))
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    return options


if __name__ == "__main__":
    main()
