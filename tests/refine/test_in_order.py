"""Pictures in the order of a walk: planes leave two poses, pairs a period apart look like one place."""

from __future__ import annotations

import numpy as np
import pytest
from test_search import ring

from lite3r_cli.refine import bundle, in_order, rotations
from lite3r_cli.refine.backend import quiet_pycolmap
from lite3r_cli.refine.bundle import GLOBAL, PREDICTED, Hypothesis
from lite3r_cli.refine.evidence import Evidence
from lite3r_cli.refine.in_order import PATH
from lite3r_cli.refine.lens import Lens, Lenses
from lite3r_cli.refine.matching import Matches, verified
from lite3r_cli.refine.observations import Tracks
from lite3r_cli.refine.refine_config import RefineConfig
from lite3r_cli.refine.relative_poses import pose_choices
from lite3r_cli.refine.search import Search
from lite3r_cli.refine.steady_steps import steadiest_steps
from lite3r_cli.scene import geometry

LENS = Lens("SIMPLE_PINHOLE", (400.0, 260.0, 200.0), (520, 400))
K = np.array([[400.0, 0, 260], [0, 400, 200], [0, 0, 1]])
NOTHING = Tracks(*(np.zeros(0, np.int64) for _ in range(3)))


def test_of_two_rotations_the_one_that_closes_cycles_counts():
    true, rng = ring(11), np.random.default_rng(4)
    relative, weights = {}, {}
    for i in range(11):
        for step in (1, 2, 3):
            a, b = sorted((i, (i + step) % 11))
            twin = rotations.rotation_from_vector(rng.normal(size=(1, 3)) * 0.3)[0]
            right = true[b] @ true[a].T
            turns = [twin @ right, right] if (a + b) % 3 == 0 else [right, twin @ right]
            relative[a, b], weights[a, b] = np.stack(turns), 100.0
    averaged, chosen = rotations.average_choices(11, relative, weights)
    assert max(averaged.residuals.values()) < np.radians(0.1)
    assert all(chosen[a, b] == ((a + b) % 3 == 0) for a, b in chosen)


def poses_along(centres: np.ndarray) -> list[np.ndarray]:
    return [np.column_stack([np.eye(3), -centre]) for centre in centres]


def seen(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    pixel, depth = geometry.project(points, K, pose)
    return np.where(
        (depth > 0.5)[:, None] & (pixel > 0).all(-1, keepdims=True) & (pixel < [520, 400]).all(-1, keepdims=True),
        pixel,
        np.nan,
    )


def matched(keypoints: list[np.ndarray], raw: dict, folder) -> Matches:
    matches = Matches([LENS.size] * len(keypoints), keypoints, {}, folder, raw)
    return verified(matches, [LENS.camera(i + 1) for i in range(len(keypoints))], RefineConfig())


@pytest.fixture
def walk(tmp_path):
    """Ten cameras a metre apart over ground that repeats every two metres, with boxes beside the way. A point of the
    ground matches the nearest of its copies: pictures two metres apart match as if they stood at one place."""
    rng = np.random.default_rng(5)
    poses = poses_along(np.array([[0.02 * (i % 3), 0, 1.0 * i] for i in range(10)]))
    boxes = np.column_stack(
        [rng.choice([-4, 4], 120) + rng.normal(0, 0.8, 120), rng.uniform(-2, 1.6, 120), rng.uniform(3, 22, 120)]
    )
    tile = np.column_stack([rng.uniform(-4, 4, 160), np.full(160, 1.6), rng.uniform(0, 2, 160)])
    ground = np.concatenate([tile + [0, 0, 2 * k] for k in range(1, 13)])
    everything = np.concatenate([boxes, ground])
    pixels = [seen(everything, pose) + rng.normal(0, 0.1, (len(everything), 2)) for pose in poses]
    rows = [np.flatnonzero(np.isfinite(pixel[:, 0])) for pixel in pixels]
    place = []
    for visible in rows:
        found = np.full(len(everything), -1)
        found[visible] = np.arange(len(visible))
        place.append(found)
    raw = {}
    for i in range(10):
        for j in range(i + 1, min(i + 4, 10)):
            ids = rows[i]
            shift = (j - i) // 2 * len(tile) if (j - i) % 2 == 0 else 0
            there = np.where(ids < len(boxes), ids, ids + shift)
            inside = there < len(everything)
            if shift:  # the look-alike ground is all that such a pair shows
                inside &= ids >= len(boxes)
            second = np.where(inside, place[j][np.minimum(there, len(everything) - 1)], -1)
            raw[i, j] = np.column_stack([place[i][ids], second])[second >= 0]
    keypoints = [pixel[visible] for pixel, visible in zip(pixels, rows, strict=True)]
    return matched(keypoints, raw, tmp_path)


def test_a_plane_leaves_its_true_pose_among_the_choices(tmp_path):
    pytest.importorskip("pycolmap")
    rng = np.random.default_rng(6)
    points = np.column_stack([rng.uniform(-3, 3, 200), rng.uniform(-2, 2, 200), np.zeros(200)])
    points[:, 2] = 6 + 0.5 * points[:, 0]
    turn = rotations.rotation_from_vector(np.array([[0.05, -0.2, 0.02]]))[0]
    true = np.column_stack([turn, [0.8, 0.1, 0.3]])
    keypoints = [geometry.project(points, K, pose)[0] for pose in (np.eye(3, 4), true)]
    matches = matched(keypoints, {(0, 1): np.stack([np.arange(200)] * 2, axis=1)}, tmp_path)
    choices = pose_choices(matches, Lenses((LENS,), (0, 0)), RefineConfig())[0, 1].poses
    assert len(choices) == 2
    turns = geometry.rotation_angle(choices[:, :, :3] @ true[:, :3].T)
    ways = geometry.vector_angle(choices[:, :, 3], true[None, :, 3])
    assert np.maximum(turns, ways).min() < 1e-3 < 0.05 < np.maximum(turns, ways).max()


def test_pairs_that_a_pavement_takes_for_one_place_contradict_the_chain(walk):
    pytest.importorskip("pycolmap")
    lenses, config = Lenses((LENS,), (0,) * 10), RefineConfig()
    with quiet_pycolmap():
        posed = in_order.posed_pairs(walk, lenses, [], config)
        chain = [(i, i + 1) for i in range(9)]
        mapped = bundle.by_global_mapping(in_order.workshop("chain", posed, chain, NOTHING, lenses, config))
    look_alike = {pair for pair in posed.pairs if pair[1] - pair[0] == 2}
    true = {pair for pair in posed.pairs if pair[1] - pair[0] == 3}
    assert len(look_alike) > 3 and len(true) > 3
    assert set(in_order.agreeing_with(mapped, posed)) == true


def steps_of(right: int, back: int, folder) -> tuple[Matches, np.ndarray]:
    """Four cameras that go a metre ahead each. Of the matches of the middle two, `right` say so, and `back` say that
    the camera went a metre back."""
    rng = np.random.default_rng(7)
    turns = rotations.rotation_from_vector(np.array([[0, 0.05 * i, 0] for i in range(4)]))
    keypoints: list[list[np.ndarray]] = [[] for _ in range(4)]
    raw = {}
    for i in range(3):
        rows = []
        for count, way in ((right, 1.0), (back, -1.0)) if i == 1 else ((120, 1.0),):
            points = np.column_stack(
                [rng.uniform(-4, 4, count), rng.uniform(-2, 1.6, count), rng.uniform(4, 12, count)]
            )
            poses = [
                np.column_stack([turns[i], np.zeros(3)]),
                np.column_stack([turns[i + 1], -turns[i + 1] @ [0, 0, way]]),
            ]
            for k, pose in enumerate(poses):
                keypoints[i + k].append(geometry.project(points, K, pose)[0] + rng.normal(0, 0.1, (count, 2)))
            rows.append([sum(map(len, keypoints[i + k])) - count + np.arange(count) for k in range(2)])
        raw[i, i + 1] = np.concatenate(rows, axis=1).T
    return matched([np.concatenate(each) for each in keypoints], raw, folder), turns


@pytest.mark.parametrize(("right", "back", "ahead"), [(50, 60, True), (60, 50, True), (15, 160, False)])
def test_of_the_steps_that_matches_allow_the_one_back_is_not_taken(right, back, ahead, tmp_path):
    pytest.importorskip("pycolmap")
    matches, turns = steps_of(right, back, tmp_path)
    chosen = steadiest_steps(turns, sorted(matches.pairs), matches, Lenses((LENS,), (0,) * 4), RefineConfig())
    assert sorted(chosen) == [(0, 1), (1, 2), (2, 3)]
    for (i, j), pose in chosen.items():
        way = -turns[j].T @ pose[:, 3]
        assert np.allclose(way, [0, 0, 1 if ahead or i != 1 else -1], atol=0.05)


def test_neighbours_that_do_not_match_are_no_walk(walk):
    del walk.pairs[4, 5]
    assert in_order.in_order(walk, NOTHING, Lenses((LENS,), (0,) * 10), [], RefineConfig()) is None


@pytest.mark.parametrize(
    ("explained", "closely", "placed", "enough"),
    [
        ((0.72, 0.81, 0.79), (0.5, 0.7, 0.6), 3, True),
        ((0.72, 0.81, 0.805), (0.5, 0.7, 0.6), 3, False),  # not clearly more
        ((0.72, 0.81, 0.79), (0.5, 0.7, 0.75), 3, False),  # less closely
        ((0.72, 0.81, 0.79), (0.5, 0.7, 0.6), 2, False),  # a view is missing
        ((0.72, 0.9), (0.5, 0.7), 3, True),  # in order is beyond doubt
        ((0.72, 0.81), (0.5, 0.7), 3, False),
        ((0.99,), (0.9,), 3, True),  # so is the prediction
    ],
)
def test_incremental_mapping_is_left_out_where_mapping_in_order_is_better(explained, closely, placed, enough):
    paths = (PREDICTED, PATH, GLOBAL)[: len(explained)]
    poses = {path: dict.fromkeys(range(placed if path == PATH else 3), np.eye(3, 4)) for path in paths}
    made = [
        (Hypothesis(path, poses[path], None), Evidence(share, 1.0, np.full(3, share)))
        for path, share in zip(paths, explained, strict=True)
    ]
    search = Search.__new__(Search)
    search.views, search.config = [None] * 3, RefineConfig()
    search._closely = lambda found: dict(zip(paths, closely, strict=True))[found.path]
    assert search._enough(made) is enough
