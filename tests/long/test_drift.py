"""The estimate of the drift: none where all measurements agree, and larger the more they differ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lite3r_cli.long.drift import DriftEstimate
from lite3r_cli.scene import geometry
from lite3r_cli.scene.posed_view import View

SIZE, STEP = 9, 6  # views of a chunk, and from one chunk to the next


def street(factor: float = 1.0, rng: np.random.Generator | None = None) -> list[View]:
    """Views of a wall beside the path; `factor` is how much too large the depth is at the end of the chunk."""
    K = np.array([[60.0, 0, 31], [0, 60.0, 23], [0, 0, 1]])
    views = []
    for k in range(SIZE):
        depth = np.full((46, 62), 3.0, np.float32) + np.linspace(0, 1, 62, dtype=np.float32)
        depth *= np.float32(1 + (factor - 1) * k / (SIZE - 1))
        pose = np.c_[np.eye(3), [-0.5 * k, 0, 0]]
        if rng is not None:
            pose = np.c_[_small_turn(rng), pose[:, 3]]
        views.append(View(f"{k}.jpg", 62, 46, K, pose, depth, np.ones_like(depth)))
    return views


def _small_turn(rng: np.random.Generator) -> np.ndarray:
    q = np.append(rng.normal(0, 0.01, 3), 1.0)
    return geometry.matrix_from_quaternion((q / np.linalg.norm(q))[None])[0]


def estimate(chunks: list[list[View]]) -> float | None:
    drift = DriftEstimate()
    for k, chunk in enumerate(chunks):
        before = chunks[k - 1][STEP:] if k else []
        drift.add(np.stack([v.cam_from_world for v in chunk]), before, chunk[: SIZE - STEP])
    return drift.percent


def test_disagreement_of_scale_and_of_rotation_is_drift():
    rng = np.random.default_rng(0)
    assert estimate([street()]) is None
    exact, scaled, more = (estimate([street(f) for _ in range(6)]) for f in (1.0, 1.06, 1.12))
    turned = estimate([street(1.0, rng) for _ in range(6)])
    assert exact is not None and scaled is not None and more is not None and turned is not None
    assert exact < 0.01 and turned > 0.05 and 0.1 < scaled < more < 2.2 * scaled


def test_chunks_that_do_not_fit_and_a_camera_that_rests_have_no_drift():
    wrong = [replace(v, depth=np.random.default_rng(1).uniform(0.1, 40, v.depth.shape)) for v in street()]
    assert estimate([street(), wrong]) is None
    rests = [replace(v, cam_from_world=np.eye(3, 4)) for v in street()]
    assert estimate([rests, rests]) is None or estimate([rests, rests]) == pytest.approx(0)
