"""Known positions count beside the matches: a strip that its matches leave loose is held straight."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from lite3r_cli.refine.lens import start_lenses
from lite3r_cli.refine.matching import Matches, predicted_cameras, verified
from lite3r_cli.refine.positions import tie_to_positions
from lite3r_cli.refine.refine_config import RefineConfig
from lite3r_cli.refine.search import Search
from lite3r_cli.scene import geometry
from lite3r_cli.scene.posed_view import View
from lite3r_cli.scene.priors import PositionPrior

pycolmap = pytest.importorskip("pycolmap")
SIZE, FOCAL, COUNT = (320, 240), 280.0, 11
K = np.array([[FOCAL, 0, SIZE[0] / 2], [0, FOCAL, SIZE[1] / 2], [0, 0, 1.0]])
SIGMA = np.array([1.0, 1.0, 2.0])  # metres


@pytest.fixture(scope="module")
def strip(tmp_path_factory):
    """A flight of 11 pictures in a line whose keypoints drift: true centres (11, 3), matches and what they make."""
    rng = np.random.default_rng(1)
    world = np.stack([rng.uniform(-40, 240, 300), rng.uniform(-30, 30, 300), rng.uniform(0, 20, 300)], axis=1)
    views, keypoints, seen = [], [], []
    for i in range(COUNT):
        turn = cv2.Rodrigues(np.radians(2) * rng.normal(size=3))[0] @ np.array([[0, -1.0, 0], [-1, 0, 0], [0, 0, -1]])
        pose = np.column_stack([turn, -turn @ [20.0 * i, rng.normal(), 60 + rng.normal()]])
        pixel, z = geometry.project(world, K, pose)
        flat = (pixel - K[:2, 2]) / FOCAL
        # a lens that is no pinhole, in a way that no model of lenses tells: the strip curls
        pixel = (
            pixel + np.stack([0.02 * flat[:, 0] ** 2, 0 * flat[:, 0]], 1) * FOCAL + 0.5 * rng.normal(size=flat.shape)
        )
        seen.append((z > 1) & (pixel >= 0).all(axis=1) & (pixel < SIZE).all(axis=1))
        keypoints.append(np.where(seen[-1][:, None], pixel, 0.0))
        views.append(View(f"{i}.jpg", *SIZE, K, pose, np.full((24, 32), 50.0, np.float32)))
    raw = {}
    for i in range(COUNT):
        for j in range(i + 1, min(COUNT, i + 3)):
            both = np.flatnonzero(seen[i] & seen[j])
            raw[i, j] = np.stack([both, both], axis=1)
    matches = Matches([SIZE] * COUNT, keypoints, {}, tmp_path_factory.mktemp("strip"), raw)
    config = RefineConfig(camera_model="pinhole", intrinsics="shared", fixed_focal=tuple(range(COUNT)))
    small = [replace(v, cam_from_world=v.cam_from_world * [1, 1, 1, 0.01], depth=v.depth * 0.01) for v in views]
    matches = verified(matches, predicted_cameras(small, matches.sizes), config)
    found = Search(small, matches, config, start_lenses(small, matches.sizes, config)).run()
    assert found is not None and len(found.hypothesis.poses) == COUNT
    return geometry.camera_centres(np.stack([v.cam_from_world for v in views])), found, config


def off(found, centres: np.ndarray) -> float:
    """Metres between cameras and truth after the best similarity, root mean square."""
    mine = geometry.camera_centres(np.stack([found.poses[i] for i in range(COUNT)]))
    best = pycolmap.estimate_sim3d(mine, centres).matrix()
    return float(np.sqrt(((mine @ best[:, :3].T + best[:, 3] - centres) ** 2).sum(axis=1).mean()))


def fixes(centres: np.ndarray) -> list[PositionPrior | None]:
    noise = np.random.default_rng(2).normal(size=centres.shape) * SIGMA
    return [PositionPrior(place, SIGMA) for place in centres + noise]


def test_positions_straighten_a_strip_and_a_wild_one_is_named(strip):
    centres, found, config = strip
    positions = fixes(centres)
    positions[3] = PositionPrior(centres[3] + [0, 200, 0], SIGMA)
    positions[8] = None
    held, tied = tie_to_positions(found.hypothesis, found.matches, positions, config)
    assert tied.taken and tied.left_out == [3] and (tied.used, tied.of) == (9, 10)
    assert off(held, centres) < 0.7 * off(found.hypothesis, centres)
    mine = geometry.camera_centres(np.stack([held.poses[i] for i in range(COUNT)]))
    assert np.abs(mine - centres).max() < 3.0  # metres in the positions' own frame


def test_heights_may_be_unknown(strip):
    centres, found, config = strip
    positions = [PositionPrior(p.position * [1, 1, np.nan], p.sigma * [1, 1, np.inf]) for p in fixes(centres)]
    held, tied = tie_to_positions(found.hypothesis, found.matches, positions, config)
    assert tied.taken and np.isfinite(np.stack(list(held.poses.values()))).all()
    assert off(held, centres) < off(found.hypothesis, centres)


def test_positions_that_fit_nothing_change_nothing(strip):
    centres, found, config = strip
    wrong = np.random.default_rng(0).permutation(centres) * [1, 30, 1]
    held, tied = tie_to_positions(found.hypothesis, found.matches, [PositionPrior(p, SIGMA) for p in wrong], config)
    assert held is found.hypothesis and not tied.taken and tied.why
