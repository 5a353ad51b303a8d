"""Views of 360° pictures are adjusted as rigs: one pose a picture, turns as they were cut."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from lite3r_cli.refine import bundle
from lite3r_cli.refine.lens import start_lenses
from lite3r_cli.refine.matching import Matches, predicted_cameras, verified
from lite3r_cli.refine.pairing import apart
from lite3r_cli.refine.refine_config import RefineConfig
from lite3r_cli.refine.search import Search
from lite3r_cli.refine.verdicts import by_rig, positioned
from lite3r_cli.scene import geometry
from lite3r_cli.scene.facing import VIEWS, Facing
from lite3r_cli.scene.posed_view import View

pytest.importorskip("pycolmap")
SIDE = 400


def scene(folder, pictures: int = 4, points: int = 500, spread: float = 1.0) -> tuple[list[View], list[View], Matches]:
    """Truth, a rough prediction, and matches of 360° pictures of points all around; one picture has lost a view. The
    pictures stand half a metre apart, times `spread`.
    """
    rng = np.random.default_rng(3)
    world = rng.uniform([-5, -2, -5], [5, 2, 5], (points, 3))
    world = world[np.linalg.norm(world[:, [0, 2]], axis=1) > 2]
    truth, start, keypoints, seen = [], [], [], []
    for p in range(pictures):
        turn = cv2.Rodrigues(np.array([0.02, 0.4 * p, -0.03]))[0]
        pose = np.column_stack([turn, -turn @ (spread * np.array([0.5 * p - 0.8, 0.1 * p, 0.3 * (p % 2)]))])
        for number in range(VIEWS):
            if (p, number) == (2, 0):
                continue
            facing = Facing(f"{p}.jpg", number, SIDE)
            mine = geometry.compose(np.column_stack([facing.turn, np.zeros(3)]), pose)
            pixel, z = geometry.project(world, facing.K, mine)
            pixel = pixel + 0.2 * rng.normal(size=pixel.shape)
            seen.append((z > 0.2) & (pixel >= 0).all(axis=1) & (pixel < SIDE).all(axis=1))
            keypoints.append(np.where(seen[-1][:, None], pixel, 0.0))
            view = View(f"{p}-{number}.jpg", SIDE, SIDE, facing.K, mine, facing=facing)
            off = cv2.Rodrigues(np.radians(3) * rng.normal(size=3) / 3**0.5)[0]
            rough = geometry.compose(np.column_stack([off, 0.05 * spread * rng.normal(size=3)]), mine)
            truth.append(view)
            start.append(replace(view, cam_from_world=rough, depth=np.full((40, 40), 3.0, np.float32)))
    pairs = apart(
        [view.facing for view in truth], {(i, j) for i in range(len(truth)) for j in range(i + 1, len(truth))}
    )
    raw = {}
    for i, j in pairs:
        both = np.flatnonzero(seen[i] & seen[j])
        if len(both):
            raw[i, j] = np.stack([both, both], axis=1)
    return truth, start, Matches([(SIDE, SIDE)] * len(truth), keypoints, {}, folder, raw)


def test_a_rig_is_adjusted_as_one(tmp_path):
    truth, start, matches = scene(tmp_path)
    assert not any(truth[i].facing.picture == truth[j].facing.picture for i, j in matches.raw)
    config = RefineConfig(fixed_focal=tuple(range(len(truth))))
    lenses = start_lenses(start, matches.sizes, config)
    assert len(lenses.lenses) == VIEWS and all(lens.fixed for lens in lenses.lenses)
    matches = verified(matches, predicted_cameras(start, matches.sizes), config)
    found = Search(start, matches, config, lenses).run()
    assert found is not None and sorted(found.hypothesis.poses) == list(range(len(truth)))
    poses = np.stack([found.hypothesis.poses[i] for i in range(len(truth))])
    true = np.stack([view.cam_from_world for view in truth])
    for i in range(len(truth)):
        for j in range(i):
            between, expected = (geometry.relative_pose(p[j], p[i]) for p in (poses, true))
            turn = geometry.rotation_angle(between[:, :3] @ expected[:, :3].T)
            if truth[i].facing.picture == truth[j].facing.picture:
                assert turn < 1e-6 and np.linalg.norm(between[:, 3]) < 1e-6  # tied, not only near
            else:
                assert np.degrees(turn) < 0.3


@pytest.mark.parametrize(("spread", "enough"), [(1.0, True), (0.03, False)])
def test_pictures_from_nearly_one_place_have_rotations_and_no_positions(spread, enough, tmp_path):
    truth, start, matches = scene(tmp_path, spread=spread)
    config = RefineConfig(fixed_focal=tuple(range(len(truth))))
    matches = verified(matches, predicted_cameras(start, matches.sizes), config)
    found = Search(start, matches, config).run()
    assert found is not None
    parallax, error = bundle.usual_angle(found.hypothesis)
    assert positioned(parallax, error) is enough and (parallax > config.min_angle_deg) is enough
    last = len(truth) - 1
    between = geometry.relative_pose(found.hypothesis.poses[0], found.hypothesis.poses[last])
    expected = geometry.relative_pose(truth[0].cam_from_world, truth[last].cam_from_world)
    assert np.degrees(geometry.rotation_angle(between[:, :3] @ expected[:, :3].T)) < 0.3


def test_incremental_mapping_takes_rigs(tmp_path):
    truth, start, matches = scene(tmp_path, pictures=3)
    config = RefineConfig(fixed_focal=tuple(range(len(truth))))
    matches = verified(matches, predicted_cameras(start, matches.sizes), config)
    made = bundle.incremental(Search(start, matches, config, start_lenses(start, matches.sizes, config)).workshop)
    assert made is not None and len(made.poses) == len(truth)
    first, second = (made.poses[i] for i in (0, 1))
    assert np.linalg.norm(geometry.relative_pose(first, second)[:, 3]) < 1e-6


def test_a_view_with_few_points_stands_by_its_rig():
    facings = [Facing("a", 0, 8), Facing("a", 1, 8), None]
    seen, support = by_rig(facings, np.array([200, 0, 30]), np.array([0.9, np.nan, 0.5]))
    assert seen.tolist() == [200, 200, 30] and support.tolist() == [0.9, 0.9, 0.5]
